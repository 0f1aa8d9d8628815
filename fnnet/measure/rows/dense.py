"""What is benchmarked: the chapter's ops: matmul, lin, relu, mse."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fnnet import ops
from fnnet.measure.row import Function, Row


def _jax_lin() -> Function:
    return lambda x, w, b: x @ w + jnp.broadcast_to(b, (*x.shape[:-1], *b.shape))


def _optax_mse() -> Function:
    import optax

    return lambda pred, targ: jnp.mean(optax.losses.squared_error(pred, targ))


ROWS = (
    Row(
        "matmul",
        ops.matmul,
        sizes=[[(200, 100), (100, 50)], [(16, 128, 256), (16, 256, 128)]],
        peers={"jax.numpy": lambda: jnp.matmul},
    ),
    Row(
        "lin",
        ops.lin,
        sizes=[[(200, 100), (100, 50), (50,)], [(256, 784), (784, 256), (256,)]],
        peers={"jax.numpy": _jax_lin},
    ),
    Row(
        "relu",
        ops.relu,
        sizes=[[(200, 50)], [(2048, 1024)]],
        peers={"jax.nn": lambda: jax.nn.relu},
    ),
    Row(
        "mse",
        ops.mse,
        sizes=[[(200, 10), (200, 10)], [(2048, 1024), (2048, 1024)]],
        peers={"optax": _optax_mse},
    ),
)
