"""Right rules of JAX's other mechanisms: hijax, primitives, linear functions, solvers, batching."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero, linear_call
from jax.interpreters import ad, batching
from jax.scipy.sparse.linalg import cg

from .kinds_custom import _sin, callback, jvp, kernel, symbolic, vmapped
from .kinds_custom import there as with_zeros
from .kinds_hijax import sin, there, times, two
from .kinds_linear import A, like, root, solver
from .made import hijax, primitive
from .row import normal, positive, right, rule

X, Y, Z = normal(6), normal(6, seed=1), normal(6, seed=2)


@right("hijax: sin, with every rule")
def _():
    f = sin(
        lin=lambda self, nzs, x: (self(x), jnp.cos(x)),
        linearized=lambda self, res, t: there(t) * res,
    )
    return f, (X,)


@right("hijax: a product of two arguments, without a forward mode")
def _():
    return times(), (X, Y)


@right("hijax: two outputs, of which one may have no cotangent")
def _():
    return two(lambda self, res, g: (there(g[0]) * jnp.cos(res[0]) + 2 * there(g[1]) * res[0],)), (
        X,
    )


@right("hijax: with accumulators")
def _():
    def bwd(self, res, g, dx, dy):
        x, y = res
        dx.accum(there(g) * y)
        dy.accum(there(g) * x)

    return times(vjp_bwd=bwd, vjp_bwd_retval=None), (X, Y)


@right("hijax: a linear function with its transpose")
def _():
    f = hijax(
        lambda x: 3 * x,
        transpose=lambda self, g, into: into.accum(3 * there(g)),
        vjp_bwd_retval=lambda self, res, g: (3 * there(g),),
        jvp=lambda self, p, t: (self(*p), self(there(t[0]))),
    )
    return f, (X,)


@right("hijax: a matrix product that cannot be batched")
def _():
    def bwd(self, res, g):
        a, b = res
        return there(g) @ b.T, a.T @ there(g)

    f = hijax(lambda a, b: a @ b, vjp_bwd_retval=bwd, batch=None)
    return f, (normal(4, 3), normal(3, 4, seed=1))


@right("primitive: nothing to look into")
def _():
    p = primitive("right_sin_closed", jnp.sin, opaque=True)
    ad.defjvp(p, lambda t, x: t * jnp.cos(x))
    batching.primitive_batchers[p] = lambda args, dims: (p.bind(args[0]), dims[0])
    return p.bind, (X,)


@right("primitive: nothing to look into, and large")
def _():
    p = primitive("right_exp_closed", jnp.exp, opaque=True)
    ad.defjvp(p, lambda t, x: t * jnp.exp(x))
    return p.bind, (normal(300),)


@right("primitive: linear, its implementation known")
def _():
    p = primitive("right_double", lambda x: 2 * x)
    ad.deflinear2(p, lambda g, x: [2 * g])
    batching.primitive_batchers[p] = lambda args, dims: (p.bind(args[0]), dims[0])
    return lambda x: jnp.sin(p.bind(x)), (X,)


@right("linear_call: a matrix and its transpose")
def _():
    return lambda x: jnp.sin(linear_call(lambda r, x: r @ x, lambda r, g: r.T @ g, A, x)), (
        normal(3),
    )


@right("linear solve: of a matrix that is not symmetric")
def _():
    return solver(lambda vm, b: jnp.linalg.solve(like(b).T, b)), (normal(3),)


@right("linear solve: by conjugate gradients of JAX, with a custom_vjp around")
def _():
    def f(b):
        return cg(lambda x: (like(x) + like(x).T) @ x, b, tol=1e-12)[0]

    return rule(f, lambda a, y, g: (f(g),)), (normal(3),)


@right("custom_root: a cube root by Newton's steps")
def _():
    return root(lambda g, y: y / g(jnp.ones_like(y))), (positive(4),)


@right("custom_root: by a while loop")
def _():
    def cbrt(a):
        return lax.custom_root(
            lambda x: x**3 - a,
            jnp.ones_like(a),
            lambda f, x0: lax.while_loop(
                lambda s: s[0] < 14, lambda s: (s[0] + 1, s[1] - f(s[1]) / (3 * s[1] ** 2)), (0, x0)
            )[1],
            lambda g, y: y / g(jnp.ones_like(y)),
        )

    return cbrt, (positive(4),)


@right("custom_jvp: with symbolic zeros")
def _():
    def rule(p, t):
        dx, dy = (jnp.zeros(v.shape, v.dtype) if type(v) is SymbolicZero else v for v in t)
        return p[0] * p[1], dx * p[1] + p[0] * dy

    return jvp(lambda x, y: x * y, rule, symbolic_zeros=True), (X, Y)


@right("custom_gradient: two arguments")
def _():
    def f(x, y):
        return jnp.sin(x) * y, lambda g: (g * jnp.cos(x) * y, g * jnp.sin(x))

    return jax.custom_gradient(f), (X, Y)


@right("custom_vmap: a softmax")
def _():
    def rule(n, batched, x):
        return jax.nn.softmax(x, -1), True

    return vmapped(lambda x: jax.nn.softmax(x), rule), (X,)


@right("custom_vmap: inside a custom_vjp")
def _():
    inner = vmapped(lambda x: jnp.sin(x), lambda n, b, x: (jnp.sin(x), b[0]))
    return rule(lambda x: inner(x) * 2, lambda a, y, g: (2 * jnp.cos(a[0]) * g,)), (X,)


@right("symbolic zeros: a product of three")
def _():
    def fwd(x, y, z):
        return x.value * y.value * z.value, (x.value, y.value, z.value)

    def bwd(res, g):
        x, y, z = res
        g = with_zeros(g)
        return g * y * z, g * x * z, g * x * y

    return symbolic(lambda x, y, z: x * y * z, fwd, bwd), (X, Y, Z)


@right("symbolic zeros: two outputs")
def _():
    def bwd(x, g):
        a, b = map(with_zeros, g)
        return (a * jnp.cos(x) - b * jnp.sin(x),)

    f = symbolic(
        lambda x: (jnp.sin(x), jnp.cos(x)),
        lambda x: ((jnp.sin(x.value), jnp.cos(x.value)), x.value),
        bwd,
    )
    return f, (X,)


@right("optimize_remat: sin")
def _():
    f = jax.custom_vjp(jnp.sin)
    f.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (g * jnp.cos(x),), optimize_remat=True)
    return f, (X,)


@right("pallas: sin, interpreted")
def _():
    return rule(lambda x: kernel(_sin, x), lambda a, y, g: (g * jnp.cos(a[0]),)), (X,)


@right("callback: one example after the other")
def _():
    def share(x):
        return (np.asarray(x) / np.abs(x).sum()).astype(x.dtype)

    def bwd(a, y, g):
        x = a[0]
        n = jnp.abs(x).sum()
        return (g / n - jnp.sign(x) * (g * x).sum() / n**2,)

    return rule(lambda x: callback(share, x, vmap_method="sequential"), bwd), (X,)


@right("callback: with a custom_jvp")
def _():
    def f(x):
        return callback(lambda x: np.sin(x).astype(x.dtype), x, vmap_method="expand_dims")

    return jvp(f, lambda p, t: (f(p[0]), t[0] * jnp.cos(p[0]))), (X,)


@right("accumulators of a custom_vjp, where JAX has them")
def _():
    f = jax.custom_vjp(jnp.sin)
    if not hasattr(f, "defvjp_with_accums"):  # before JAX 0.12
        f.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (g * jnp.cos(x),))
        return f, (X,)

    def bwd(x, g, into):
        into.accum(g * jnp.cos(x))

    f.defvjp_with_accums(lambda x: (jnp.sin(x), x), bwd)
    return f, (X,)


@right("logs of a custom_vjp, where JAX has them")
def _():
    f = jax.custom_vjp(jnp.sin)
    if not hasattr(f, "defvjp_with_logs"):  # before JAX 0.12
        f.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (g * jnp.cos(x),))
        return f, (X,)
    f.defvjp_with_logs(
        lambda x: (jnp.sin(x), x), lambda x, g: ((g * jnp.cos(x),), {"g": jnp.abs(g).max()})
    )
    return f, (X,)
