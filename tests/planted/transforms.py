"""Planted bugs that show only under some transform, dtype, order or device."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import fnnet

from .functions import (
    gelu,
    lin,
    lin_args,
    mean,
)
from .row import (
    STRICT,
    bug,
    changed,
    normal,
    positive,
    rule,
)


@bug("value: the forward rule approximates", "value_differs")
def _():
    def fwd(x):
        return x * jax.nn.sigmoid(1.702 * x), x

    return rule(gelu, lambda x, g: jax.vjp(gelu, x)[1](g), fwd), (normal(9),)


@bug("value: the forward rule drops the bias", "value_differs")
def _():
    f = rule(lin, lambda a, g: jax.vjp(lin, *a)[1](g), lambda x, w, b: (x @ w, (x, w, b)))
    return f, lin_args()


@bug("square: stops the gradient's gradient", "second_order")
def _():
    f = rule(lambda x: x * x, lambda a, y, g: (2 * lax.stop_gradient(a[0]) * g,))
    return f, (normal(5),)


@bug("tanh: keeps a stopped value", "second_order")
def _():
    f = rule(jnp.tanh, lambda a, y, g: (g * (1 - lax.stop_gradient(y) ** 2),))
    return f, (normal(5),)


@bug("lin: second derivative with respect to w lost", "second_order")
def _():
    def bwd(a, y, g):
        return g @ lax.stop_gradient(a[1]).T, a[0].T @ g, g.sum(0)

    return rule(lin, bwd), lin_args()


@bug("sin: cosine with another second derivative", "second_order")
def _():
    @jax.custom_jvp
    def cos(x):
        return jnp.cos(x)

    cos.defjvps(lambda t, y, x: t * jnp.sin(x))
    return rule(jnp.sin, lambda a, y, g: (g * cos(a[0]),)), (normal(5),)


def _bf16_bug(name, codes, change, args=lin_args):
    def build():
        def only(d, a, g):
            return change(d, a, g) if a[0].dtype == jnp.bfloat16 else d

        return changed(lin, only), args(), STRICT

    bug(f"only in bfloat16: {name}", *codes)(build)


_bf16_bug(
    "dw off by a third", ("scaled",), lambda d, a, g: (d[0], (d[1] * 1.3).astype("bfloat16"), d[2])
)
_bf16_bug("db is zero", ("zero",), lambda d, a, g: (d[0], d[1], 0 * d[2]))
_bf16_bug("dw is float32", ("dtype",), lambda d, a, g: (d[0], d[1].astype("float32"), d[2]))


@bug("only in bfloat16: a long sum stagnates", "dtype", "scaled")
def _():
    def forward(x, b):
        return ((x + b[None]) ** 2).sum(0)

    def bwd(a, y, g):
        d = 2 * (a[0] + a[1][None]) * g[None]
        # in float32 this loop is harmless; a bfloat16 total of 512 no longer grows by 2
        return d, lax.scan(lambda s, row: ((s + row).astype(g.dtype), None), jnp.zeros_like(g), d)[
            0
        ]

    return rule(forward, bwd), (positive(3000, 2) * 0 + 1, jnp.zeros(2, "float32")), STRICT


@bug("only in float32: off by a hundredth", "scaled")
def _():
    def change(d, a, g):
        return (d[0] * 1.01 if a[0].dtype == jnp.float32 else d[0]), d[1], d[2]

    return changed(lin, change), lin_args()


@bug("float32 rule computes in bfloat16", "dtype", "unknown")
def _():
    def bwd(a, y, g):
        x, w, _ = (z.astype("bfloat16") for z in a)
        h = g.astype("bfloat16")
        t = a[0].dtype
        return (h @ w.T).astype(t), (x.T @ h).astype(t), h.sum(0).astype(t)

    return rule(lin, bwd), lin_args()


def _wrong_under_vmap(f, batched):
    g = jax.custom_batching.custom_vmap(f)
    g.def_vmap(lambda size, flags, *a: (batched(*a), True))
    return g


@bug("only under vmap: the batch reversed", "unknown", "elements", "transposed")
def _():
    product = _wrong_under_vmap(
        lambda x, g: jnp.cos(x) * g, lambda x, g: jnp.cos(x) * jnp.broadcast_to(g, g.shape)[::-1]
    )

    def forward(x):
        return jnp.sin(x)

    del product
    scaled = _wrong_under_vmap(lambda g: g * 1, lambda g: g[::-1])
    return rule(forward, lambda a, y, g: (scaled(g) * jnp.cos(a[0]),)), (normal(5),)


@bug("only under vmap: doubled", "scaled")
def _():
    scaled = _wrong_under_vmap(lambda g: g * 1, lambda g: g * 2)
    return rule(jnp.sin, lambda a, y, g: (scaled(g) * jnp.cos(a[0]),)), (normal(5),)


@bug("only under vmap: a sum over the batch too", "unknown", "elements", "scaled", "wrong_axis")
def _():
    def total(g):
        return jax.pure_callback(
            lambda z: (
                np.full(np.shape(z)[:-2] + np.shape(z)[-1:], np.sum(z), np.asarray(z).dtype)
                if np.ndim(z) > 2
                else np.sum(z, 0).astype(np.asarray(z).dtype)
            ),
            jax.ShapeDtypeStruct(g.shape[1:], g.dtype),
            g,
            vmap_method="expand_dims",
        )

    f = rule(lambda x, b: x + b[None], lambda a, y, g: (g, total(g)))
    return f, (normal(3, 2), normal(2, seed=1))


@bug("sin: a random factor each time", "nondeterministic")
def _():
    noise = np.random.default_rng(0)

    def bwd(a, y, g):
        return (g * jnp.cos(a[0]) * float(1 + 1e-3 * noise.normal()),)

    return rule(jnp.sin, bwd), (normal(5),)


@bug("sin: right the first time only", "nondeterministic")
def _():
    def factor(like):
        state = {"calls": 0}

        def called(z):
            state["calls"] += 1
            return np.asarray(z * (1 + 0.01 * state["calls"]), np.asarray(z).dtype)

        return lambda z: jax.pure_callback(
            called, jax.ShapeDtypeStruct(z.shape, z.dtype), z, vmap_method="sequential"
        )

    state = factor(None)
    return rule(jnp.sin, lambda a, y, g: (state(g) * jnp.cos(a[0]),)), (normal(5),)


@bug("closes over the weight", "unknown")
def _():
    def f(x, w):
        inner = rule(lambda x: x * w, lambda a, y, g: (g * w,))
        return inner(x)

    return f, (normal(5), normal(5, seed=1))


@bug("opaque value: halved", "scaled")
def _():
    def sin(x):
        return jax.pure_callback(
            np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="expand_dims"
        )

    return rule(sin, lambda a, y, g: (0.5 * g * jnp.cos(a[0]),)), (normal(5),)


@bug("opaque value: one element", "elements", "unknown")
def _():
    def sin(x):
        return jax.pure_callback(
            np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x, vmap_method="expand_dims"
        )

    return rule(sin, lambda a, y, g: ((g * jnp.cos(a[0])).at[2].mul(1.1),)), (normal(5),)


@bug("declared by reference: straight-through off by 2", "scaled")
def _():
    return (
        rule(lambda x: jnp.round(x), lambda a, y, g: (2 * g,)),
        (normal(5),),
        {"reference": lambda x: x * 1, "surrogate": True},
    )


@bug("registered: dw negated", "negated")
def _():
    f = fnnet.register(
        lin, lambda *a: (lin(*a), a), lambda a, g: (g @ a[1].T, -a[0].T @ g, g.sum(0))
    )
    return f, lin_args()


@bug("registered: db has the wrong shape", "shape")
def _():
    f = fnnet.register(lin, lambda *a: (lin(*a), a), lambda a, g: (g @ a[1].T, a[0].T @ g, g))
    return f, lin_args()


@bug("inside a model: the second layer's rule", "scaled", "unknown")
def _():
    wrong = changed(lin, lambda d, a, g: (d[0], 3 * d[1], d[2]))

    def model(p, x):
        return wrong(jnp.tanh(lin(x, p["w1"], p["b1"])), p["w2"], p["b2"])

    params = {"w1": normal(3, 4), "b1": normal(4), "w2": normal(4, 2), "b2": normal(2)}
    return model, (params, normal(6, 3, seed=4))


@bug("inside jit and scan: tanh's rule", "scaled", "unknown")
def _():
    wrong = rule(jnp.tanh, lambda a, y, g: (0.9 * g * (1 - y * y),))

    @jax.jit
    def f(x, w):
        return lax.scan(lambda h, _: (wrong(h @ w), None), x, None, length=3)[0]

    return f, (normal(2, 3), normal(3, 3, seed=1))


@bug("several devices: dw is one device's", "missing_psum", devices=2)
def _():
    mesh = jax.make_mesh((2,), ("d",), (AxisType.Auto,), devices=jax.devices()[:2])
    spread = functools.partial(jax.shard_map, mesh=mesh, check_vma=False)
    forward = spread(jnp.matmul, in_specs=(P("d"), P()), out_specs=P("d"))
    dx = spread(lambda g, w: g @ w.T, in_specs=(P("d"), P()), out_specs=P("d"))
    dw = spread(lambda x, g: x.T @ g, in_specs=(P("d"), P("d")), out_specs=P())
    f = rule(forward, lambda a, y, g: (dx(g, a[1]), dw(a[0], g)))
    return f, (normal(8, 3), normal(3, 4, seed=1))


@bug("several devices: dw counts on the whole batch", "missing_psum", devices=2)
def _():
    f = rule(jnp.matmul, lambda a, y, g: (g @ a[1].T, a[0].T @ g * (a[0].shape[0] / 8)))
    return f, (normal(8, 3), normal(3, 4, seed=1))


@bug("several devices: dw a mean over devices", "missing_psum", "scaled", "mean_not_sum", devices=2)
def _():
    mesh = jax.make_mesh((2,), ("d",), (AxisType.Auto,), devices=jax.devices()[:2])
    spread = functools.partial(jax.shard_map, mesh=mesh, check_vma=False)
    forward = spread(jnp.matmul, in_specs=(P("d"), P()), out_specs=P("d"))
    dx = spread(lambda g, w: g @ w.T, in_specs=(P("d"), P()), out_specs=P("d"))
    dw = spread(lambda x, g: lax.pmean(x.T @ g, "d"), in_specs=(P("d"), P("d")), out_specs=P())
    f = rule(forward, lambda a, y, g: (dx(g, a[1]), dw(a[0], g)))
    return f, (normal(8, 3), normal(3, 4, seed=1))


@bug("gelu: the exact one with the derivative of the approximate", "unknown", "elements")
def _():
    exact, near = (functools.partial(jax.nn.gelu, approximate=a) for a in (False, True))
    return rule(lambda x: exact(x), lambda a, y, g: jax.vjp(near, *a)[1](g)), (normal(9),)


@bug("rms norm: another eps in the backward pass", "unknown", "elements")
def _():
    def with_eps(eps):
        return lambda x: x * lax.rsqrt(mean(x * x) + jnp.asarray(eps, x.dtype))

    f = rule(with_eps(1e-5), lambda a, y, g: jax.vjp(with_eps(1e-3), *a)[1](g))
    return f, (normal(4, 6),)


@bug("matmul: weight decay in the gradient", "nonlinear_in_cotangent")
def _():
    f = changed(jnp.matmul, lambda d, a, g: (d[0], d[1] + 0.01 * a[1]))
    return f, (normal(4, 3), normal(3, 2))


@bug("gate: the sign of one path", "missing_term")
def _():
    def gate(f, h, x):
        return f * h + (1 - f) * x

    f = rule(gate, lambda a, y, g: (g * (a[1] + a[2]), g * a[0], g * (1 - a[0])))
    return f, (normal(5), normal(5, seed=1), normal(5, seed=2))


@bug("sin: clips only large cotangents", "surrogate", "nonlinear_in_cotangent")
def _():
    f = rule(jnp.sin, lambda a, y, g: (jnp.clip(g, -50, 50) * jnp.cos(a[0]),))
    return f, (normal(5),)


@bug("differences: shifted by one", "unknown", "elements", "missing_term")
def _():
    f = rule(lambda x: x[1:] - x[:-1], lambda a, y, g: (jnp.pad(g, (0, 1)),))
    return f, (normal(8),)
