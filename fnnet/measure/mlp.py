"""The net that is benchmarked: two linear layers with a relu between them, and a squared error."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from fnnet.ops import lin, mse, relu

Params = list[tuple[jax.Array, jax.Array]]

_CLASSES = 10


def draw(key: jax.Array, size: Sequence[int]) -> tuple[Params, jax.Array, jax.Array]:
    """Random parameters, inputs and targets, float32.

    Args:
        key: a key.
        size: samples n, inputs i and hidden units h; there are ten outputs.

    Returns:
        params [(w (i, h), b (h,)), (w (h, 10), b (10,))], x (n, i), y (n, 10).

    Example:
        >>> params, x, y = draw(jax.random.key(0), (5, 4, 3))
        >>> [w.shape for w, _ in params], x.shape, y.shape
        ([(4, 3), (3, 10)], (5, 4), (5, 10))
    """
    n, n_in, hidden = size
    k1, k2, kx, ky = jax.random.split(key, 4)
    params = [
        # Kaiming's scale: activations of size 1
        (jax.random.normal(k, (i, o), jnp.float32) * (2 / i) ** 0.5, jnp.zeros(o, jnp.float32))
        for k, i, o in ((k1, n_in, hidden), (k2, hidden, _CLASSES))
    ]
    x = jax.random.normal(kx, (n, n_in), jnp.float32)
    y = jax.nn.one_hot(jax.random.randint(ky, (n,), 0, _CLASSES), _CLASSES, dtype=jnp.float32)
    return params, x, y


def in_words(size: Sequence[int]) -> str:
    """A size as people read it.

    Example:
        >>> in_words((200, 100, 50))
        '200 samples, 100-50-10'
    """
    n, n_in, hidden = size
    return f"{n} samples, {n_in}-{hidden}-{_CLASSES}"


def loss(params: Params, x: jax.Array, y: jax.Array) -> jax.Array:
    """The mean squared error of the net's output, every gradient by hand."""
    *hidden, last = params
    for w, b in hidden:
        x = relu(lin(x, w, b))
    return mse(lin(x, *last), y)


def jax_loss(params: Params, x: jax.Array, y: jax.Array) -> jax.Array:
    """The same as anyone would write it with JAX alone."""
    *hidden, last = params
    for w, b in hidden:
        x = jax.nn.relu(_dense(x, w, b))
    return jnp.mean((_dense(x, *last) - y) ** 2)


def _dense(x: jax.Array, w: jax.Array, b: jax.Array) -> jax.Array:
    return x @ w + jnp.broadcast_to(b, (*x.shape[:-1], *b.shape))
