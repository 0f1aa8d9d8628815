"""Rows of the table: gelu, silu, glu_mlp."""

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


_ACTIVATIONS = {
    "silu": lambda x: x * jax.nn.sigmoid(x),
    "gelu": lambda x: x * _normal_cdf(x),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
}


def _glu_mlp(x: Any, w_gate: Any, w_up: Any, w_down: Any, *, activation: str = "silu") -> Any:
    a, u = (jnp.einsum("...i,ik->...k", x, w) for w in (w_gate, w_up))
    return jnp.einsum("...k,kj->...j", _ACTIVATIONS[activation](a) * u, w_down)


def _glu_of(activation: str) -> Case:
    return Case(
        f"glu_mlp by {activation}",
        fnnet.glu_mlp,
        _glu_mlp,
        shapes=[(8, 2, 4), (4, 6), (4, 6), (6, 3)],
        batch=[0, None, None, None],
        big=[(32, 8, 64), (64, 128), (64, 128), (128, 64)],
        terms=512,
        rounded=4,
        any_scale=False,  # the product of four arguments overflows
        infinities=False,
        stores_more=[(3,)],  # for w_down alone autodiff keeps h, the rule a and u
        options={"activation": activation},
        twin=lambda *args: twin.glu_mlp_vjp(*args, activation=activation),
        variant=True,
    )


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
        infinities=False,  # the slope there is 1 or 0, where autodiff has inf times 0
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
    Case(
        "glu_mlp",
        fnnet.glu_mlp,
        _glu_mlp,
        shapes=[(8, 4), (4, 6), (4, 6), (6, 2)],
        batch=[0, None, None, None],
        layouts=[
            (P("d"), P(), P(), P()),
            (P("d"), P(None, "m"), P(None, "m"), P()),
        ],
        big=[(256, 64), (64, 128), (64, 128), (128, 64)],
        terms=512,
        rounded=4,
        any_scale=False,  # the product of four arguments overflows
        infinities=False,
        stores_more=[(3,)],  # for w_down alone autodiff keeps h, the rule a and u
        twin=twin.glu_mlp_vjp,
    ),
    *map(_glu_of, ("gelu", "gelu_tanh", "relu")),
]
