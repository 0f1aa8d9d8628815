"""Rows of the table: gelu, silu."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

import fnnet
from fnnet.proof import reference as twin
from tests.case import Case


@jax.custom_jvp
def _normal_cdf(x: Any) -> Any:
    """By erfc, whose own derivative JAX 0.12 cannot take in shard_map with check_vma=True."""
    return 0.5 * jax.lax.erfc(-x * np.sqrt(0.5).astype(x.dtype))


_normal_cdf.defjvps(lambda t, ans, x: t * jnp.exp(-0.5 * x * x) * float(1 / np.sqrt(2 * np.pi)))


ROWS = [
    Case(
        "gelu",
        fnnet.gelu,
        lambda x: x * _normal_cdf(x),
        shapes=[(8, 6)],
        batch=[0],
        layouts=[(P("d", "m"),)],
        big=[(512, 256)],
        terms=64,
        twin=twin.gelu_vjp,
    ),
    Case(
        "gelu by tanh",
        fnnet.gelu,
        lambda x, approximate: jax.nn.gelu(x, approximate=approximate),
        shapes=[(8, 6)],
        batch=[0],
        big=[(512, 256)],
        terms=64,
        options={"approximate": True},
        twin=lambda x, g: twin.gelu_vjp(x, g, approximate=True),
        variant=True,
    ),
    Case(
        "silu",
        fnnet.silu,
        lambda x: x * jax.nn.sigmoid(x),
        shapes=[(8, 6)],
        batch=[0],
        layouts=[(P("d", "m"),)],
        big=[(512, 256)],
        terms=64,
        twin=twin.silu_vjp,
    ),
]
