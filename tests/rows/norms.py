"""Rows of the table: layer_norm, rms_norm."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

import fnnet
from fnnet.proof import reference as twin
from tests.case import Case


def _layer_norm(x: Any, scale: Any = None, shift: Any = None, eps: float = 1e-5) -> Any:
    c = x - x.mean(-1, keepdims=True)
    y = c / jnp.sqrt((c * c).mean(-1, keepdims=True) + eps)
    y = y if scale is None else y * jnp.broadcast_to(scale, y.shape)
    return y if shift is None else y + jnp.broadcast_to(shift, y.shape)


def _rms_norm(x: Any, scale: Any = None, eps: float = 1e-6) -> Any:
    y = x / jnp.sqrt((x * x).mean(-1, keepdims=True) + eps)
    return y if scale is None else y * jnp.broadcast_to(scale, y.shape)


ROWS = [
    Case(
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
    Case(
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
    Case(
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
]
