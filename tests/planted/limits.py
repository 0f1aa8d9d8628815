"""Where numbers end: infinities and NaN, second derivatives, narrow floats, saturation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy import special

from .row import STRICT, bug, complex_normal, f32, normal, positive, right, rule


def tangent(f, jvp):
    """`f` with a rule in forward mode: ``jvp(primals, tangents) -> (value, tangent)``."""
    g = jax.custom_jvp(f)
    g.defjvp(jvp)
    return g


# ---- values


@bug("log: -inf becomes 0 under differentiation", "value_differs")
def _():
    def jvp(p, t):
        y = jnp.log(p[0])
        y = jnp.where(jnp.isfinite(y), y, 0.0)
        return y, jnp.where(p[0] > 0, t[0] / p[0], 0.0)

    return tangent(jnp.log, jvp), (f32(0.0, 2.0),)


def valued(name, f, fwd, bwd, x, code):
    bug(name, code)(lambda: (rule(f, bwd, lambda x: (fwd(x), x)), (x(),)))


valued(
    "reciprocal: a large number for inf",
    lambda x: 1 / x,
    lambda x: jnp.nan_to_num(1 / x),
    lambda x, g: (-g / jnp.where(x == 0, 1, x * x),),
    lambda: f32(0.0, 1.0, -2.0),
    "value_differs",
)
valued(
    "x / |x|: a number for NaN",
    lambda x: x / jnp.abs(x),
    lambda x: jnp.sign(x),
    lambda x, g: (0 * g,),
    lambda: f32(0.0, 1.0, -2.0),
    "value_nan",
)
valued(
    "sinc: NaN under differentiation",
    lambda x: jnp.where(x == 0, 1.0, jnp.sin(x) / jnp.where(x == 0, 1.0, x)),
    lambda x: jnp.sin(x) / x,
    lambda x, g: (g * jnp.where(x == 0, 0.0, (jnp.cos(x) - jnp.sin(x) / x) / x),),
    lambda: f32(0.0, 1.0, -2.0),
    "value_nan",
)
valued(
    "log of a sum: +inf for -inf",
    lambda x: jnp.log(jnp.sum(x)),
    lambda x: -jnp.log(jnp.sum(x)),
    lambda x, g: (g * jnp.ones_like(x),),
    lambda: f32(0.0, 0.0),
    "value_differs",
)


@bug("two outputs: the second is infinite without the rule", "value_differs")
def _():
    def f(x):
        return jnp.exp(x), jnp.log(x)

    def fwd(x):
        return (jnp.exp(x), jnp.maximum(jnp.log(x), -1e30)), x

    def bwd(x, g):
        return (g[0] * jnp.exp(x) + g[1] / jnp.where(x == 0, 1.0, x),)

    return rule(f, bwd, fwd), (f32(0.0, 1.0, 2.0),)


# ---- second derivatives


def of_the_cube(second, first=lambda x: 3 * x**2):
    def build():
        df = tangent(first, lambda p, t: (first(p[0]), second(p[0], t[0])))
        f = tangent(lambda x: x**3, lambda p, t: (p[0] ** 3, df(p[0]) * t[0]))
        return f, (jnp.linspace(1.0, 2.0, 3, dtype="float32"),)

    return build


bug("cube: the second derivative raises, shapes", "second_order")(
    of_the_cube(lambda x, t: 6 * jnp.where(x > 0, x, 0.0) @ jnp.ones((7,)) * t)
)
bug("cube: the second derivative raises, a name", "second_order")(
    of_the_cube(lambda x, t: 6 * x * t * jnp.shape(x)["rows"])
)
bug("cube: the second derivative is halved", "second_order")(of_the_cube(lambda x, t: 3 * x * t))


def det3(m):
    return jnp.dot(m[0], jnp.cross(m[1], m[2]))


def cofactors(m):
    return jnp.stack([jnp.cross(m[1], m[2]), jnp.cross(m[2], m[0]), jnp.cross(m[0], m[1])])


def of_the_determinant(second):
    def build():
        df = tangent(cofactors, lambda p, t: (cofactors(p[0]), second(p[0], t[0])))
        f = tangent(jnp.linalg.det, lambda p, t: (det3(p[0]), jnp.sum(df(p[0]) * t[0])))
        return f, (jnp.ones((3, 3), "float32"),)

    return build


bug("determinant of ones: no second derivative", "second_order")(
    of_the_determinant(lambda m, t: 0 * t)
)
right("determinant of ones")(of_the_determinant(lambda m, t: jax.jvp(cofactors, (m,), (t,))[1]))


@bug("tanh: the backward pass cannot be differentiated", "second_order")
def _():
    @jax.custom_vjp
    def slope(y):
        return 1 - y * y

    slope.defvjp(lambda y: (1 - y * y, y), lambda y, g: (g[:2] * y[:2],))
    return rule(jnp.tanh, lambda a, y, g: (g * slope(y),)), (normal(5),)


@right("a callback has no second derivative")
def _():
    def cos(x):
        return jax.pure_callback(
            lambda x: np.cos(np.asarray(x)),
            jax.ShapeDtypeStruct(x.shape, x.dtype),
            x,
            vmap_method="sequential",
        )

    return rule(jnp.sin, lambda a, y, g: (g * cos(a[0]),)), (normal(5),)


# ---- the same NaN, and elements that nobody can decide


@right("norm of a zero row: NaN by the rule and by autodiff")
def _():
    def norm(x):
        return jnp.sqrt((x * x).sum(-1))

    f = tangent(norm, lambda p, t: (norm(p[0]), (p[0] * t[0]).sum(-1) / norm(p[0])))
    return f, (f32(0.0, 0.0, 3.0, 4.0).reshape(2, 2),)


right("xlogy at 0")(lambda: (special.xlogy, (f32(0.0, 1.0), f32(0.0, 1.0))))
right("arccos with a capped slope")(
    lambda: (
        tangent(
            jnp.arccos,
            lambda p, t: (
                jnp.arccos(p[0]),
                -t[0] / jnp.sqrt(1 - jnp.clip(p[0], -1 + 1e-7, 1 - 1e-7) ** 2),
            ),
        ),
        (f32(1.0, 0.5),),
    )
)
right("square root with a capped slope")(
    lambda: (
        rule(jnp.sqrt, lambda a, y, g: (g / (2 * jnp.sqrt(jnp.maximum(a[0], 1e-12))),)),
        (f32(0.0, 0.5, 2.0),),
    )
)


# ---- saturation


def p_of(z):
    e = jnp.exp(z - z.max())
    return e / e.sum()


def of_p(a, p, g):
    return (p * (g - (p * g).sum()),)


for _z in (20.0, 30.0, 40.0):
    right(f"softmax, sure by {_z:.0f}")(lambda z=_z: (rule(p_of, of_p), (f32(z, 0.0),)))
right("sigmoid, sure by 30")(
    lambda: (
        rule(lambda x: 1 / (1 + jnp.exp(-x)), lambda a, y, g: (g * y * (1 - y),)),
        (f32(30.0, -30.0, 0.0),),
    )
)


# ---- narrow floats


def summed_in(dtype):
    def loss(x):
        def body(s):
            return s[0] + 1, s[1] + x.astype(dtype)[s[0]] ** 2

        start = (0, jnp.zeros((), dtype))
        return lax.while_loop(lambda s: s[0] < x.shape[0], body, start)[1].astype(x.dtype)

    return loss


for _n in (10, 100, 1000):
    right(f"{_n} squares summed in float32 in a loop")(
        lambda n=_n: (
            rule(summed_in("float32"), lambda a, y, g: (2 * a[0] * g,)),
            (positive(n),),
        )
    )
right("10 squares summed in bfloat16 in a loop")(
    lambda: (rule(summed_in("bfloat16"), lambda a, y, g: (2 * a[0] * g,)), (positive(10),))
)
bug("100 squares summed in float32 in a loop: thrice", "scaled")(
    lambda: (rule(summed_in("float32"), lambda a, y, g: (3 * a[0] * g,)), (positive(100),))
)


@right("square root that is 0 at 0 and below, where autodiff gives NaN")
def _():
    def root(x):
        return jnp.where(x > 0, jnp.sqrt(x), 0.0)

    def bwd(args, y, g):
        positive = args[0] > 0
        return (jnp.where(positive, g / (2 * jnp.where(positive, y, 1.0)), 0.0),)

    return rule(root, bwd), (f32(0.0, 1.0, 2.0),)


@right("sine on the host, in float32 alone")
def _():
    def sin(x):
        return jax.pure_callback(
            lambda x: np.sin(np.asarray(x, np.float32)),
            jax.ShapeDtypeStruct(x.shape, jnp.float32),
            x,
            vmap_method="sequential",
        )

    return rule(sin, lambda a, y, g: ((g * jnp.cos(a[0])).astype("float32"),)), (f32(1.0, 2.0),)


@right("right in float32, wrong in float64: a caution")
def _():
    def bwd(a, y, g):
        return (g * jnp.cos(a[0]) * (1.5 if g.dtype == jnp.float64 else 1),)

    return rule(jnp.sin, bwd), (normal(5),)


@bug("right in float32, wrong in float64, asked strictly", "scaled")
def _():
    def bwd(a, y, g):
        return (g * jnp.cos(a[0]) * (1.5 if g.dtype == jnp.float64 else 1),)

    return rule(jnp.sin, bwd), (normal(5),), STRICT


@right("maximum with ties to the first: loose in 16 bits")
def _():
    x = f32(1, 3, 3, 0, 2, 2, 2, 1, 0, 1, 5, 2).reshape(3, 4)
    bwd = lambda a, y, g: (jax.nn.one_hot(jnp.argmax(a[0], -1), 4, dtype=g.dtype) * g[:, None],)  # noqa: E731
    return rule(lambda x: x.max(-1), bwd), (x,)


def rms(x, s):
    xf = x.astype("float32")
    r = lax.rsqrt((xf * xf).mean(-1, keepdims=True) + 1e-6)
    return (xf * r * s.astype("float32")[None]).astype(x.dtype)


def rms_bwd(args, y, g):
    x, s = args
    xf, gf = x.astype("float32"), g.astype("float32")
    r = lax.rsqrt((xf * xf).mean(-1, keepdims=True) + 1e-6)
    u, h = xf * r, gf * s.astype("float32")[None]
    ds = lax.scan(lambda a, t: (a + t, None), jnp.zeros_like(g[0]), g * u.astype(g.dtype))[0]
    return (r * (h - u * (h * u).mean(-1, keepdims=True))).astype(x.dtype), ds.astype(s.dtype)


for _dtype in ("bfloat16", "float32"):

    @bug(f"rms norm of 1024 rows: ds summed in the cotangent's dtype, {_dtype}", "dtype", "scaled")
    def _(dtype=_dtype):
        x = (normal(1024, 4, seed=2) + 2).astype(dtype)
        return rule(rms, rms_bwd), (x, jnp.ones(4, dtype)), STRICT if dtype == "float32" else {}


# ---- arguments


@right("a Python number that the rule refuses")
def _():
    @jax.custom_vjp
    def scale(x, factor):
        return jnp.sin(x) * factor

    def fwd(x, factor):
        if factor.perturbed:
            raise RuntimeError("scale: the factor cannot be differentiated")
        return jnp.sin(x.value) * factor.value, (x.value, factor.value)

    def bwd(res, g):
        return g * jnp.cos(res[0]) * res[1], None

    scale.defvjp(fwd, bwd, symbolic_zeros=True)
    return scale, (f32(1.0, 2.0), 3.0)


@right("weighted log softmax, a gradient stopped in the maximum")
def _():
    def lsm(x):
        m = lax.stop_gradient(x.max(-1, keepdims=True))
        return x - m - jnp.log(jnp.exp(x - m).sum(-1, keepdims=True))

    def f(x, w):
        return jnp.where(w != 0.0, w * lsm(x), 0.0)

    def jvp(p, t):
        y, dy = jax.jvp(lsm, (p[0],), (t[0],))
        return f(*p), t[1] * y + p[1] * dy

    return tangent(f, jvp), (f32(1.0, 2.0, 3.0), f32(0.0, 0.5, 0.0))


# ---- what the mistake is


@bug("two outputs: the cosine takes the sine's cotangent", "swapped")
def _():
    def bwd(a, y, g):
        return (g[0] * jnp.cos(a[0]) - g[0] * jnp.sin(a[0]),)

    return rule(lambda x: (jnp.sin(x), jnp.cos(x)), bwd), (normal(6),)


@bug("two outputs: cotangents for each other", "swapped")
def _():
    def bwd(a, y, g):
        return (g[1] * jnp.cos(a[0]) + 3 * g[0] * a[0] ** 2,)

    return rule(lambda x: (jnp.sin(x), x**3), bwd), (normal(6),)


@bug("product: dw lacks the last block of rows", "missing_term")
def _():
    def bwd(a, y, g):
        return g @ a[1].T, a[0][:8].T @ g[:8]

    return rule(lambda x, w: x @ w, bwd), (normal(12, 3), normal(3, 4))


@bug("bias: db lacks the last block of rows", "missing_term")
def _():
    return rule(lambda x, b: x + b[None], lambda a, y, g: (g, g[:-4].sum(0))), (
        normal(12, 3),
        normal(3),
    )


@bug("scale: ds of the first token alone", "missing_term")
def _():
    def bwd(a, y, g):
        return g * a[1][None, None], (g * a[0])[:, :1].sum((0, 1))

    return rule(lambda x, s: x * s[None, None], bwd), (normal(4, 5, 3), normal(3))


def standardised(x):
    c = x - x.mean(-1, keepdims=True)
    return c * lax.rsqrt((c * c).mean(-1, keepdims=True) + 1e-5)


def standardised_bwd(first, second):
    def bwd(args, y, g):
        x = args[0]
        r = lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)
        return (r * (g - first(g) - y * second(g * y)),)

    return bwd


def _mean(x):
    return x.mean(-1, keepdims=True)


def _sum(x):
    return x.sum(-1, keepdims=True)


bug("layer norm: a sum for the second mean", "missing_term", "mean_not_sum")(
    lambda: (rule(standardised, standardised_bwd(_mean, _sum)), (normal(4, 6),))
)
bug("layer norm: a sum for the first mean", "missing_term", "mean_not_sum")(
    lambda: (rule(standardised, standardised_bwd(_sum, _mean)), (normal(4, 6),))
)
bug("square of complex numbers: the factor conjugated", "conjugated")(
    lambda: (rule(lambda z: z * z, lambda a, y, g: (g * jnp.conj(2 * a[0]),)), (complex_normal(5),))
)
bug("square of complex numbers: the cotangent conjugated", "conjugated")(
    lambda: (rule(lambda z: z * z, lambda a, y, g: (jnp.conj(g) * 2 * a[0],)), (complex_normal(5),))
)
