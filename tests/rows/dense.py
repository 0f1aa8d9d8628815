"""Rows of the table: The chapter's ops: matmul, lin, relu, mse."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

import fnnet
from fnnet.proof import reference as twin
from tests.call import Call


def _lin(x: Any, w: Any, b: Any = None) -> Any:
    y = jnp.einsum("...i,ij->...j", x, w)
    return y if b is None else y + jnp.broadcast_to(b, y.shape)


def _relu(x: Any) -> Any:
    return jax.nn.relu(x)


def _mse(pred: Any, targ: Any) -> Any:
    return jnp.mean((pred.reshape(targ.shape) - targ) ** 2)


def _mse_of_sizes(pred: Any, targ: Any) -> Any:
    return jnp.mean((pred.reshape(targ.shape) + targ) ** 2)


# a weight whole on every device, cut by column, cut by row
_WEIGHTS = (P(), P(None, "m"), P("m", None))


ROWS = [
    Call(
        "lin",
        fnnet.lin,
        _lin,
        shapes=[(8, 6), (6, 4), (4,)],
        batch=[0, None, None],
        layouts=[(P("d"), w, P(None) if i else P()) for i, w in enumerate(_WEIGHTS)],
        big=[(256, 784), (784, 128), (128,)],
        terms=8,
        rounded=1,  # the product, before b is added
        complex_too=True,
        majorant=_lin,
        twin=twin.lin_vjp,
    ),
    Call(
        "lin without bias, two batch axes",
        fnnet.lin,
        _lin,
        shapes=[(8, 2, 6), (6, 4)],
        batch=[0, None],
        layouts=[(P("d"), w) for w in _WEIGHTS],
        big=[(64, 4, 256), (256, 128)],
        terms=16,
        complex_too=True,
        majorant=_lin,
        twin=lambda x, w, g: twin.lin_vjp(x, w, None, g)[:2],
        variant=True,
    ),
    Call(
        "lin of one sample",
        fnnet.lin,
        _lin,
        shapes=[(6,), (6, 4), (4,)],
        batch=[None, None, None],
        big=[(784,), (784, 128), (128,)],
        terms=6,
        complex_too=True,
        majorant=_lin,
        twin=twin.lin_vjp,
        variant=True,
    ),
    Call(
        "matmul",
        fnnet.matmul,
        jnp.matmul,
        shapes=[(8, 6), (6, 4)],
        batch=[0, None],
        layouts=[(P("d"), w) for w in _WEIGHTS],
        big=[(256, 512), (512, 128)],
        terms=8,
        complex_too=True,
        majorant=jnp.matmul,
        twin=twin.matmul_vjp,
        variant=True,
    ),
    Call(
        "matmul, batched",
        fnnet.matmul,
        jnp.matmul,
        shapes=[(8, 3, 6), (8, 6, 4)],
        batch=[0, 0],
        layouts=[(P("d"), P("d")), (P("d", None, None), P("d", None, "m"))],
        big=[(16, 64, 64), (16, 64, 64)],
        terms=6,
        complex_too=True,
        majorant=jnp.matmul,
        twin=twin.matmul_vjp,
        variant=True,
    ),
    Call(
        "matmul, batch axes broadcast",
        fnnet.matmul,
        lambda a, b: jnp.einsum("pik,qkj->pqij", a[:, 0], b),
        shapes=[(8, 1, 2, 6), (3, 6, 4)],
        batch=[0, None],
        layouts=[(P("d"), P())],
        big=[(16, 1, 64, 64), (8, 64, 64)],
        terms=16,
        complex_too=True,
        majorant=lambda a, b: jnp.einsum("pik,qkj->pqij", a[:, 0], b),
        twin=twin.matmul_vjp,
    ),
    Call(
        "matmul, matrix and vector",
        fnnet.matmul,
        jnp.matmul,
        shapes=[(8, 6), (6,)],
        batch=[0, None],
        layouts=[(P("d"), P())],
        big=[(512, 784), (784,)],
        terms=8,
        complex_too=True,
        majorant=jnp.matmul,
        twin=twin.matmul_vjp,
        variant=True,
    ),
    Call(
        "matmul, vector and batched matrix",
        fnnet.matmul,
        lambda a, b: jnp.einsum("k,pkj->pj", a, b),
        shapes=[(6,), (8, 6, 4)],
        batch=[None, 0],
        layouts=[(P(), P("d"))],
        big=[(64,), (16, 64, 64)],
        terms=32,
        complex_too=True,
        majorant=lambda a, b: jnp.einsum("k,pkj->pj", a, b),
        twin=twin.matmul_vjp,
        variant=True,
    ),
    Call(
        "matmul, two vectors",
        fnnet.matmul,
        jnp.matmul,
        shapes=[(8,), (8,)],
        batch=[None, None],
        big=[(10_000,), (10_000,)],
        terms=8,
        complex_too=True,
        majorant=jnp.matmul,
        twin=twin.matmul_vjp,
        variant=True,
    ),
    Call(
        "relu",
        fnnet.relu,
        _relu,
        shapes=[(8, 6)],
        batch=[0],
        layouts=[(P("d"),), (P("d", "m"),)],
        big=[(512, 256)],
        terms=1,
        kinks=[((0.0, -0.0), (0.0, 0.0))],
        majorant=_relu,
        twin=twin.relu_vjp,
    ),
    Call(
        "mse",
        fnnet.mse,
        _mse,
        shapes=[(8, 6), (8, 6)],
        batch=[0, 0],
        layouts=[(P("d"), P("d")), (P("d", "m"), P("d", "m"))],
        big=[(512, 256), (512, 256)],
        terms=48,
        scalar=True,
        majorant=_mse_of_sizes,
        twin=twin.mse_vjp,
    ),
    Call(
        "mse of a column of predictions",
        fnnet.mse,
        _mse,
        shapes=[(8, 1), (8,)],
        batch=[0, 0],
        layouts=[(P("d"), P("d"))],
        big=[(4096, 1), (4096,)],
        terms=8,
        scalar=True,
        majorant=_mse_of_sizes,
        twin=twin.mse_vjp,
        variant=True,
    ),
]
