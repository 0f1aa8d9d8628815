"""Planted bugs in primitives of one's own, and in linear functions and solvers with rules."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import linear_call
from jax.interpreters import ad, batching

from .made import primitive
from .row import bug, normal, positive

X, Y = normal(6), normal(6, seed=1)
A = jnp.asarray([[4.0, 1.0, 0.2], [0.5, 3.0, 0.1], [0.3, 0.7, 2.0]], "float32")
B = normal(3)


@bug("primitive: defjvp twice too large, its implementation known", "scaled")
def _():
    p = primitive("sin_known", jnp.sin)
    ad.defjvp(p, lambda t, x: 2 * t * jnp.cos(x))
    return p.bind, (X,)


@bug("primitive: defjvp twice too large, and nothing to look into", "scaled")
def _():
    p = primitive("sin_closed", jnp.sin, opaque=True)
    ad.defjvp(p, lambda t, x: 2 * t * jnp.cos(x))
    return p.bind, (X,)


@bug("primitive: defjvp of the wrong sign, in a net", "negated")
def _():
    p = primitive("tanh_closed", jnp.tanh, opaque=True)
    ad.defjvp(p, lambda t, x: -t * (1 - jnp.tanh(x) ** 2))
    return lambda x: p.bind(x), (X,)


@bug("primitive: defjvp without the second argument", "zero")
def _():
    p = primitive("mul_closed", jnp.multiply, opaque=True)
    ad.defjvp(p, lambda t, x, y: t * y, None)
    return p.bind, (X, Y)


@bug("primitive: defjvp with the arguments exchanged", "swapped", "unknown")
def _():
    p = primitive("mul_known", jnp.multiply)
    ad.defjvp(p, lambda t, x, y: t * x, lambda t, x, y: t * y)
    return p.bind, (X, Y)


@bug("primitive: forward mode right, and its transpose twice too large", "scaled", "not_adjoint")
def _():
    p = primitive("sin_apart", jnp.sin, opaque=True)
    ad.primitive_jvps[p] = lambda primals, tangents: (
        p.bind(*primals),
        linear_call(lambda c, t: c * t, lambda c, g: 2 * c * g, jnp.cos(primals[0]), tangents[0]),
    )
    return p.bind, (X,)


@bug("primitive: one element in defjvp", "elements")
def _():
    p = primitive("exp_closed", jnp.exp, opaque=True)
    ad.defjvp(p, lambda t, x: (t * jnp.exp(x)).at[3].mul(1.01))
    return p.bind, (X,)


@bug("primitive: one element of many in defjvp", "unknown", "elements")
def _():
    p = primitive("exp_large", jnp.exp, opaque=True)
    ad.defjvp(p, lambda t, x: (t * jnp.exp(x)).at[137].mul(3.0))
    return p.bind, (normal(300),)


@bug("primitive: its transpose three times too large", "scaled")
def _():
    p = primitive("double_known", lambda x: 2 * x)
    ad.deflinear2(p, lambda g, x: [6 * g])
    return p.bind, (X,)


@bug("primitive: its transpose of the wrong sign, and nothing to look into", "negated")
def _():
    p = primitive("double_closed", lambda x: 2 * x, opaque=True)
    ad.deflinear2(p, lambda g, x: [-2 * g])
    return lambda x: jnp.sin(p.bind(x)), (X,)


@bug("primitive: its batcher takes the first axis for granted", "unknown", "elements", "shape")
def _():
    p = primitive("cumsum_known", lambda x: jnp.cumsum(x, -1))
    ad.deflinear2(p, lambda g, x: [jnp.flip(jnp.cumsum(jnp.flip(g, -1), -1), -1)])
    batching.primitive_batchers[p] = lambda args, dims: (p.bind(args[0]), 0)
    return p.bind, (normal(3),)


@bug("primitive: a custom_vjp around one that is wrong inside", "scaled")
def _():
    p = primitive("sin_inside", jnp.sin, opaque=True)
    ad.defjvp(p, lambda t, x: 1.5 * t * jnp.cos(x))
    f = jax.custom_vjp(lambda x: p.bind(x))
    f.defvjp(lambda x: (p.bind(x), x), lambda x, g: jax.vjp(p.bind, x)[1](g))
    return f, (X,)


@bug("linear_call: the transpose 1.5 times too large", "scaled")
def _():
    return lambda x: linear_call(lambda r, x: 2 * r * x, lambda r, g: 3 * r * g, Y, x), (X,)


@bug("linear_call: the transpose of the wrong sign, under sin", "negated")
def _():
    def f(x):
        return jnp.sin(linear_call(lambda r, x: 2 * r * x, lambda r, g: -2 * r * g, Y, x))

    return f, (X,)


@bug("linear_call: the matrix not transposed", "transposed", "unknown", "wrong_axis")
def _():
    return lambda x: linear_call(lambda r, x: r @ x, lambda r, g: r @ g, A, x), (B,)


@bug("linear_call: shifted the wrong way back", "unknown", "elements", "wrong_axis", "missing_term")
def _():
    def f(x):
        return linear_call(lambda r, x: jnp.roll(x, 2), lambda r, g: jnp.roll(g, 2), (), x)

    return f, (X,)


def like(x):
    """The matrix, in the dtype of `x`."""
    return A.astype(x.dtype)


def solver(transpose, **options):
    def f(b):
        return lax.custom_linear_solve(
            lambda x: like(x) @ x,
            b,
            lambda mv, b: jnp.linalg.solve(like(b), b),
            transpose,
            **options,
        )

    return f


@bug("linear solve: transpose_solve 1.5 times too large", "scaled")
def _():
    return solver(lambda vm, b: 1.5 * jnp.linalg.solve(like(b).T, b)), (B,)


@bug("linear solve: transpose_solve does not transpose", "unknown", "transposed", "elements")
def _():
    return solver(lambda vm, b: jnp.linalg.solve(like(b), b)), (B,)


@bug("linear solve: said to be symmetric, and it is not", "unknown", "elements")
def _():
    return solver(None, symmetric=True), (B,)


@bug("linear solve: transpose_solve ignores a row, in a larger function", "elements", "unknown")
def _():
    f = solver(lambda vm, b: jnp.linalg.solve(like(b).T, b.at[1].set(0)))
    return lambda b: jnp.tanh(f(jnp.sin(b))), (B,)


def root(tangent_solve):
    def cbrt(a):
        return lax.custom_root(
            lambda x: x**3 - a,
            jnp.ones_like(a),
            lambda f, x0: lax.fori_loop(0, 12, lambda i, x: x - f(x) / (3 * x * x), x0),
            tangent_solve,
        )

    return cbrt


@bug("custom_root: tangent_solve forgets the slope's factor", "scaled")
def _():
    return root(lambda g, y: 3 * y / g(jnp.ones_like(y))), (positive(4),)


@bug("custom_root: tangent_solve of the wrong sign", "negated")
def _():
    return root(lambda g, y: -y / g(jnp.ones_like(y))), (positive(4),)


@bug("custom_root: tangent_solve multiplies instead of dividing", "unknown", "elements")
def _():
    return root(lambda g, y: y * g(jnp.ones_like(y))), (positive(4),)


@bug("custom_root: by a while loop, tangent_solve twice too large", "scaled")
def _():
    def cbrt(a):
        return lax.custom_root(
            lambda x: x**3 - a,
            jnp.ones_like(a),
            lambda f, x0: lax.while_loop(
                lambda s: s[0] < 12, lambda s: (s[0] + 1, s[1] - f(s[1]) / (3 * s[1] ** 2)), (0, x0)
            )[1],
            lambda g, y: 2 * y / g(jnp.ones_like(y)),
        )

    return cbrt, (positive(4),)
