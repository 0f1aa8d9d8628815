"""Rows of the table: gelu, silu, glu_mlp."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

import fnnet
from fnnet.proof import reference as twin
from tests.call import Call


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


_GLU_EXCUSES = {
    "test_huge_and_tiny": "the product of four arguments overflows",
    "test_nan_and_inf: inf": "inf - inf or 0 inf on the way",
    "test_stored_bytes: (3,)": "for w_down alone autodiff keeps h, the rule a and u",
}


def _glu_of(activation: str) -> Call:
    return Call(
        f"glu_mlp by {activation}",
        fnnet.glu_mlp,
        _glu_mlp,
        shapes=[(8, 2, 4), (4, 6), (4, 6), (6, 3)],
        batch=[0, None, None, None],
        big=[(32, 8, 64), (64, 128), (64, 128), (128, 64)],
        terms=512,
        rounded=4,
        excuses=_GLU_EXCUSES,
        options={"activation": activation},
        twin=lambda *args: twin.glu_mlp_vjp(*args, activation=activation),
        variant=True,
    )


ROWS = [
    Call(
        "gelu",
        fnnet.gelu,
        lambda x: x * _normal_cdf(x),
        shapes=[(8, 6)],
        batch=[0],
        layouts=[(P("d", "m"),)],
        big=[(512, 256)],
        terms=64,
        twin=twin.gelu_vjp,
        excuses={
            "test_second_order_and_scan_in_shard_map": "JAX 0.12 cannot differentiate erfc, which "
            "gelu's backward pass holds, in shard_map with check_vma=True"
        },
    ),
    Call(
        "gelu by tanh",
        fnnet.gelu,
        lambda x, approximate: jax.nn.gelu(x, approximate=approximate),
        shapes=[(8, 6)],
        batch=[0],
        big=[(512, 256)],
        terms=64,
        options={"approximate": True},
        excuses={
            "test_nan_and_inf: inf": "the slope there is 1 or 0, where autodiff has inf times 0",
        },
        twin=lambda x, g: twin.gelu_vjp(x, g, approximate=True),
        variant=True,
    ),
    Call(
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
    Call(
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
        excuses=_GLU_EXCUSES,
        twin=twin.glu_mlp_vjp,
    ),
    *map(_glu_of, ("gelu", "gelu_tanh", "relu")),
]
