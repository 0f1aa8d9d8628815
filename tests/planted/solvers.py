"""Rules of solvers: the value is as exact as the tolerance, the gradient is the implicit one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .row import bug, f32, normal, positive, right, rule


def implicit(solve, slope):
    """`solve` with the rule of the root it looks for: ``slope(root, args) -> factors of g``."""

    def bwd(args, x, g):
        return tuple(g * d for d in slope(x, *args))

    return rule(solve, bwd)


def cubic(x, a):
    return x**3 + x - a


def _halved(residual, a, steps):
    def body(_, ends):
        lo, hi = ends
        mid = (lo + hi) / 2
        up = residual(mid, a) < 0
        return jnp.where(up, mid, lo), jnp.where(up, hi, mid)

    lo, hi = lax.fori_loop(0, steps, body, (jnp.zeros_like(a), 4 * jnp.ones_like(a)))
    return (lo + hi) / 2


def bisected(steps):
    return lambda a: _halved(cubic, a, steps)


def bisected_until(width):
    def solve(a):
        def body(ends):
            lo, hi = ends
            mid = (lo + hi) / 2
            up = cubic(mid, a) < 0
            return jnp.where(up, mid, lo), jnp.where(up, hi, mid)

        ends = (jnp.zeros_like(a), 4 * jnp.ones_like(a))
        lo, hi = lax.while_loop(lambda s: jnp.any(s[1] - s[0] > width), body, ends)
        return (lo + hi) / 2

    return solve


def fixed_point(near):
    """x = a cos x, by iteration."""

    def solve(a):
        def body(s):
            return jnp.cos(s[0]) * a, s[0]

        return lax.while_loop(lambda s: jnp.any(jnp.abs(s[0] - s[1]) > near), body, (a, a + 1))[0]

    return solve


def of_the_cosine(x, a):
    return (jnp.cos(x) / (1 + a * jnp.sin(x)),)


def newton(near):
    def solve(a):
        def wrong(x):
            return jnp.max(jnp.abs(x**3 - a)) > near

        return lax.while_loop(wrong, lambda x: x - (x**3 - a) / (3 * x * x), jnp.ones_like(a))

    return solve


def heron(steps):
    def solve(a):
        return lax.fori_loop(0, steps, lambda _, x: (x + a / x) / 2, jnp.ones_like(a))

    return solve


def relaxed(steps):
    """x = tanh(W x + b), by so many iterations."""

    def solve(w, b):
        return lax.fori_loop(0, steps, lambda _, x: jnp.tanh(w @ x + b), jnp.zeros_like(b))

    return solve


def of_the_relaxed(wrong=1.0):
    def bwd(args, x, g):
        w, _ = args
        d = 1 - x * x
        u = jnp.linalg.solve(jnp.eye(len(x), dtype=x.dtype) - wrong * w.T * d[None], g)
        return jnp.outer(u * d, x), u * d

    return bwd


def conjugate_gradients(near):
    def solve(b):
        a = jnp.asarray(matrix(), b.dtype)

        def body(s):
            x, r, p, rr = s
            q = a @ p
            alpha = rr / (p @ q)
            r = r - alpha * q
            new = r @ r
            return x + alpha * p, r, r + new / rr * p, new

        start = (jnp.zeros_like(b), b, b, b @ b)
        return lax.while_loop(lambda s: s[3] > near**2 * (b @ b), body, start)[0]

    return solve


def matrix(n=5):
    m = np.random.default_rng(3).normal(size=(n, n)).astype(np.float32)
    return m @ m.T / n + 2 * np.eye(n, dtype=np.float32)


def largest_eigenvalue(steps):
    def solve(m):
        def body(_, v):
            w = m @ v
            return w / jnp.linalg.norm(w)

        v = lax.fori_loop(0, steps, body, jnp.ones(len(m), m.dtype))
        return v @ m @ v

    return solve


def on_the_host(steps, dtype=None):
    """The cubic's root, found by NumPy."""

    def solve(a):
        def host(a):
            a = np.asarray(a)
            lo, hi = np.zeros_like(a), 4 * np.ones_like(a)
            for _ in range(steps):
                mid = (lo + hi) / 2
                up = cubic(mid, a) < 0
                lo, hi = np.where(up, mid, lo), np.where(up, hi, mid)
            return ((lo + hi) / 2).astype(a.dtype)

        shape = jax.ShapeDtypeStruct(a.shape, a.dtype)
        return jax.pure_callback(host, shape, a, vmap_method="sequential")

    return solve


def of_the_cubic(x, a):
    return (1 / (3 * x * x + 1),)


def some():
    return (f32(1.0, 2.5, 4.0),)


right("bisection of 18 steps")(lambda: (implicit(bisected(18), of_the_cubic), some()))
right("bisection until 1e-5")(lambda: (implicit(bisected_until(1e-5), of_the_cubic), some()))
right("bisection until 1e-3")(lambda: (implicit(bisected_until(1e-3), of_the_cubic), some()))
right("bisection on the host to 1e-5")(lambda: (implicit(on_the_host(18), of_the_cubic), some()))
right("fixed point until 1e-4")(
    lambda: (implicit(fixed_point(1e-4), of_the_cosine), (f32(0.3, 0.6, 0.8),))
)
right("fixed point until 1e-3, said")(
    lambda: (implicit(fixed_point(1e-3), of_the_cosine), (f32(0.3, 0.6, 0.8),), {"tolerance": 1e-3})
)
right("cube root by Newton until 1e-3")(
    lambda: (implicit(newton(1e-3), lambda x, a: (1 / (3 * x * x),)), (f32(0.8, 1.7, 2.9),))
)
right("square root by 4 steps of Heron")(
    lambda: (implicit(heron(4), lambda x, a: (1 / (2 * x),)), (f32(0.5, 2.0, 3.0),))
)


@right("equilibrium of 12 iterations")
def _():
    return rule(relaxed(12), of_the_relaxed()), (0.2 * normal(4, 4), normal(4))


@right("conjugate gradients until 1e-4")
def _():
    solve = conjugate_gradients(1e-4)
    return rule(solve, lambda a, x, g: (solve(g),)), (normal(5),)


@right("largest eigenvalue by 20 steps")
def _():
    def bwd(args, y, g):
        v = jnp.linalg.eigh(args[0])[1][:, -1]
        return (g * jnp.outer(v, v),)

    return rule(largest_eigenvalue(20), bwd), (jnp.asarray(matrix()),)


@right("custom_root until 1e-6")
def _():
    def cbrt(a):
        return lax.custom_root(
            lambda x: x**3 - a,
            jnp.ones_like(a),
            lambda f, x: lax.while_loop(
                lambda x: jnp.abs(f(x)).max() > 1e-6, lambda x: x - f(x) / (3 * x * x), x
            ),
            lambda g, y: y / g(jnp.ones_like(y)),
        )

    return cbrt, (f32(0.8, 1.7, 2.9),)


bug("bisection: the slope lacks its 1", "unknown", "elements", "missing_term", "scaled")(
    lambda: (implicit(bisected(18), lambda x, a: (1 / (3 * x * x),)), some())
)
bug("bisection until 1e-5: twice", "scaled")(
    lambda: (implicit(bisected_until(1e-5), lambda x, a: (2 / (3 * x * x + 1),)), some())
)
bug("bisection on the host: a tenth too much", "scaled")(
    lambda: (implicit(on_the_host(20), lambda x, a: (1.1 / (3 * x * x + 1),)), some())
)
bug("fixed point: through the last step alone", "unknown", "missing_term", "elements")(
    lambda: (
        implicit(fixed_point(1e-5), lambda x, a: (jnp.cos(x),)),
        (f32(0.3, 0.6, 0.8),),
    )
)
bug("fixed point: wrong sign in the denominator", "unknown", "missing_term", "elements")(
    lambda: (
        implicit(fixed_point(1e-5), lambda x, a: (jnp.cos(x) / (1 - a * jnp.sin(x)),)),
        (f32(0.3, 0.6, 0.8),),
    )
)
bug("cube root by Newton: two thirds", "scaled")(
    lambda: (implicit(newton(1e-5), lambda x, a: (2 / (9 * x * x),)), (f32(0.8, 1.7, 2.9),))
)
bug("square root by Heron: negated", "negated")(
    lambda: (implicit(heron(5), lambda x, a: (-1 / (2 * x),)), (f32(0.5, 2.0, 3.0),))
)
bug("fixed point, tolerance said: a fifth too much", "scaled", "unknown")(
    lambda: (
        implicit(fixed_point(1e-5), lambda x, a: (1.2 * of_the_cosine(x, a)[0],)),
        (f32(0.3, 0.6, 0.8),),
        {"tolerance": 1e-4},
    )
)


@bug("equilibrium: the transposed is not transposed", "unknown", "missing_term")
def _():
    def bwd(args, x, g):
        w, _ = args
        d = 1 - x * x
        u = jnp.linalg.solve(jnp.eye(len(x), dtype=x.dtype) - w * d[None], g)
        return jnp.outer(u * d, x), u * d

    return rule(relaxed(40), bwd), (0.2 * normal(4, 4), normal(4))


@bug("conjugate gradients: sign", "negated")
def _():
    solve = conjugate_gradients(1e-5)
    return rule(solve, lambda a, x, g: (-solve(g),)), (normal(5),)


def _host_root(v):
    """Square roots by 16 bisections between 0 and v + 1: the bracket follows the argument."""
    v = np.asarray(v)
    low, high = np.zeros_like(v), v + 1
    for _ in range(16):
        middle = (low + high) / 2
        low, high = (
            np.where(middle * middle < v, middle, low),
            np.where(middle * middle < v, high, middle),
        )
    return ((low + high) / 2).astype(v.dtype)


def _by_the_host(factor):
    def root(x):
        like = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return jax.pure_callback(_host_root, like, x, vmap_method="expand_dims")

    return lambda: (rule(root, lambda a, y, g: (factor * g / (2 * y),)), (positive(3),))


right("bisection on the host, its bracket moving")(_by_the_host(1))
bug("bisection on the host, its bracket moving: a fifth too much", "scaled")(_by_the_host(1.2))
