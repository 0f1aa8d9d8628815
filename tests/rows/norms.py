"""Rows of the table: layer_norm, rms_norm, norm."""

from __future__ import annotations

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
