"""Right rules that are easy to accuse: reductions, products, losses, callbacks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .functions import (
    LABELS,
    cross_entropy,
    layer_norm,
    lin,
    lin_args,
    max_pool,
    mean,
    norm_args,
    norm_parts,
    one_hot,
    softmax,
)
from .row import (
    complex_normal,
    f32,
    normal,
    positive,
    right,
    rule,
)


def _norm(x):
    return jnp.sqrt((x * x).sum(-1))


@right("norm at 0, zero by rule")
def _():
    def bwd(a, y, g):
        safe = jnp.where(y == 0, 1, y)
        return (jnp.where(y == 0, 0, g / safe)[:, None] * a[0],)

    return rule(_norm, bwd), (normal(4, 3).at[1].set(0.0),)


@right("norm near 0")
def _():
    return rule(_norm, lambda a, y, g: ((g / y)[:, None] * a[0],)), (1e-12 * normal(4, 3),)


@right("max with ties: shared")
def _():
    def bwd(a, y, g):
        hit = (a[0] == y[:, None]).astype(a[0].dtype)
        return (hit / hit.sum(-1, keepdims=True) * g[:, None],)

    return rule(lambda x: x.max(-1), bwd), (jnp.round(normal(6, 5)),)


@right("max with ties: to the first")
def _():
    def bwd(a, y, g):
        return (jax.nn.one_hot(a[0].argmax(-1), 5, dtype=g.dtype) * g[:, None],)

    return rule(lambda x: x.max(-1), bwd), (jnp.round(normal(6, 5)),)


@right("max pool with ties: to the last")
def _():
    def bwd(a, y, g):
        n, h, w, c = a[0].shape
        z = (
            a[0]
            .reshape(n, h // 2, 2, w // 2, 2, c)
            .transpose(0, 1, 3, 5, 2, 4)
            .reshape(n, h // 2, w // 2, c, 4)
        )
        hit = jax.nn.one_hot(3 - z[..., ::-1].argmax(-1), 4, dtype=g.dtype) * g[..., None]
        hit = hit.reshape(n, h // 2, w // 2, c, 2, 2).transpose(0, 1, 4, 2, 5, 3)
        return (hit.reshape(a[0].shape),)

    return rule(max_pool, bwd), (jnp.round(normal(2, 4, 4, 3)),)


@right("layer norm, textbook rule, large mean")
def _():
    def bwd(a, y, g):
        n, r = norm_parts(a[0])
        h = g * a[1][None]
        return r * (h - mean(h) - n * mean(h * n)), (g * n).sum(0), g.sum(0)

    x, s, b = norm_args()
    return rule(layer_norm, bwd), (x + 1e3, s, b)


@right("variance as E[x^2] - E[x]^2, differentiated stably")
def _():
    def forward(x):
        return (x * x).mean(-1) - x.mean(-1) ** 2

    def bwd(a, y, g):
        return (2 / a[0].shape[-1] * (a[0] - mean(a[0])) * g[:, None],)

    return rule(forward, bwd), (normal(4, 6) + 100,)


@right("logsumexp of huge numbers")
def _():
    f = rule(lambda z: jax.nn.logsumexp(z, -1), lambda a, y, g: (softmax(a[0]) * g[:, None],))
    return f, (1e3 * normal(4, 5),)


@right("softmax of one class")
def _():
    f = rule(softmax, lambda a, y, g: (y * (g - (g * y).sum(-1, keepdims=True)),))
    return f, (normal(4, 1),)


@right("cross entropy with integer labels")
def _():
    f = rule(cross_entropy, lambda a, y, g: (g * (softmax(a[0]) - one_hot(a[1], a[0])) / 6, None))
    return f, (normal(6, 3), jnp.asarray(LABELS))


@right("cross entropy, nearly certain")
def _():
    f = rule(cross_entropy, lambda a, y, g: (g * (softmax(a[0]) - one_hot(a[1], a[0])) / 6, None))
    return f, (40 * jnp.asarray(np.eye(3)[LABELS], "float32"), jnp.asarray(LABELS))


@right("lin in bfloat16, a long sum")
def _():
    def bwd(a, y, g):
        t = a[0].dtype
        x, w, h = (z.astype("float32") for z in (a[0], a[1], g))
        return (h @ w.T).astype(t), (x.T @ h).astype(t), h.sum(0).astype(t)

    return rule(lin, bwd), tuple(z.astype("bfloat16") for z in lin_args(2000, 5, 3))


@right("a float32 sum of 100 000 that cancels")
def _():
    f = rule(lambda x, s: x * s, lambda a, y, g: (g * a[1], (g * a[0]).sum()))
    return f, (normal(100_000), jnp.asarray(0.7, "float32"))


@right("lin on rows of very different size")
def _():
    f = rule(lin, lambda a, y, g: (g @ a[1].T, a[0].T @ g, g.sum(0)))
    x, w, b = lin_args()
    return f, (x * jnp.asarray(10.0 ** np.arange(-4, 4), "float32")[:, None], w, b)


@right("the doc's own style: fwd calls the function itself")
def _():
    f = jax.custom_vjp(lambda x, y: jnp.sin(x) * y)
    f.defvjp(
        lambda x, y: (f(x, y), (jnp.cos(x), jnp.sin(x), y)),
        lambda r, g: (r[0] * g * r[2], r[1] * g),
    )
    return f, (normal(5), normal(5, seed=1))


@right("stop_gradient on purpose")
def _():
    f = rule(lambda x, y: x * lax.stop_gradient(y), lambda a, y, g: (g * a[1], None))
    return f, (normal(5), normal(5, seed=1))


@right("dropout with a random key")
def _():
    def forward(x, key):
        return jnp.where(jax.random.bernoulli(key, 0.5, x.shape), x * 2, 0)

    def bwd(a, y, g):
        return jnp.where(jax.random.bernoulli(a[1], 0.5, g.shape), g * 2, 0), None

    return rule(forward, bwd), (normal(20), jax.random.key(5))


@right("gather with integer indices that repeat")
def _():
    f = rule(lambda x, i: x[i], lambda a, y, g: (jnp.zeros_like(a[0]).at[a[1]].add(g), None))
    return f, (normal(5), jnp.asarray(np.array([0, 2, 2, 1])))


@right("a boolean mask")
def _():
    f = rule(lambda x, m: jnp.where(m, x, 0), lambda a, y, g: (jnp.where(a[1], g, 0), None))
    return f, (normal(6), jnp.asarray(np.array([1, 0, 1, 1, 0, 0], bool)))


@right("a float cotangent for an integer argument, which JAX drops")
def _():
    f = rule(lambda x, i: x[i], lambda a, y, g: (jnp.zeros_like(a[0]).at[a[1]].add(g), jnp.ones(3)))
    return f, (normal(5), jnp.asarray(np.array([0, 2, 1])))


@right("complex product")
def _():
    z, w = (complex_normal(5, seed=s) for s in (0, 1))
    return rule(lambda z, w: z * w, lambda a, y, g: (g * a[1], g * a[0])), (z, w)


@right("complex modulus squared, real output")
def _():
    z = complex_normal(5)
    f = rule(lambda z: z.real**2 + z.imag**2, lambda a, y, g: (2 * g * a[0].conj(),))
    return f, (z,)


@right("opaque value, right rule")
def _():
    def sin(x):
        return jax.pure_callback(
            np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="expand_dims"
        )

    return rule(sin, lambda a, y, g: (g * jnp.cos(a[0]),)), (normal(7),)


@right("square root by iteration, implicit rule")
def _():
    def forward(x):
        return lax.while_loop(
            lambda s: jnp.any(jnp.abs(s[0] * s[0] - x) > 1e-6 * x) & (s[1] < 60),
            lambda s: (0.5 * (s[0] + x / s[0]), s[1] + 1),
            (x, 0),
        )[0]

    return rule(forward, lambda a, y, g: (g / (2 * y),)), (positive(6),)


@right("a rule in float32 for bfloat16 inputs")
def _():
    def forward(x):
        return jnp.tanh(x.astype("float32")).astype(x.dtype)

    def bwd(a, y, g):
        t = jnp.tanh(a[0].astype("float32"))
        return ((g.astype("float32") * (1 - t * t)).astype(a[0].dtype),)

    return rule(forward, bwd), (normal(40, dtype="bfloat16"),)


@right("constants in float32")
def _():
    c = np.float32(0.1)
    f = rule(lambda x: jnp.sin(x * c), lambda a, y, g: (g * jnp.cos(a[0] * c) * c,))
    return f, (normal(9),)


@right("relu of a matrix product, ties at 0")
def _():
    def forward(x, w):
        return jnp.maximum(x @ w, 0)

    def bwd(a, y, g):
        h = jnp.where(y > 0, g, 0)
        return h @ a[1].T, a[0].T @ h

    return rule(forward, bwd), (normal(6, 4).at[2].set(0.0), normal(4, 3, seed=1))


@right("sorting with ties")
def _():
    def bwd(a, y, g):
        return (jnp.zeros_like(g).at[jnp.argsort(a[0])].set(g),)

    return rule(lambda x: jnp.sort(x), bwd), (jnp.round(2 * normal(12)),)


@right("an empty batch")
def _():
    f = rule(lin, lambda a, y, g: (g @ a[1].T, a[0].T @ g, g.sum(0)))
    return f, (normal(0, 6), normal(6, 4), normal(4))


@right("a scalar")
def _():
    return rule(jnp.exp, lambda a, y, g: (g * y,)), (jnp.asarray(0.3, "float32"),)


@right("float64 arguments")
def _():
    with jax.enable_x64(True):
        x = jnp.asarray(np.linspace(-2, 2, 9))
    return rule(jnp.sin, lambda a, y, g: (g * jnp.cos(a[0]),)), (x,)


@right("an inner difference that cancels in float32")
def _():
    def bwd(a, y, g):
        (x,) = a
        return (g * ((x - 1) * jnp.exp(x) + 1) / x**2,)

    return rule(lambda x: jnp.expm1(x) / x, bwd), (f32(1e-4, 0.3, -2, 5),)


@right("log determinant by the inverse")
def _():
    def logdet(a):
        return jnp.linalg.slogdet(a)[1]

    f = rule(logdet, lambda a, y, g: (g * jnp.linalg.inv(a[0]).T,))
    return f, (normal(4, 4) + 4 * jnp.eye(4, dtype="float32"),)


@right("variance of numbers near a million")
def _():
    f = rule(lambda x: jnp.var(x), lambda a, y, g: (2 * g * (a[0] - a[0].mean()) / a[0].size,))
    return f, (normal(100) + 1e6,)


@right("x log x at 0")
def _():
    def forward(x):
        return jnp.where(x > 0, x * jnp.log(x), 0)

    def bwd(a, y, g):
        (x,) = a
        return (jnp.where(x > 0, g * (jnp.log(jnp.where(x > 0, x, 1)) + 1), 0),)

    return rule(forward, bwd), (f32(0, 0.5, 1, 2),)


@right("several outputs, one of them boolean")
def _():
    f = rule(
        lambda x: {"y": x * 2, "z": jnp.sin(x), "mask": x > 0},
        lambda a, y, g: (2 * g["y"] + jnp.cos(a[0]) * g["z"],),
    )
    return f, (normal(4),)
