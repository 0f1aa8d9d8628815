"""Planted bugs in `custom_jvp`, `custom_gradient`, `custom_vmap`, and rules with symbolic zeros."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap, sequential_vmap
from jax.custom_derivatives import SymbolicZero
from jax.experimental import pallas as pl

from .row import bug, normal, rule

X, Y, Z = normal(6), normal(6, seed=1), normal(6, seed=2)


def jvp(f, rule, **options):
    f = jax.custom_jvp(f)
    f.defjvp(rule, **options)
    return f


@bug("custom_jvp: the tangent 1.1 times too large", "scaled")
def _():
    return jvp(jnp.sin, lambda p, t: (jnp.sin(p[0]), 1.1 * t[0] * jnp.cos(p[0]))), (X,)


@bug("custom_jvp: one of two tangents dropped by defjvps", "zero")
def _():
    f = jax.custom_jvp(lambda x, y: jnp.sin(x) * y)
    f.defjvps(lambda t, out, x, y: t * jnp.cos(x) * y, None)
    return f, (X, Y)


@bug("custom_jvp: another value under differentiation", "value_differs")
def _():
    return jvp(jnp.sin, lambda p, t: (p[0], t[0] * jnp.cos(p[0]))), (X,)


@bug("custom_jvp: another tangent where one argument alone moves", "scaled")
def _():
    def rule(p, t):
        alone = any(type(v) is SymbolicZero for v in t)
        dx, dy = (jnp.zeros(v.shape, v.dtype) if type(v) is SymbolicZero else v for v in t)
        return p[0] * p[1], (2 if alone else 1) * (dx * p[1] + p[0] * dy)

    return jvp(lambda x, y: x * y, rule, symbolic_zeros=True), (X, Y)


@bug("custom_jvp: the tangent of the wrong output", "swapped", "unknown", "elements")
def _():
    def rule(p, t):
        (x,), (dx,) = p, t
        return (jnp.sin(x), x * x), (2 * x * dx, dx * jnp.cos(x))

    return jvp(lambda x: (jnp.sin(x), x * x), rule), (X,)


@bug("custom_gradient: the cotangent twice", "scaled")
def _():
    return jax.custom_gradient(lambda x: (jnp.sin(x), lambda g: 2 * g * jnp.cos(x))), (X,)


@bug("custom_gradient: two arguments exchanged", "swapped")
def _():
    def f(x, y):
        return jnp.sin(x) * y, lambda g: (g * jnp.sin(x), g * jnp.cos(x) * y)

    return jax.custom_gradient(f), (X, Y)


@bug("custom_gradient: the square of the cotangent", "nonlinear_in_cotangent")
def _():
    return jax.custom_gradient(lambda x: (jnp.sin(x), lambda g: g * g * jnp.cos(x))), (X,)


def vmapped(f, rule):
    f = custom_vmap(f)
    f.def_vmap(rule)
    return f


@bug("custom_vmap: the rule computes something else", "scaled")
def _():
    return vmapped(lambda x: jnp.sin(x), lambda n, b, x: (1.01 * jnp.sin(x), b[0])), (X,)


@bug("custom_vmap: the rule takes a shared argument for batched", "unknown", "elements", "shape")
def _():
    def rule(n, batched, x, y):
        x = x if batched[0] else jnp.broadcast_to(x, (n, *x.shape))
        return x * (y if batched[1] else jnp.flip(y)), True

    return vmapped(lambda x, y: x * y, rule), (X, Y)


@bug("custom_vmap: a softmax over the batch too", "unknown", "elements", "scaled")
def _():
    def rule(n, batched, x):
        e = jnp.exp(x - x.max())
        return e / e.sum(), True

    return vmapped(lambda x: jax.nn.softmax(x), rule), (X,)


@bug("custom_vmap: the batch the wrong way round", "elements", "unknown", "transposed")
def _():
    return vmapped(lambda x: jnp.cos(x), lambda n, b, x: (jnp.flip(jnp.cos(x), 0), True)), (X,)


@bug("custom_vmap: right for each alone, wrong for both", "scaled", "elements")
def _():
    def rule(n, batched, x, y):
        out = x * y
        return (2 * out if all(batched) else out), True

    return vmapped(lambda x, y: x * y, rule), (X, Y)


@bug("custom_vmap: inside a custom_vjp, in its forward pass", "scaled", "value_differs")
def _():
    inner = vmapped(lambda x: jnp.sin(x), lambda n, b, x: (3 * jnp.sin(x), b[0]))
    return rule(lambda x: inner(x) * 2, lambda a, y, g: (2 * jnp.cos(a[0]) * g,)), (X,)


@bug("sequential_vmap: a custom_vjp around it, twice too large", "scaled")
def _():
    inner = sequential_vmap(jnp.sin)
    return rule(lambda x: inner(x), lambda a, y, g: (2 * jnp.cos(a[0]) * g,)), (X,)


def symbolic(f, fwd, bwd):
    f = jax.custom_vjp(f)
    f.defvjp(fwd, bwd, symbolic_zeros=True)
    return f


def there(g):
    return jnp.zeros(g.shape, g.dtype) if isinstance(g, SymbolicZero) else g


@bug("symbolic zeros: wrong in x where y is held fixed", "scaled")
def _():
    def fwd(x, y):
        return x.value * y.value, (x.value, y.value, x.perturbed and y.perturbed)

    def bwd(res, g):
        x, y, both = res
        g = there(g)
        return (g * y, g * x) if both else (2 * g * y, g * x)

    return symbolic(lambda x, y: x * y, fwd, bwd), (X, Y)


@bug("symbolic zeros: None for a pair that is asked for", "zero")
def _():
    def fwd(x, y, z):
        pair = x.perturbed and y.perturbed and not z.perturbed
        return x.value * y.value * z.value, (x.value, y.value, z.value, pair)

    def bwd(res, g):
        x, y, z, pair = res
        g = there(g)
        return (None if pair else g * y * z), g * x * z, g * x * y

    return symbolic(lambda x, y, z: x * y * z, fwd, bwd), (X, Y, Z)


@bug("symbolic zeros: an output that is not used counts", "unknown", "elements", "scaled")
def _():
    def bwd(x, g):
        a, b = (jnp.ones(v.shape, v.dtype) if isinstance(v, SymbolicZero) else v for v in g)
        return (a * jnp.cos(x) - b * jnp.sin(x),)

    f = symbolic(
        lambda x: (jnp.sin(x), jnp.cos(x)),
        lambda x: ((jnp.sin(x.value), jnp.cos(x.value)), x.value),
        bwd,
    )
    return f, (X,)


@bug("symbolic zeros: raises where an output is not used", "unknown")
def _():
    f = symbolic(
        lambda x: (jnp.sin(x), jnp.cos(x)),
        lambda x: ((jnp.sin(x.value), jnp.cos(x.value)), x.value),
        lambda x, g: (g[0] * jnp.cos(x) - g[1] * jnp.sin(x),),
    )
    return f, (X,)


@bug("optimize_remat: the cotangent halved", "scaled")
def _():
    f = jax.custom_vjp(jnp.sin)
    f.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (0.5 * g * jnp.cos(x),), optimize_remat=True)
    return f, (X,)


def kernel(body, x):
    return pl.pallas_call(body, out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype), interpret=True)(x)


def _sin(x_ref, o_ref):
    o_ref[...] = jnp.sin(x_ref[...])


def _half_of_cos(x_ref, o_ref):
    o_ref[...] = jnp.zeros_like(x_ref[...])
    o_ref[:4] = jnp.cos(x_ref[:4])


@bug("pallas: the backward kernel 1.2 times too large", "scaled")
def _():
    return rule(lambda x: kernel(_sin, x), lambda a, y, g: (1.2 * g * jnp.cos(a[0]),)), (X,)


@bug("pallas: the backward kernel writes the first block only", "elements")
def _():
    return rule(lambda x: kernel(_sin, x), lambda a, y, g: (g * kernel(_half_of_cos, a[0]),)), (X,)


def callback(f, x, **options):
    return jax.pure_callback(f, jax.ShapeDtypeStruct(x.shape, x.dtype), x, **options)


@bug("callback: told to be vectorised, and it adds up over the batch", "unknown", "elements")
def _():
    def share(x):
        return np.asarray(x) / np.abs(x).sum()

    def f(x):
        return callback(share, x, vmap_method="expand_dims")

    def bwd(a, y, g):
        x = a[0]
        n = jnp.abs(x).sum()
        return (g / n - jnp.sign(x) * (g * x).sum() / n**2,)

    return rule(f, bwd), (X,)


@bug("callback: custom_jvp with the wrong sign", "negated")
def _():
    def f(x):
        return callback(lambda x: np.sin(x).astype(x.dtype), x, vmap_method="expand_dims")

    return jvp(f, lambda p, t: (f(p[0]), -t[0] * jnp.cos(p[0]))), (X,)
