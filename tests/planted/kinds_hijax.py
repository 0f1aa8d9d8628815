"""Planted bugs in hijax primitives: each of their rules is written apart from the others."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.experimental import hijax as hi

from .made import elementwise, hijax
from .row import bug, normal, positive


def there(g):
    """A cotangent, with zeros for one that is not there."""
    return hi.instantiate_zeros(g)


def sin(**rules):
    given = {
        "vjp_bwd_retval": lambda self, res, g: (there(g) * jnp.cos(res[0]),),
        "jvp": lambda self, p, t: (self(*p), there(t[0]) * jnp.cos(p[0])),
    }
    return hijax(lambda x: jnp.sin(x), **given | rules)


def times(**rules):
    given = {"vjp_bwd_retval": lambda self, res, g: (there(g) * res[1], there(g) * res[0])}
    return hijax(lambda x, y: x * y, **given | rules)


def two(bwd):
    """Two outputs, of which one may have no cotangent."""
    return hijax(lambda x: (jnp.sin(x), x * x), vjp_bwd_retval=bwd)


X, Y = normal(6), normal(6, seed=1)


@bug("hijax: twice the cotangent", "scaled")
def _():
    f = sin(vjp_bwd_retval=lambda self, res, g: (2 * there(g) * jnp.cos(res[0]),))
    return f, (X,)


@bug("hijax: the wrong sign, inside jit and a sum", "negated")
def _():
    f = sin(vjp_bwd_retval=lambda self, res, g: (-there(g) * jnp.cos(res[0]),))
    return jax.jit(lambda x: f(x).sum()), (X,)


@bug("hijax: the cotangent forgotten", "ignores_cotangent")
def _():
    return sin(vjp_bwd_retval=lambda self, res, g: (jnp.cos(res[0]),)), (X,)


@bug("hijax: the cotangent clipped", "nonlinear_in_cotangent", "surrogate")
def _():
    def bwd(self, res, g):
        return (jnp.clip(there(g), -1, 1) * jnp.cos(res[0]),)

    return sin(vjp_bwd_retval=bwd), (X,)


@bug("hijax: zero from the fifth element on", "elements", "missing_term")
def _():
    def bwd(self, res, g):
        return ((there(g) * jnp.cos(res[0])).at[4:].set(0),)

    return sin(vjp_bwd_retval=bwd, batch=None), (X,)


@bug("hijax: the arguments' cotangents exchanged", "swapped")
def _():
    f = times(vjp_bwd_retval=lambda self, res, g: (there(g) * res[0], there(g) * res[1]))
    return f, (X, Y)


@bug("hijax: a term of the product rule missing", "missing_term")
def _():
    def bwd(self, res, g):
        (x,) = res
        return (there(g) * jnp.sin(x),)

    return hijax(lambda x: x * jnp.sin(x), vjp_bwd_retval=bwd), (X,)


@bug("hijax: the transpose of a square matrix product", "transposed", "unknown", "wrong_axis")
def _():
    def bwd(self, res, g):
        a, b = res
        return there(g) @ b, a.T @ there(g)

    return hijax(lambda a, b: a @ b, vjp_bwd_retval=bwd, batch=None), (
        normal(4, 4),
        normal(4, 4, seed=1),
    )


@bug("hijax: vjp_fwd gives another value", "value_differs")
def _():
    return sin(vjp_fwd=lambda self, nzs, x: (1.01 * self(x), (x,))), (X,)


@bug("hijax: jvp three times too large", "scaled")
def _():
    return sin(jvp=lambda self, p, t: (self(*p), 3 * there(t[0]) * jnp.cos(p[0]))), (X,)


@bug("hijax: jvp without the second argument's tangent", "missing_term", "unknown", "elements")
def _():
    f = times(jvp=lambda self, p, t: (self(*p), there(t[0]) * p[1]))
    return f, (X, Y)


@bug("hijax: jvp of the tangent's size", "nonlinear_in_tangent")
def _():
    return sin(jvp=lambda self, p, t: (self(*p), jnp.abs(there(t[0])) * jnp.cos(p[0]))), (X,)


@bug("hijax: lin and linearized of the wrong sign", "negated")
def _():
    f = sin(
        lin=lambda self, nzs, x: (self(x), jnp.cos(x)),
        linearized=lambda self, res, t: -there(t) * res,
    )
    return f, (X,)


@bug("hijax: batch takes the first axis for granted", "unknown", "elements", "transposed", "shape")
def _():
    def batch(self, axis, args, dims):
        x = args[0].reshape(axis.size, -1)
        out = type(self)(jax.typeof(x))(x)
        return out, 0

    return sin(batch=batch), (normal(6),)


@bug("hijax: batch takes the first example for all", "elements", "unknown")
def _():
    def batch(self, axis, args, dims):
        x = jnp.moveaxis(args[0], dims[0], 0)
        x = jnp.broadcast_to(x[:1], x.shape)
        return type(self)(jax.typeof(x))(x), 0

    return sin(batch=batch), (X,)


@bug("hijax: batch of one argument, the other shared, adds up", "unknown", "elements", "scaled")
def _():
    def batch(self, axis, args, dims):
        out, axes = elementwise(self, axis, args, dims)
        return (out if None not in dims else out * axis.size), axes

    return times(batch=batch), (X, Y)


@bug("hijax: another cotangent where one argument alone is differentiated", "scaled")
def _():
    def fwd(self, nzs, x, y):
        return self(x, y), (x, y, jnp.where(all(nzs), 1.0, 2.0).astype(x.dtype))

    def bwd(self, res, g):
        x, y, c = res
        return c * there(g) * y, there(g) * x

    return times(vjp_fwd=fwd, vjp_bwd_retval=bwd), (X, Y)


@bug("hijax: no thought of an output without a cotangent", "unknown")
def _():
    return two(lambda self, res, g: (g[0] * jnp.cos(res[0]) + 2 * g[1] * res[0],)), (X,)


@bug("hijax: an output without a cotangent counts as one of ones", "unknown", "elements", "scaled")
def _():
    def bwd(self, res, g):
        a, b = (jnp.ones(x.aval.shape, x.aval.dtype) if isinstance(x, hi.Zero) else x for x in g)
        return (a * jnp.cos(res[0]) + 2 * b * res[0],)

    return two(bwd), (X,)


@bug("hijax: vjp_bwd writes over what is in the reference", "overwrites")
def _():
    def bwd(self, res, g, into):
        d = there(g) * jnp.cos(res[0])
        if getattr(into, "ref", None) is not None:
            into.ref[...] = d
        else:
            into.accum(d)

    return sin(vjp_bwd=bwd, vjp_bwd_retval=None), (X,)


@bug("hijax: vjp_bwd adds to a reference twice", "scaled")
def _():
    def bwd(self, res, g, into):
        d = there(g) * jnp.cos(res[0])
        into.accum(d)
        if getattr(into, "ref", None) is not None:
            into.accum(d)

    return sin(vjp_bwd=bwd, vjp_bwd_retval=None), (X,)


@bug("hijax: transpose of a linear primitive twice too large", "scaled")
def _():
    def transpose(self, g, into):
        into.accum(6 * there(g))

    f = hijax(
        lambda x: 3 * x,
        transpose=transpose,
        vjp_bwd_retval=lambda self, res, g: (3 * there(g),),
        jvp=lambda self, p, t: (self(*p), self(there(t[0]))),
    )
    return f, (X,)


@bug("hijax: right at positive numbers only", "elements")
def _():
    f = hijax(
        lambda x: jnp.sqrt(x * x + 1),
        vjp_bwd_retval=lambda self, res, g: (
            there(g) * jnp.abs(res[0]) / jnp.sqrt(res[0] ** 2 + 1),
        ),
    )
    return f, (jnp.concatenate([positive(3), -positive(3, seed=1)]),)


@bug("hijax: under scan", "scaled")
def _():
    f = sin(vjp_bwd_retval=lambda self, res, g: (0.5 * there(g) * jnp.cos(res[0]),))
    return lambda xs: jax.lax.scan(lambda c, x: (c, f(x)), 0.0, xs)[1], (normal(3, 4),)
