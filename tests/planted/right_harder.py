"""Right rules that an attack on the checker was made of."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import fnnet

from .functions import (
    gelu,
)
from .row import complex_normal, f32, normal, positive, right, rule


def el(name: str, f: Any, bwd: Any, x: Any = None, **options: Any) -> None:
    right(name)(
        lambda: (
            rule(f, lambda a, y, g: (bwd(a[0], y, g),)),
            (normal(24) if x is None else x(),),
            options,
        )
    )


el(
    "gelu erf with float32 constants",
    lambda x: 0.5 * x * (1 + lax.erf(x / np.float32(1.4142135))),
    lambda x, y, g: (
        g
        * (
            0.5 * (1 + lax.erf(x * np.float32(0.70710677)))
            + x * jnp.exp(-x * x / 2) * np.float32(0.3989423)
        )
    ),
    lambda: normal(2000),
)

el(
    "gelu tanh, derivative near its minimum",
    gelu,
    lambda x, y, g: (
        g
        * (
            0.5 * (1 + jnp.tanh(0.7978845608 * (x + 0.044715 * x**3)))
            + 0.5
            * x
            * (1 - jnp.tanh(0.7978845608 * (x + 0.044715 * x**3)) ** 2)
            * 0.7978845608
            * (1 + 3 * 0.044715 * x**2)
        )
    ),
    lambda: jnp.linspace(-0.76, -0.74, 200, dtype="float32"),
)

el(
    "erf far out",
    lambda x: 1 - lax.erf(x),
    lambda x, y, g: -g * 1.1283791670955126 * jnp.exp(-x * x),
    lambda: f32(0, 1, 3, 5, 7, 9),
)

el(
    "exp overflow to inf in f32 neighbours",
    jnp.exp,
    lambda x, y, g: g * y,
    lambda: f32(80, 85, 88, -100, -104),
)

el("log of tiny", jnp.log, lambda x, y, g: g / x, lambda: f32(1e-38, 1e-30, 1e-8, 1, 1e30))

el(
    "x/(|x|+eps)",
    lambda x: x / (jnp.abs(x) + 1e-6),
    lambda x, y, g: g * 1e-6 / (jnp.abs(x) + 1e-6) ** 2,
    lambda: f32(0, 1e-7, -1e-6, 1, -2),
)

el(
    "median of odd",
    lambda x: jnp.sort(x)[3],
    lambda x, y, g: jnp.zeros_like(x).at[jnp.argsort(x)[3]].set(g),
    lambda: normal(7),
)

el(
    "amax of equal numbers, first",
    lambda x: x.max(),
    lambda x, y, g: jax.nn.one_hot(x.argmax(), 5, dtype=x.dtype) * g,
    lambda: jnp.ones(5, "float32"),
)

el(
    "top-k ties",
    lambda x: lax.top_k(x, 2)[0],
    lambda x, y, g: jnp.zeros_like(x).at[lax.top_k(x, 2)[1]].set(g),
    lambda: f32(1, 3, 3, 3, 0),
)

el(
    "l2 norm 1e-30",
    lambda x: jnp.sqrt((x * x).sum(-1)),
    lambda x, y, g: (g / y)[:, None] * x,
    lambda: 1e-15 * normal(4, 3),
)

el(
    "logsumexp with -inf masked",
    lambda x: jax.nn.logsumexp(jnp.where(jnp.arange(6)[None] < 4, x, -jnp.inf), -1),
    lambda x, y, g: g[:, None] * jnp.where(jnp.arange(6)[None] < 4, jnp.exp(x - y[:, None]), 0),
    lambda: normal(4, 6),
)

el(
    "softmax masked by -1e9",
    lambda x: jax.nn.softmax(jnp.where(jnp.arange(6)[None] < 4, x, -1e9), -1),
    lambda x, y, g: jnp.where(jnp.arange(6)[None] < 4, y * (g - (g * y).sum(-1, keepdims=True)), 0),
    lambda: normal(4, 6),
)

el(
    "prod via division",
    lambda x: jnp.prod(x, -1),
    lambda x, y, g: (g * y)[:, None] / x,
    lambda: normal(4, 7),
)

el(
    "std zero variance row, by eps",
    lambda x: jnp.sqrt(jnp.var(x, -1) + 1e-12),
    lambda x, y, g: (g / y)[:, None] * (x - x.mean(-1, keepdims=True)) / x.shape[-1],
    lambda: normal(3, 5).at[1].set(2.0),
)

el(
    "bf16 softmax",
    lambda x: jax.nn.softmax(x.astype("float32"), -1).astype(x.dtype),
    lambda x, y, g: (
        lambda p: (
            p * (g.astype("float32") - (g.astype("float32") * p).sum(-1, keepdims=True))
        ).astype(x.dtype)
    )(jax.nn.softmax(x.astype("float32"), -1)),
    lambda: normal(8, 16, dtype="bfloat16"),
)

el(
    "quantise: STE declared, 8 bit",
    lambda x: jnp.round(x * 127) / 127,
    lambda x, y, g: g,
    lambda: normal(20),
    reference=lambda x: x * 1,
    surrogate=True,
)

el("mod: derivative 1", lambda x: jnp.mod(x, 1.0), lambda x, y, g: g, lambda: 10 * normal(20))

el("sin of 1e6", jnp.sin, lambda x, y, g: g * jnp.cos(x), lambda: 1e6 * normal(20))

el("tan near pole", jnp.tan, lambda x, y, g: g * (1 + y * y), lambda: f32(1.5707, 1.57, 0, 1, -1.5))

el(
    "power x**0.5 at zero by rule zero",
    lambda x: x**0.5,
    lambda x, y, g: jnp.where(x > 0, 0.5 * g / jnp.where(y > 0, y, 1), 0),
    lambda: f32(0, 1, 4),
)

el(
    "complex abs at 0",
    jnp.abs,
    lambda z, y, g: jnp.where(y == 0, 0, g * z.conj() / jnp.where(y == 0, 1, y)).astype(z.dtype),
    lambda: complex_normal(6).at[2].set(0),
)

el(
    "eigvalsh",
    lambda x: jnp.linalg.eigvalsh((x + x.T) / 2),
    lambda x, y, g: (lambda v: (v * g[None]) @ v.T)(jnp.linalg.eigh((x + x.T) / 2)[1]),
    lambda: normal(4, 4),
)

el(
    "ill-conditioned solve",
    lambda x: jnp.linalg.solve(x, jnp.ones(5, x.dtype)),
    lambda x, y, g: -jnp.outer(jnp.linalg.inv(x).T @ g, y),
    lambda: jnp.asarray([[1 / (i + j + 1) for j in range(5)] for i in range(5)], "float32"),
)

el(
    "newton fixed point implicit",
    lambda x: lax.fori_loop(
        0, 40, lambda i, y: y - (y + jnp.exp(y) - x) / (1 + jnp.exp(y)), jnp.zeros_like(x)
    ),
    lambda x, y, g: g / (1 + jnp.exp(y)),
    lambda: normal(8),
)

el("NaN input passes through", jnp.sin, lambda x, y, g: g * jnp.cos(x), lambda: f32(1, np.nan, 2))

el("inf input", jnp.tanh, lambda x, y, g: g * (1 - y * y), lambda: f32(1, np.inf, -np.inf))

el(
    "sum of softmax, gradient zero to rounding",
    lambda x: jax.nn.softmax(x, -1).sum(-1),
    lambda x, y, g: jnp.zeros_like(x),
    lambda: normal(4, 6),
)


@right("flash attention in blocks")
def _():
    def fw(q, k, v):
        def st(c, kv):
            m, l, o = c
            kk, vv = kv
            s = q @ kk.T / 2
            m2 = jnp.maximum(m, s.max(-1))
            p = jnp.exp(s - m2[:, None])
            r = jnp.exp(m - m2)
            return (m2, l * r + p.sum(-1), o * r[:, None] + p @ vv), None

        (_m, l, o), _ = lax.scan(
            st,
            (
                jnp.full(q.shape[0], -1e30, q.dtype),
                jnp.zeros(q.shape[0], q.dtype),
                jnp.zeros_like(q),
            ),
            (k.reshape(4, 2, 4), v.reshape(4, 2, 4)),
        )
        return o / l[:, None]

    def bwd(a, y, g):
        q, k, v = a
        p = jax.nn.softmax(q @ k.T / 2, -1)
        D = (g * y).sum(-1, keepdims=True)
        ds = p * (g @ v.T - D) / 2
        return ds @ k, ds.T @ q, p.T @ g

    return rule(fw, bwd), (normal(6, 4), normal(8, 4, seed=1), normal(8, 4, seed=2))


@right("registered op with options")
def _():
    def fw(x, y, *, power=2):
        return x**power * y

    f = fnnet.register(
        fw,
        lambda x, y, *, power=2: (fw(x, y, power=power), (x, y)),
        lambda r, g, power: (g * power * r[0] ** (power - 1) * r[1], (g * r[0] ** power)),
    )
    return f, (positive(5), normal(5)), {"kwargs": {"power": 3}}


@right("string argument")
def _():
    @functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
    def red(x, how):
        return x.sum() if how == "sum" else x.mean()

    red.defvjp(
        lambda x, how: (red(x, how), x),
        lambda how, x, g: (jnp.full_like(x, 1 if how == "sum" else 1 / x.size) * g,),
    )
    return red, (normal(6), "mean")


@right("reparametrised gaussian sample")
def _():
    def fw(m, s, k):
        return m + jnp.exp(s) * jax.random.normal(k, m.shape, jnp.float32).astype(m.dtype)

    return rule(fw, lambda a, y, g: (g, g * (y - a[0]), None)), (
        normal(5),
        normal(5, seed=1),
        jax.random.key(3),
    )


@right("opaque relu at kink")
def _():
    def f(x):
        return jax.pure_callback(
            lambda z: np.maximum(z, 0).astype(np.asarray(z).dtype),
            jax.ShapeDtypeStruct(x.shape, x.dtype),
            x,
            vmap_method="expand_dims",
        )

    return rule(f, lambda a, y, g: (jnp.where(a[0] > 0, g, 0),)), (f32(0, 1, -1, 0, 2),)


@right("callback matmul without vmap method")
def _():
    def f(x, w):
        return jax.pure_callback(
            lambda a, b: np.asarray(a) @ np.asarray(b),
            jax.ShapeDtypeStruct((x.shape[0], w.shape[1]), x.dtype),
            x,
            w,
        )

    return rule(f, lambda a, y, g: (g @ a[1].T, a[0].T @ g)), (normal(6, 3), normal(3, 4, seed=1))


@right("python scalars")
def _():
    return rule(lambda x, y: x * y, lambda a, o, g: (g * a[1], g * a[0])), (0.3, 2.0)


@right("symbolic zeros rule")
def _():
    f = jax.custom_vjp(lambda x, y: jnp.sin(x) * y)

    def fwd(x, y):
        return jnp.sin(x.value) * y.value, (x.value, y.value)

    def bwd(r, g):
        if isinstance(g, jax.custom_derivatives.SymbolicZero):
            return None, None
        return g * jnp.cos(r[0]) * r[1], g * jnp.sin(r[0])

    f.defvjp(fwd, bwd, symbolic_zeros=True)
    return f, (normal(4), normal(4, seed=1))


@right("jnp.logaddexp of equal numbers")
def _():
    return rule(jnp.logaddexp, lambda a, y, g: (g * jnp.exp(a[0] - y), g * jnp.exp(a[1] - y))), (
        f32(1, 2, -300),
        f32(1, 3, -300),
    )


@right("lin bf16 weights f32 inputs mixed")
def _():
    def fw(x, w):
        return x @ w.astype("float32")

    return rule(
        fw, lambda a, y, g: (g @ a[1].astype("float32").T, (a[0].T @ g).astype(a[1].dtype))
    ), (normal(8, 6), normal(6, 4, seed=1, dtype="bfloat16"))


@right("scale of 1024 rows in bfloat16, summed in float32")
def _():
    def f(x, s):
        return (x.astype("float32") * s[None].astype("float32")).astype(x.dtype)

    def bwd(args, y, g):
        x, s = args
        wide = g.astype("float32")
        ds = (wide * x.astype("float32")).sum(0).astype(s.dtype)
        return (wide * s[None].astype("float32")).astype(x.dtype), ds

    return rule(f, bwd), (positive(1024, 3, dtype="bfloat16"), positive(3, dtype="bfloat16"))


for _logits in ((30, 0), (40, 0), (35, 0, 1), (20, 0)):

    @right(f"softmax as in textbooks, sure of itself: {_logits}")
    def _(logits=_logits):
        def f(z):
            e = jnp.exp(z - z.max())
            return e / e.sum()

        return rule(f, lambda a, p, g: (p * (g - (p * g).sum()),)), (f32(*logits),)


@right("cross entropy of one-hot distributions, whose forward cuts 0 log p out")
def _():
    """Autodiff has 0 for the labels that are 0, the rule has -log p, as differences do."""

    def f(z, t):
        q = jax.nn.log_softmax(z)
        return -jnp.where(t == 0, 0.0, t * q).sum()

    def bwd(args, y, g):
        z, t = args
        p = jax.nn.softmax(z)
        return g * (p * t.sum(-1, keepdims=True) - t), -g * jax.nn.log_softmax(z)

    return rule(f, bwd), (normal(3, 4), jnp.asarray(np.eye(4, dtype=np.float32)[[0, 1, 3]]))
