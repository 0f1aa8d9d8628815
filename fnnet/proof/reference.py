"""Everything in this chapter in NumPy: each op of fnnet again, forwards and backwards.

`NAME(...)` has the signature of fnnet's op. `NAME_vjp(*args, g, **options)` is its backward rule,
derived in its docstring: given the cotangent g of the output (the derivative of some loss L with
respect to it, same shape), it returns the tuple of cotangents of the array arguments, in order:
None for an argument that is None or of integers. All arguments up to g must be given.
`NAME_jvp(*args, *tangents, **options)`, for the ops that are linear and those of which fnnet has a
rule of forward mode, gives the tangent of the output from those of the arguments, in the order of
the cotangents, those of options that are arrays by name (dweights of weights). Arrays are
NumPy arrays of floats; there is no jax here, and nothing is shared with the ops it checks.

Read it in this order:

    twin/dense.py         matmul lin relu mse
    twin/losses.py        softmax log_softmax cross_entropy linear_cross_entropy
    twin/images.py        unfold fold conv2d max_pool avg_pool
    twin/norms.py         layer_norm rms_norm batch_norm group_norm norm
    twin/geometry.py      pairwise_distance kernel_sum
    twin/activations.py   gelu silu glu_mlp
    twin/tangents.py      the tangents of what is linear
    twin/sequences.py     rnn gru attention rope

and `train` below, which puts the first two to work. Run as a script,

    python fnnet/proof/reference.py

this file trains a net on scikit-learn's images of digits, with NumPy alone.

>>> x, w, b = np.ones((2, 3)), np.ones((3, 1)), np.zeros(1)
>>> y = lin(x, w, b)
>>> dy, _ = mse_vjp(y, np.zeros(2), 1.0)
>>> dx, dw, db = lin_vjp(x, w, b, dy)
>>> db
array([6.])
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

# As a script this file is not in the package fnnet, whose __init__ imports jax: `twin` lies beside
# it then, and of `twin` it needs only what trains a net.
if TYPE_CHECKING or __package__:
    from fnnet.proof.twin.activations import gelu, gelu_vjp, glu_mlp, glu_mlp_vjp, silu, silu_vjp
    from fnnet.proof.twin.dense import (
        lin,
        lin_vjp,
        matmul,
        matmul_vjp,
        mse,
        mse_vjp,
        relu,
        relu_vjp,
    )
    from fnnet.proof.twin.elementary import Array
    from fnnet.proof.twin.geometry import (
        kernel_sum,
        kernel_sum_vjp,
        pairwise_distance,
        pairwise_distance_vjp,
    )
    from fnnet.proof.twin.images import (
        avg_pool,
        avg_pool_vjp,
        conv2d,
        conv2d_vjp,
        fold,
        fold_vjp,
        max_pool,
        max_pool_vjp,
        unfold,
        unfold_vjp,
    )
    from fnnet.proof.twin.losses import (
        cross_entropy,
        cross_entropy_vjp,
        linear_cross_entropy,
        linear_cross_entropy_jvp,
        linear_cross_entropy_vjp,
        log_softmax,
        log_softmax_vjp,
        softmax,
        softmax_vjp,
    )
    from fnnet.proof.twin.norms import (
        batch_norm,
        batch_norm_vjp,
        group_norm,
        group_norm_vjp,
        layer_norm,
        layer_norm_vjp,
        norm,
        norm_vjp,
        rms_norm,
        rms_norm_vjp,
    )
    from fnnet.proof.twin.sequences import (
        attention,
        attention_jvp,
        attention_jvp_vjp,
        attention_vjp,
        gru,
        gru_jvp,
        gru_vjp,
        rnn,
        rnn_jvp,
        rnn_vjp,
        rope,
        rope_vjp,
    )
    from fnnet.proof.twin.tangents import (
        avg_pool_jvp,
        conv2d_jvp,
        fold_jvp,
        lin_jvp,
        matmul_jvp,
        unfold_jvp,
    )
else:
    from twin.dense import lin, lin_vjp, relu, relu_vjp
    from twin.elementary import Array
    from twin.losses import cross_entropy, cross_entropy_vjp

OPS: tuple[str, ...] = (
    *("matmul", "lin", "relu", "mse"),
    *("softmax", "log_softmax", "cross_entropy", "linear_cross_entropy"),
    *("unfold", "fold", "conv2d", "max_pool", "avg_pool"),
    *("layer_norm", "rms_norm", "batch_norm", "group_norm", "norm"),
    *("pairwise_distance", "kernel_sum"),
    *("gelu", "silu", "glu_mlp"),
    *("rnn", "gru", "attention", "rope"),
)

__all__ = [
    "OPS",
    "attention",
    "attention_jvp",
    "attention_jvp_vjp",
    "attention_vjp",
    "avg_pool",
    "avg_pool_jvp",
    "avg_pool_vjp",
    "batch_norm",
    "batch_norm_vjp",
    "conv2d",
    "conv2d_jvp",
    "conv2d_vjp",
    "cross_entropy",
    "cross_entropy_vjp",
    "fold",
    "fold_jvp",
    "fold_vjp",
    "gelu",
    "gelu_vjp",
    "glu_mlp",
    "glu_mlp_vjp",
    "group_norm",
    "group_norm_vjp",
    "gru",
    "gru_jvp",
    "gru_vjp",
    "kernel_sum",
    "kernel_sum_vjp",
    "layer_norm",
    "layer_norm_vjp",
    "lin",
    "lin_jvp",
    "lin_vjp",
    "linear_cross_entropy",
    "linear_cross_entropy_jvp",
    "linear_cross_entropy_vjp",
    "log_softmax",
    "log_softmax_vjp",
    "main",
    "matmul",
    "matmul_jvp",
    "matmul_vjp",
    "max_pool",
    "max_pool_vjp",
    "mse",
    "mse_vjp",
    "norm",
    "norm_vjp",
    "pairwise_distance",
    "pairwise_distance_vjp",
    "relu",
    "relu_vjp",
    "rms_norm",
    "rms_norm_vjp",
    "rnn",
    "rnn_jvp",
    "rnn_vjp",
    "rope",
    "rope_vjp",
    "silu",
    "silu_vjp",
    "softmax",
    "softmax_vjp",
    "train",
    "unfold",
    "unfold_jvp",
    "unfold_vjp",
]


def _logits(params: Sequence[Array], x: Array) -> Array:
    w1, b1, w2, b2 = params
    return lin(relu(lin(x, w1, b1)), w2, b2)


def _loss_and_gradients(params: Sequence[Array], x: Array, y: Array) -> tuple[float, list[Array]]:
    """Forwards keeping what each rule needs, then backwards: the last op first."""
    w1, b1, w2, b2 = params
    a1 = lin(x, w1, b1)
    h1 = relu(a1)
    z = lin(h1, w2, b2)
    loss = cross_entropy(z, y)

    dz, _ = cross_entropy_vjp(z, y, 1.0)
    assert dz is not None
    dh1, dw2, db2 = lin_vjp(h1, w2, b2, dz)
    (da1,) = relu_vjp(a1, dh1)
    _, dw1, db1 = lin_vjp(x, w1, b1, da1)
    assert db1 is not None
    assert db2 is not None
    return float(loss), [dw1, db1, dw2, db2]


def train(
    x: Array,
    y: Array,
    *,
    hidden: int = 64,
    epochs: int = 30,
    batch: int = 32,
    rate: float = 0.05,
    momentum: float = 0.9,
    seed: int = 0,
) -> list[Array]:
    """Train a net of two layers by stochastic gradient descent with momentum; return its weights.

    Shapes: x (n, features), y (n,) integers. The weights start with Kaiming's standard deviation
    sqrt(2 / n_in), the biases at zero. Prints the loss as it goes.
    """
    random = np.random.default_rng(seed)
    sizes = [x.shape[1], hidden, int(y.max()) + 1]
    params: list[Array] = []
    for n_in, n_out in pairwise(sizes):
        params += [random.normal(0, np.sqrt(2 / n_in), (n_in, n_out)), np.zeros(n_out)]
    velocity = [np.zeros_like(p) for p in params]
    for epoch in range(1, epochs + 1):
        order, losses = random.permutation(len(x)), []
        for start in range(0, len(x), batch):
            rows = order[start : start + batch]
            loss, gradients = _loss_and_gradients(params, x[rows], y[rows])
            losses.append(loss)
            velocity = [momentum * v - rate * d for v, d in zip(velocity, gradients, strict=True)]
            params = [p + v for p, v in zip(params, velocity, strict=True)]
        if epoch == 1 or epoch % 5 == 0:
            print(f"epoch {epoch:3d}   loss {np.mean(losses):.4f}")
    return params


def main(argv: Sequence[str] | None = None) -> int:
    """Train on scikit-learn's digits (8x8 pixels) and print the accuracy on images held back."""
    parser = argparse.ArgumentParser(description="Train a net on images of digits in NumPy alone.")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the digits need scikit-learn: pip install scikit-learn") from error
    digits = load_digits()
    images, labels = digits.data / 16, digits.target
    order = np.random.default_rng(options.seed).permutation(len(images))
    test, rest = order[:360], order[360:]
    params = train(images[rest], labels[rest], epochs=options.epochs, seed=options.seed)
    correct = _logits(params, images[test]).argmax(axis=1) == labels[test]
    print(f"test accuracy {100 * correct.mean():.2f}% on {len(test)} images")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
