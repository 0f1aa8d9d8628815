"""Planted bugs: trees, options, keys, embeddings, callbacks, contracts, devices."""

from __future__ import annotations

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import fnnet

from .functions import softmax
from .row import STRICT, bug, changed, normal, positive, rule


@bug("kwonly through register", "scaled")
def _():
    def fw(x, *, scale=2.0):
        return scale * x * x

    f = fnnet.register(
        fw, lambda x, *, scale=2.0: (fw(x, scale=scale), x), lambda x, g: (2 * x * g,)
    )
    return f, (normal(6),), {"kwargs": {"scale": 3.0}}


@bug("static axis: wrong axis chosen", "wrong_axis", "unknown", "missing_term", "transposed")
def _():
    @functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
    def f(x, axis):
        return softmax(x) if axis else softmax(x.T).T

    def bwd(axis, y, g):
        return (y * (g - (g * y).sum(-1, keepdims=True)),)

    f.defvjp(lambda x, axis: (f(x, axis), f(x, axis)), bwd)
    return f, (normal(4, 4), 0)


@bug("dict out: gradient of second output dropped", "missing_term", "elements", "zero", "unknown")
def _():
    f = rule(lambda x: {"a": x * x, "b": jnp.sin(x)}, lambda a, y, g: (2 * a[0] * g["a"],))
    return f, (normal(6),)


@bug("tuple out: outputs' cotangents exchanged", "unknown", "swapped")
def _():
    f = rule(lambda x, y: (x * y, x + y), lambda a, o, g: (g[1] * a[1] + g[0], g[1] * a[0] + g[0]))
    return f, (normal(6), normal(6, seed=1))


@bug("namedtuple params swapped leaves", "swapped", "unknown")
def _():

    T = collections.namedtuple("T", "a b")
    f = rule(
        lambda p: jnp.sin(p.a) * p.b,
        lambda a, o, g: (T(g * jnp.sin(a[0].a), g * jnp.cos(a[0].a) * a[0].b),),
    )
    return f, (T(normal(6), normal(6, seed=1)),)


@bug("embedding: padding row dropped", "elements")
def _():
    ids = jnp.asarray(np.array([[0, 1, 1], [3, 3, 0]]))
    f = rule(
        lambda t, i: t[i], lambda a, o, g: (jnp.zeros_like(a[0]).at[a[1]].add(g).at[0].set(0), None)
    )
    return f, (normal(5, 4), ids)


@bug("dropout: mask of another key", "elements", "unknown")
def _():
    def fw(x, key):
        return jnp.where(jax.random.bernoulli(key, 0.5, x.shape), x * 2, 0)

    f = rule(
        fw,
        lambda a, o, g: (
            jnp.where(jax.random.bernoulli(jax.random.fold_in(a[1], 1), 0.5, g.shape), g * 2, 0),
            None,
        ),
    )
    return f, (normal(40), jax.random.key(5))


@bug("batch norm eval of train: no statistics path", "missing_term")
def _():
    def fw(x, s):
        c = x - x.mean(0, keepdims=True)
        r = lax.rsqrt((c * c).mean(0, keepdims=True) + 1e-5)
        return c * r * s[None]

    def bwd(a, y, g):
        x, s = a
        c = x - x.mean(0, keepdims=True)
        r = lax.rsqrt((c * c).mean(0, keepdims=True) + 1e-5)
        return (g * s[None] * r, (g * c * r).sum(0))

    return rule(fw, bwd), (normal(6, 4), positive(4))


@bug("lstm: forget gate path missing", "missing_term", "unknown", "zero")
def _():
    def cell(x, h, c, w):
        z = jnp.concatenate([x, h], -1) @ w
        i, f, o, u = jnp.split(z, 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(u)
        return jax.nn.sigmoid(o) * jnp.tanh(c), c

    def wrongcell(x, h, c, w):
        z = jnp.concatenate([x, h], -1) @ w
        i, f, o, u = jnp.split(z, 4, -1)
        c = lax.stop_gradient(jax.nn.sigmoid(f)) * c + jax.nn.sigmoid(i) * jnp.tanh(u)
        return jax.nn.sigmoid(o) * jnp.tanh(c), c

    return rule(cell, lambda a, y, g: jax.vjp(wrongcell, *a)[1](g)), (
        normal(2, 3),
        normal(2, 4),
        normal(2, 4, seed=3),
        normal(7, 16, seed=4),
    )


@bug("attention causal: mask not applied to dk", "missing_term", "unknown", "elements")
def _():
    def fw(q, k, v):
        s = q @ k.T / 2
        s = jnp.where(jnp.tri(5, dtype=bool), s, -1e30)
        return softmax(s) @ v

    def un(q, k, v):
        return softmax(q @ k.T / 2) @ v

    def bwd(a, y, g):
        d = jax.vjp(fw, *a)[1](g)
        e = jax.vjp(un, *a)[1](g)
        return d[0], e[1], d[2]

    return rule(fw, bwd), (normal(5, 4), normal(5, 4, seed=1), normal(5, 4, seed=2))


@bug("only batch one wrong", "scaled", "zero")
def _():
    def change(d, a, g):
        return (d[0], d[1] * (0.5 if a[0].shape[0] == 1 else 1))

    return changed(jnp.matmul, change), (normal(1, 5), normal(5, 4, seed=1))


@bug(
    "vmap: custom_vmap of bwd ignoring in the batch", "unknown", "elements", "scaled", "wrong_axis"
)
def _():
    h = jax.custom_batching.custom_vmap(lambda x: jnp.cos(x))
    h.def_vmap(lambda size, flags, x: (jnp.cos(x[0]) + 0 * x if flags[0] else jnp.cos(x), flags[0]))
    return rule(jnp.sin, lambda a, y, g: (g * h(a[0]),)), (normal(6),)


@bug("opaque large: 10 percent", "scaled")
def _():
    def f(x):
        return jax.pure_callback(
            lambda z: np.sin(z).astype(np.asarray(z).dtype),
            jax.ShapeDtypeStruct(x.shape, x.dtype),
            x,
            vmap_method="expand_dims",
        )

    return rule(f, lambda a, y, g: (1.1 * g * jnp.cos(a[0]),)), (normal(50_000),)


@bug("opaque with reference: one element", "elements")
def _():
    def f(x):
        return jax.pure_callback(
            lambda z: np.sin(z).astype(np.asarray(z).dtype),
            jax.ShapeDtypeStruct(x.shape, x.dtype),
            x,
            vmap_method="expand_dims",
        )

    return (
        rule(f, lambda a, y, g: ((g * jnp.cos(a[0])).at[3].mul(1.001),)),
        (normal(1000),),
        {"reference": jnp.sin},
    )


@bug("psum missing inside shard_map loss", "missing_psum", "scaled", devices=2)
def _():
    mesh = jax.make_mesh((2,), ("d",), (AxisType.Auto,), devices=jax.devices()[:2])
    spread = functools.partial(jax.shard_map, mesh=mesh, check_vma=False)
    loss = spread(
        lambda x, w: lax.pmean(jnp.mean((x @ w) ** 2), "d"), in_specs=(P("d"), P()), out_specs=P()
    )
    gw = spread(
        lambda x, w, g: 2 * g * x.T @ (x @ w) / (x.shape[0] * w.shape[1]),
        in_specs=(P("d"), P(), P()),
        out_specs=P(),
    )
    f = rule(loss, lambda a, y, g: (jax.vjp(loss, *a)[1](g)[0], gw(a[0], a[1], g)))
    return f, (normal(8, 3), normal(3, 4, seed=1))


@bug("float16 only: negated", "negated")
def _():
    return (
        rule(jnp.tanh, lambda a, y, g: ((-1 if g.dtype == jnp.float16 else 1) * g * (1 - y * y),)),
        (normal(30),),
        STRICT,
    )


@bug("value only wrong in float32", "value_differs")
def _():
    return rule(
        jnp.sin,
        lambda x, g: (g * jnp.cos(x),),
        lambda x: ((1.01 if x.dtype == jnp.float32 else 1) * jnp.sin(x), x),
    ), (normal(9),)


@bug("bool cotangent", "dtype", "ignores_cotangent", "shape")
def _():
    return rule(lambda x: jnp.maximum(x, 0), lambda a, y, g: (a[0] > 0,)), (normal(6),)


@bug("fwd no residual pair", "shape", "unknown")
def _():
    f = jax.custom_vjp(lambda x: jnp.sin(x))
    f.defvjp(lambda x: jnp.sin(x), lambda r, g: (g,))
    return f, (normal(4),)


@bug("random: jax.random with python counter", "nondeterministic")
def _():
    n = [0]

    def bwd(a, y, g):
        n[0] += 1
        return (
            g
            * jnp.cos(a[0])
            * (1 + 0.1 * jax.random.normal(jax.random.key(n[0]), g.shape)).astype(g.dtype),
        )

    return rule(jnp.sin, bwd), (normal(5),)


@bug("the backward pass takes a jvp of a custom_vjp", "unknown")
def _():
    sin = rule(jnp.sin, lambda a, y, g: (g * jnp.cos(a[0]),))
    return rule(jnp.sin, lambda a, y, g: (jax.jvp(sin, (a[0],), (g,))[1],)), (normal(5),)


@bug("divides by 0 everywhere", "unknown", "elements")
def _():
    return rule(jnp.sin, lambda a, y, g: (g / 0,)), (normal(5),)
