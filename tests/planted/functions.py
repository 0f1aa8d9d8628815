"""The functions whose rules are planted, as anyone writes them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .row import normal, positive


def lin(x, w, b):
    return x @ w + b[None]


def lin_args(n=8, i=6, o=4):
    return normal(n, i), normal(i, o, seed=1), normal(o, seed=2)


def softmax(z):
    e = jnp.exp(z - lax.stop_gradient(z.max(-1, keepdims=True)))
    return e / e.sum(-1, keepdims=True)


def log_softmax(z):
    z = z - lax.stop_gradient(z.max(-1, keepdims=True))
    return z - jnp.log(jnp.exp(z).sum(-1, keepdims=True))


def mse(p, t):
    return jnp.mean((p - t) ** 2)


def layer_norm(x, scale, shift):
    c = x - x.mean(-1, keepdims=True)
    r = lax.rsqrt((c * c).mean(-1, keepdims=True) + jnp.asarray(1e-5, x.dtype))
    return c * r * scale[None] + shift[None]


def rms_norm(x):
    return x * lax.rsqrt((x * x).mean(-1, keepdims=True) + jnp.asarray(1e-6, x.dtype))


def conv(x, w):
    return lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def avg_pool(x):
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))


def max_pool(x):
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))


def rnn(x, wx, wh):
    def step(h, xt):
        h = jnp.tanh(xt @ wx + h @ wh)
        return h, h

    h0 = jnp.zeros((x.shape[1], wh.shape[0]), x.dtype)
    return lax.scan(step, h0, x)[1]


def attention(q, k, v):
    s = jnp.einsum("tc,sc->ts", q, k) / jnp.asarray(q.shape[-1], q.dtype) ** 0.5
    return softmax(s) @ v


def gelu(x):
    return 0.5 * x * (1 + jnp.tanh(0.7978845608 * (x + 0.044715 * x**3)))


def cross_entropy(z, labels):
    return -jnp.take_along_axis(log_softmax(z), labels[:, None], -1).mean()


LABELS = np.array([0, 2, 1, 2, 0, 1])


def one_hot(labels, z):
    return jax.nn.one_hot(labels, z.shape[-1], dtype=z.dtype)


def norm_args():
    return normal(4, 6), positive(6, seed=1), normal(6, seed=2)


def norm_parts(x):
    c = x - x.mean(-1, keepdims=True)
    r = lax.rsqrt((c * c).mean(-1, keepdims=True) + jnp.asarray(1e-5, x.dtype))
    return c * r, r


def mean(x):
    return x.mean(-1, keepdims=True)
