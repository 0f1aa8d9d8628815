"""Rows of the table: layer_norm, rms_norm, batch_norm, group_norm, norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

import fnnet
from fnnet.proof import reference as twin
from tests.call import Call


def _layer_norm(x: Any, scale: Any = None, shift: Any = None, eps: float = 1e-5) -> Any:
    c = x - x.mean(-1, keepdims=True)
    y = c / jnp.sqrt((c * c).mean(-1, keepdims=True) + eps)
    y = y if scale is None else y * jnp.broadcast_to(scale, y.shape)
    return y if shift is None else y + jnp.broadcast_to(shift, y.shape)


def _rms_norm(x: Any, scale: Any = None, eps: float = 1e-6) -> Any:
    y = x / jnp.sqrt((x * x).mean(-1, keepdims=True) + eps)
    return y if scale is None else y * jnp.broadcast_to(scale, y.shape)


def _standardised(x: Any, axes: Any, eps: float) -> Any:
    c = x - x.mean(axes, keepdims=True)
    return c / jnp.sqrt((c * c).mean(axes, keepdims=True) + eps)


def _batch_norm(
    x: Any, scale: Any = None, shift: Any = None, *, axis: int = -1, eps: float = 1e-5
) -> Any:
    others = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
    y = jnp.moveaxis(_standardised(x, others, eps), axis, -1)
    y = y if scale is None else y * jnp.broadcast_to(scale, y.shape)
    y = y if shift is None else y + jnp.broadcast_to(shift, y.shape)
    return jnp.moveaxis(y, -1, axis)


def _group_norm(
    x: Any, scale: Any = None, shift: Any = None, *, groups: int, eps: float = 1e-5
) -> Any:
    grouped = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    axes = (*range(1, x.ndim - 1), x.ndim)
    y = _standardised(grouped, axes, eps).reshape(x.shape)
    y = y if scale is None else y * jnp.broadcast_to(scale, y.shape)
    return y if shift is None else y + jnp.broadcast_to(shift, y.shape)


def _in_groups(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f` of arrays alone, in their order."""
    return lambda x, scale=None, shift=None: f(x, scale=scale, shift=shift)


def _norm(x: Any, ord: Any = 2, axis: Any = None, keepdims: bool = False) -> Any:
    magnitude = x * jnp.sign(x)  # autodiff of jnp.abs has a slope of 1 at 0, and of -1 at NaN
    if ord == jnp.inf:
        return jnp.max(magnitude, axis, keepdims=keepdims, initial=0)
    if ord == 1:
        return jnp.sum(magnitude, axis, keepdims=keepdims)
    if ord in (2, "fro"):
        return jnp.sqrt(jnp.sum(x * x, axis, keepdims=keepdims))
    return jnp.sum(magnitude**ord, axis, keepdims=keepdims) ** (1 / ord)


def _norm_vjp(*options: Any) -> Any:
    return lambda x, g: twin.norm_vjp(x, g, *options[:2], keepdims=options[2:] == (True,))


# sums of powers of entries, as anyone writes them
_POWERS = {"test_huge_and_tiny": "the plain form's powers overflow and vanish"}


def _norm_row(name: str, *options: Any, shape: Any, big: Any, **more: Any) -> Call:
    """A further row of norm, with other options."""
    return Call(
        name,
        fnnet.norm,
        _norm,
        shapes=[shape],
        big=[big],
        terms=256,
        options=dict(zip(("ord", "axis", "keepdims"), options, strict=False)),
        twin=_norm_vjp(*options),
        variant=True,
        **more,
    )


ROWS = [
    Call(
        "layer_norm",
        fnnet.layer_norm,
        _layer_norm,
        shapes=[(8, 6), (6,), (6,)],
        batch=[0, None, None],
        layouts=[(P("d"), P(), P()), (P("d", "m"), P("m"), P("m"))],
        big=[(512, 256), (256,), (256,)],
        terms=256,
        twin=twin.layer_norm_vjp,
        poisoned=[0],
    ),
    Call(
        "layer_norm without scale and shift",
        fnnet.layer_norm,
        _layer_norm,
        shapes=[(8, 2, 6)],
        batch=[0],
        big=[(64, 8, 256)],
        terms=256,
        options={"eps": 0.1},
        twin=lambda x, g: twin.layer_norm_vjp(x, None, None, g, eps=0.1)[:1],
        variant=True,
    ),
    Call(
        "rms_norm",
        fnnet.rms_norm,
        _rms_norm,
        shapes=[(8, 6), (6,)],
        batch=[0, None],
        layouts=[(P("d"), P()), (P("d", "m"), P("m"))],
        big=[(512, 256), (256,)],
        terms=256,
        twin=twin.rms_norm_vjp,
        poisoned=[0],
    ),
    Call(
        "batch_norm",
        fnnet.batch_norm,
        _batch_norm,
        shapes=[(8, 6), (6,), (6,)],
        batch=[None, None, None],  # all samples have a part in each
        layouts=[(P("d"), P(), P()), (P("d", "m"), P("m"), P("m"))],
        big=[(512, 256), (256,), (256,)],
        terms=512,
        twin=twin.batch_norm_vjp,
        poisoned=[0],
    ),
    Call(
        "batch_norm of channels in the middle, without shift",
        fnnet.batch_norm,
        _batch_norm,
        shapes=[(4, 3, 5), (3,)],
        batch=[None, None],
        big=[(64, 16, 64), (16,)],
        terms=4096,
        options={"axis": 1, "eps": 0.1},
        twin=lambda x, scale, g: twin.batch_norm_vjp(x, scale, None, g, axis=1, eps=0.1)[:2],
        poisoned=[0],
        variant=True,
    ),
    Call(
        "group_norm",
        fnnet.group_norm,
        _group_norm,
        adapt=_in_groups,
        shapes=[(8, 5, 6), (6,), (6,)],
        batch=[0, None, None],
        layouts=[(P("d"), P(), P())],
        big=[(32, 64, 24), (24,), (24,)],
        terms=512,
        options={"groups": 3},
        twin=lambda x, scale, shift, g: twin.group_norm_vjp(x, 3, scale, shift, g),
        poisoned=[0],
    ),
    Call(
        "group_norm of one group, of images, without parameters",
        fnnet.group_norm,
        _group_norm,
        adapt=_in_groups,
        shapes=[(8, 3, 2, 4)],
        batch=[0],
        big=[(32, 8, 8, 32)],
        terms=2048,
        options={"groups": 1, "eps": 0.1},
        twin=lambda x, g: twin.group_norm_vjp(x, 1, None, None, g, eps=0.1)[:1],
        variant=True,
    ),
    Call(
        "norm",
        fnnet.norm,
        _norm,
        shapes=[(8, 6)],
        batch=[0],
        layouts=[(P("d"),), (P("d", "m"),)],
        big=[(512, 256)],
        terms=256,
        options={"axis": -1},
        twin=_norm_vjp(2, -1),
    ),
    # one of no entries has nothing that batches are counted by
    _norm_row("norm of all entries", "fro", shape=(4, 6), batch=[None], big=(512, 256)),
    _norm_row("norm of order 1", 1, 0, shape=(6, 8), batch=[1], big=(256, 512)),
    _norm_row(
        "norm of order 3/2 over two axes, which stay",
        1.5,
        (0, -1),
        True,
        shape=(2, 8, 3),
        batch=[1],
        big=(8, 64, 256),
        excuses=_POWERS,
    ),
    _norm_row("norm of order 3", 3, 1, shape=(8, 6), batch=[0], big=(512, 256), excuses=_POWERS),
    _norm_row(
        "norm of order inf",
        jnp.inf,
        1,
        shape=(8, 6),
        batch=[0],
        big=(512, 256),
        excuses={
            "test_nan_and_inf": "beside a NaN the plain form takes another entry for the largest",
        },
    ),
]
