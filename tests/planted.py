"""Planted bugs, and right rules that are easy to accuse: what the checker is tested with.

Each row builds a function and its arguments. A bug names the diagnoses that describe it; a right
rule names none. The rows are data; the checker knows none of them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import fnnet

Built = tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Row:
    """A rule to check.

    Attributes:
        name: "op: what is done to it".
        build: gives the function, its arguments, and options of `check_vjp`.
        codes: the diagnoses that describe the bug; empty for a right rule.
        devices: how many devices it takes to see the bug.
    """

    name: str
    build: Callable[[], Built]
    codes: tuple[str, ...] = ()
    devices: int = 1


BUGS: list[Row] = []
RIGHT: list[Row] = []


def bug(name: str, *codes: str, devices: int = 1) -> Callable[[Callable[[], Built]], None]:
    return lambda build: BUGS.append(Row(name, build, codes, devices))


def right(name: str) -> Callable[[Callable[[], Built]], None]:
    return lambda build: RIGHT.append(Row(name, build))


def rule(forward: Any, bwd: Any, fwd: Any = None) -> Any:
    """`forward` with ``bwd(args, out, g)`` as its rule."""

    def fwd_of_all(*args):
        out = forward(*args)
        return out, (args, out)

    f = jax.custom_vjp(forward)
    f.defvjp(fwd or fwd_of_all, (lambda res, g: bwd(*res, g)) if fwd is None else bwd)
    return f


def changed(forward: Any, change: Any) -> Any:
    """`forward` with a rule that changes what autodiff gives: ``change(grads, args, g)``."""

    def bwd(args, out, g):
        return tuple(change(list(jax.vjp(forward, *args)[1](g)), args, g))

    return rule(forward, bwd)


def normal(*shape: int, seed: int = 0, dtype: Any = "float32") -> jax.Array:
    draws = np.random.default_rng([seed, *shape]).normal(size=shape)
    return jnp.asarray(draws.astype(np.float32), dtype)


def complex_normal(*shape: int, seed: int = 0) -> jax.Array:
    return lax.complex(normal(*shape, seed=seed), normal(*shape, seed=seed + 9))


def positive(*shape: int, seed: int = 0, dtype: Any = "float32") -> jax.Array:
    return jnp.abs(normal(*shape, seed=seed, dtype=dtype)) + 0.5


# --- the functions, as anyone writes them -------------------------------------------------------


def lin(x, w, b):
    return x @ w + b[None]


def lin_args(n=8, i=6, o=4):
    return normal(n, i), normal(i, o, seed=1), normal(o, seed=2)


def softmax(z):
    e = jnp.exp(z - lax.stop_gradient(z.max(-1, keepdims=True)))
    return e / e.sum(-1, keepdims=True)


def log_softmax(z):
    z = z - lax.stop_gradient(z.max(-1, keepdims=True))
    return z - jnp.log(jnp.exp(z).sum(-1, keepdims=True))


def mse(p, t):
    return jnp.mean((p - t) ** 2)


def layer_norm(x, scale, shift):
    c = x - x.mean(-1, keepdims=True)
    r = lax.rsqrt((c * c).mean(-1, keepdims=True) + jnp.asarray(1e-5, x.dtype))
    return c * r * scale[None] + shift[None]


def rms_norm(x):
    return x * lax.rsqrt((x * x).mean(-1, keepdims=True) + jnp.asarray(1e-6, x.dtype))


def conv(x, w):
    return lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def avg_pool(x):
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))


def max_pool(x):
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))


def rnn(x, wx, wh):
    def step(h, xt):
        h = jnp.tanh(xt @ wx + h @ wh)
        return h, h

    h0 = jnp.zeros((x.shape[1], wh.shape[0]), x.dtype)
    return lax.scan(step, h0, x)[1]


def attention(q, k, v):
    s = jnp.einsum("tc,sc->ts", q, k) / jnp.asarray(q.shape[-1], q.dtype) ** 0.5
    return softmax(s) @ v


def gelu(x):
    return 0.5 * x * (1 + jnp.tanh(0.7978845608 * (x + 0.044715 * x**3)))


def cross_entropy(z, labels):
    return -jnp.take_along_axis(log_softmax(z), labels[:, None], -1).mean()


LABELS = np.array([0, 2, 1, 2, 0, 1])

# --- lin and matmul -----------------------------------------------------------------------------


def _lin_bug(name, code, change, args=lin_args):
    bug(f"lin: {name}", *(code if isinstance(code, tuple) else (code,)))(
        lambda: (changed(lin, change), args())
    )


_lin_bug("dw is half", "scaled", lambda d, a, g: (d[0], 0.5 * d[1], d[2]))
_lin_bug("dx is 100 times too large", "scaled", lambda d, a, g: (100 * d[0], d[1], d[2]))
_lin_bug("dx is off by one in a thousand", "scaled", lambda d, a, g: (1.001 * d[0], d[1], d[2]))
_lin_bug("dx has the wrong sign", "negated", lambda d, a, g: (-d[0], d[1], d[2]))
_lin_bug("db has the wrong sign", "negated", lambda d, a, g: (d[0], d[1], -d[2]))
_lin_bug("dw is zero", "zero", lambda d, a, g: (d[0], 0 * d[1], d[2]))
_lin_bug("db is None", "zero", lambda d, a, g: (d[0], d[1], None))
_lin_bug("dw is a mean over the batch", "mean_not_sum", lambda d, a, g: (d[0], d[1] / 8, d[2]))
_lin_bug("db is a mean over the batch", "mean_not_sum", lambda d, a, g: (d[0], d[1], g.mean(0)))
_lin_bug(
    "db is summed over outputs",
    "wrong_axis",
    lambda d, a, g: (d[0], d[1], g.sum(1)),
    lambda: lin_args(5, 3, 5),
)
_lin_bug("db is the first row", ("missing_term", "unknown"), lambda d, a, g: (d[0], d[1], g[0]))
_lin_bug("db has the batch axis", "shape", lambda d, a, g: (d[0], d[1], g))
_lin_bug("db keeps an axis", "shape", lambda d, a, g: (d[0], d[1], g.sum(0, keepdims=True)))
_lin_bug("two cotangents for three arguments", "shape", lambda d, a, g: (d[0], d[1]))
_lin_bug("dw is half precision", "dtype", lambda d, a, g: (d[0], d[1].astype("float16"), d[2]))
_lin_bug("db is integer", "dtype", lambda d, a, g: (d[0], d[1], d[2].astype(int)))
_lin_bug(
    "dw is transposed",
    "transposed",
    lambda d, a, g: (d[0], d[1].T, d[2]),
    lambda: lin_args(8, 5, 5),
)
_lin_bug(
    "dw is g x, reshaped", "transposed", lambda d, a, g: (d[0], (g.T @ a[0]).reshape(6, 4), d[2])
)
_lin_bug(
    "dx with w, not its transpose",
    ("transposed", "unknown"),
    lambda d, a, g: (g @ a[1], d[1], d[2]),
    lambda: lin_args(8, 5, 5),
)
_lin_bug("one element of dw", "elements", lambda d, a, g: (d[0], d[1].at[2, 1].mul(1.001), d[2]))
_lin_bug("last row of dx", "elements", lambda d, a, g: (d[0].at[-1].set(0), d[1], d[2]))
_lin_bug(
    "one of 100 000 elements off by 1e-3",
    "elements",
    lambda d, a, g: (d[0].at[123, 45].mul(1.001), d[1], d[2]),
    lambda: lin_args(1000, 100, 3),
)
_lin_bug(
    "g is squared for dw",
    "nonlinear_in_cotangent",
    lambda d, a, g: (d[0], a[0].T @ (g * jnp.abs(g)), d[2]),
)
_lin_bug(
    "g is clipped to 1",
    "nonlinear_in_cotangent",
    lambda d, a, g: (jnp.clip(g, -1, 1) @ a[1].T, d[1], d[2]),
)
_lin_bug(
    "db does not depend on g",
    "ignores_cotangent",
    lambda d, a, g: (d[0], d[1], jnp.full_like(d[2], 8)),
)
_lin_bug(
    "dw is for a constant cotangent",
    ("missing_term", "wrong_axis", "unknown"),
    lambda d, a, g: (d[0], a[0].T @ jnp.full_like(g, g.mean()), d[2]),
)
_lin_bug(
    "dw has NaN in one place", "elements", lambda d, a, g: (d[0], d[1].at[0, 0].set(jnp.nan), d[2])
)


@bug("lin: wrong for an odd batch", "scaled")
def _():
    def change(d, a, g):
        return d[0], d[1] * (1.0 if g.shape[0] % 2 == 0 else 1.1), d[2]

    return changed(lin, change), lin_args(7)


@bug("matmul: da and db swapped", "swapped")
def _():
    f = changed(jnp.matmul, lambda d, a, g: (d[1], d[0]))
    return f, (normal(4, 4), normal(4, 4, seed=1))


@bug("matmul: da lacks b", "unknown", "missing_term")
def _():
    return changed(jnp.matmul, lambda d, a, g: (g, d[1])), (normal(4, 4), normal(4, 4, seed=1))


@bug("matmul: db for a shared b takes one batch only", "missing_term", "unknown")
def _():
    def f(a, b):
        return jnp.einsum("pik,kj->pij", a, b)

    return (
        rule(f, lambda a, y, g: (jnp.einsum("pij,kj->pik", g, a[1]), a[0][0].T @ g[0])),
        (normal(3, 4, 5), normal(5, 2, seed=1)),
    )


@bug("matmul, complex: da conjugated", "conjugated")
def _():
    a, b = (complex_normal(3, 3, seed=s) for s in (0, 1))
    return changed(jnp.matmul, lambda d, x, g: (d[0].conj(), d[1])), (a, b)


@bug("matmul, complex: db with the adjoint", "conjugated", "unknown")
def _():
    a, b = (complex_normal(3, 3, seed=s) for s in (0, 1))
    return rule(jnp.matmul, lambda x, y, g: (g @ x[1].T, x[0].conj().T @ g)), (a, b)


# --- elementwise --------------------------------------------------------------------------------

ELEMENTWISE: list[tuple[str, Any, Any, tuple[str, ...], Any]] = [
    ("relu: passes everything", lambda x: jnp.maximum(x, 0), lambda x, y, g: g, ("elements",), 24),
    ("relu: passes nothing", lambda x: jnp.maximum(x, 0), lambda x, y, g: 0 * g, ("zero",), 24),
    (
        "relu: 1 for every g",
        lambda x: jnp.maximum(x, 0),
        lambda x, y, g: (x > 0).astype(x.dtype),
        ("ignores_cotangent",),
        24,
    ),
    (
        "relu: mask of g",
        lambda x: jnp.maximum(x, 0),
        lambda x, y, g: jnp.where(g > 0, g, 0),
        ("nonlinear_in_cotangent",),
        24,
    ),
    (
        "leaky relu: slope 0.01 for 0.1",
        lambda x: jnp.where(x > 0, x, 0.1 * x),
        lambda x, y, g: jnp.where(x > 0, g, 0.01 * g),
        ("elements",),
        24,
    ),
    (
        "sigmoid: y without (1 - y)",
        jax.nn.sigmoid,
        lambda x, y, g: g * y,
        ("missing_term", "unknown"),
        24,
    ),
    (
        "sigmoid: of y again",
        jax.nn.sigmoid,
        lambda x, y, g: g * jax.nn.sigmoid(y) * (1 - jax.nn.sigmoid(y)),
        ("unknown",),
        24,
    ),
    ("tanh: 1 - y", jnp.tanh, lambda x, y, g: g * (1 - y), ("unknown", "missing_term"), 24),
    ("tanh: 1 - x^2", jnp.tanh, lambda x, y, g: g * (1 - x * x), ("unknown",), 24),
    ("sin: derivative sin", jnp.sin, lambda x, y, g: g * jnp.sin(x), ("unknown",), 24),
    ("sin: minus cos", jnp.sin, lambda x, y, g: -g * jnp.cos(x), ("negated",), 24),
    ("sin: forgets g", jnp.sin, lambda x, y, g: jnp.cos(x), ("ignores_cotangent",), 24),
    (
        "exp: of g",
        jnp.exp,
        lambda x, y, g: jnp.exp(x) * jnp.sign(g) * g * g,
        ("nonlinear_in_cotangent",),
        24,
    ),
    (
        "square: factor 2 forgotten",
        lambda x: x * x,
        lambda x, y, g: g * x,
        ("scaled", "missing_term"),
        24,
    ),
    ("square: factor 3", lambda x: x * x, lambda x, y, g: 3 * g * x, ("scaled",), 24),
    ("cube: exponent not lowered", lambda x: x**3, lambda x, y, g: 3 * g * x**3, ("unknown",), 24),
    (
        "silu: product rule forgotten",
        lambda x: x * jax.nn.sigmoid(x),
        lambda x, y, g: g * jax.nn.sigmoid(x),
        ("missing_term",),
        24,
    ),
    (
        "gelu: derivative of the inner cubic forgotten",
        gelu,
        lambda x, y, g: (
            g
            * (
                0.5 * (1 + jnp.tanh(0.7978845608 * (x + 0.044715 * x**3)))
                + 0.5 * x * (1 - jnp.tanh(0.7978845608 * (x + 0.044715 * x**3)) ** 2) * 0.7978845608
            )
        ),
        ("missing_term", "unknown"),
        24,
    ),
    (
        "abs: only for negative x",
        jnp.abs,
        lambda x, y, g: jnp.where(x < 0, 0.5, 1.0).astype(x.dtype) * jnp.sign(x) * g,
        ("elements",),
        24,
    ),
    (
        "softplus: wrong beyond 2",
        jax.nn.softplus,
        lambda x, y, g: jnp.where(x > 1.5, 0.0, 1.0).astype(x.dtype) * g * jax.nn.sigmoid(x),
        ("elements",),
        24,
    ),
    (
        "sqrt: 1/sqrt",
        lambda x: jnp.sqrt(jnp.abs(x) + 1),
        lambda x, y, g: g * jnp.sign(x) / y,
        ("scaled",),
        24,
    ),
    (
        "log: clipped at 1",
        lambda x: jnp.log(jnp.abs(x) + 1),
        lambda x, y, g: g * jnp.sign(x) * jnp.minimum(1 / (jnp.abs(x) + 1), 0.5),
        ("elements",),
        24,
    ),
    (
        "identity: negated (a gradient reversal undeclared)",
        lambda x: x * 1,
        lambda x, y, g: -g,
        ("negated",),
        6,
    ),
    (
        "round: straight through, undeclared",
        lambda x: jnp.round(x),
        lambda x, y, g: g,
        ("unknown", "elements"),
        6,
    ),
    (
        "tiny values: off by a hundredth",
        lambda x: 1e-8 * jnp.sin(x),
        lambda x, y, g: 1.01e-8 * jnp.cos(x) * g,
        ("scaled",),
        24,
    ),
    (
        "huge values: off by a hundredth",
        lambda x: 1e8 * jnp.sin(x),
        lambda x, y, g: 1.01e8 * jnp.cos(x) * g,
        ("scaled",),
        24,
    ),
]


def _elementwise(name, f, bwd, codes, n):
    bug(name, *codes)(lambda: (rule(f, lambda a, y, g: (bwd(a[0], y, g),)), (normal(n),)))


for _row in ELEMENTWISE:
    _elementwise(*_row)


@bug("product: a small argument's gradient wrong beside a large one's", "scaled")
def _():
    f = changed(lambda x, y: x * y, lambda d, a, g: (1.01 * d[0], d[1]))
    return f, (1e8 * normal(5), 1e-8 * normal(5, seed=1))


@bug("divide: the denominator's sign", "negated")
def _():
    return changed(lambda x, y: x / y, lambda d, a, g: (d[0], -d[1])), (
        normal(9),
        positive(9, seed=1),
    )


@bug("divide: 1/y for 1/y^2", "unknown", "missing_term")
def _():
    return (
        rule(lambda x, y: x / y, lambda a, y, g: (g / a[1], -g * a[0] / a[1])),
        (normal(9), positive(9, seed=1)),
    )


@bug("complex square: conjugated", "conjugated")
def _():
    z = complex_normal(5)
    return rule(lambda z: z * z, lambda a, y, g: ((2 * a[0] * g).conj(),)), (z,)


# --- losses, reductions, broadcasting -----------------------------------------------------------


@bug("mse: 1/n applied twice", "mean_not_sum")
def _():
    f = changed(mse, lambda d, a, g: (d[0] / 48, d[1]))
    return f, (normal(8, 6), normal(8, 6, seed=1))


@bug("mse: 1/n forgotten", "scaled")
def _():
    f = rule(mse, lambda a, y, g: (2 * (a[0] - a[1]) * g, -2 * (a[0] - a[1]) * g / 48))
    return f, (normal(8, 6), normal(8, 6, seed=1))


@bug("mse: dtarg is dpred", "negated")
def _():
    return changed(mse, lambda d, a, g: (d[0], d[0])), (normal(7), normal(7, seed=1))


@bug("mse: forgets g", "ignores_cotangent")
def _():
    f = rule(mse, lambda a, y, g: (2 / 7 * (a[0] - a[1]), -2 / 7 * (a[0] - a[1])))
    return f, (normal(7), normal(7, seed=1))


@bug("mse: only the sign", "nonlinear_in_cotangent")
def _():
    return changed(mse, lambda d, a, g: (jnp.sign(d[0]) * g, d[1])), (normal(7), normal(7, seed=1))


@bug("sum over rows: spread along columns", "wrong_axis", "transposed")
def _():
    f = rule(lambda x: x.sum(0), lambda a, y, g: (jnp.broadcast_to(g[:, None], a[0].shape),))
    return f, (normal(5, 5),)


@bug("mean over rows: 1/n forgotten", "scaled")
def _():
    f = rule(lambda x: x.mean(0), lambda a, y, g: (jnp.broadcast_to(g[None], a[0].shape),))
    return f, (normal(5, 3),)


@bug("mean: 1/n of the other axis", "scaled")
def _():
    f = rule(lambda x: x.mean(0), lambda a, y, g: (jnp.broadcast_to(g[None] / 3, a[0].shape),))
    return f, (normal(5, 3),)


@bug("sum: 1/n too much", "mean_not_sum")
def _():
    f = rule(lambda x: x.sum(0), lambda a, y, g: (jnp.broadcast_to(g[None] / 5, a[0].shape),))
    return f, (normal(5, 3),)


@bug("cumsum: not reversed", "unknown")
def _():
    return rule(lambda x: jnp.cumsum(x), lambda a, y, g: (jnp.cumsum(g),)), (normal(7),)


@bug("max: to every element", "elements", "unknown")
def _():
    f = rule(lambda x: x.max(-1), lambda a, y, g: (jnp.broadcast_to(g[:, None], a[0].shape),))
    return f, (normal(4, 5),)


@bug("prod: with its own factor", "unknown")
def _():
    f = rule(
        lambda x: jnp.prod(x, -1), lambda a, y, g: (jnp.broadcast_to((g * y)[:, None], a[0].shape),)
    )
    return f, (normal(4, 5),)


@bug("outer sum: one broadcast axis summed, of equal sizes the wrong one", "wrong_axis", "swapped")
def _():
    f = rule(lambda a, b: a[:, None] + b[None], lambda a, y, g: (g.sum(0), g.sum(0)))
    return f, (normal(5), normal(5, seed=1))


@bug("scale by a scalar: the scalar's gradient is a mean", "mean_not_sum")
def _():
    f = rule(lambda s, x: s * x, lambda a, y, g: (jnp.mean(g * a[1]), g * a[0]))
    return f, (jnp.asarray(1.5, "float32"), normal(4, 5))


@bug("scale by a scalar: not summed", "shape")
def _():
    f = rule(lambda s, x: s * x, lambda a, y, g: (g * a[1], g * a[0]))
    return f, (jnp.asarray(1.5, "float32"), normal(4, 5))


@bug("norm: without the division", "unknown")
def _():
    f = rule(lambda x: jnp.sqrt((x * x).sum(-1)), lambda a, y, g: (g[:, None] * a[0],))
    return f, (normal(4, 5),)


@bug("transpose: not transposed back", "transposed")
def _():
    return rule(lambda x: 2 * x.T, lambda a, y, g: (2 * g,)), (normal(4, 4),)


@bug("transpose of three axes: the same permutation again", "transposed")
def _():
    f = rule(lambda x: x.transpose(1, 2, 0), lambda a, y, g: (g.transpose(1, 2, 0),))
    return f, (normal(3, 3, 3),)


@bug("take: repeated indices overwrite", "elements", "missing_term")
def _():
    i = jnp.asarray(np.array([0, 2, 2, 1]))

    def bwd(a, y, g):
        return jnp.zeros_like(a[0]).at[a[1]].set(g), None

    return rule(lambda x, i: x[i], bwd), (normal(5), i)


# --- softmax and cross entropy ------------------------------------------------------------------


@bug("softmax: diagonal only", "missing_term")
def _():
    return rule(softmax, lambda a, y, g: (g * y * (1 - y),)), (normal(4, 5),)


@bug("softmax: y g", "missing_term")
def _():
    return rule(softmax, lambda a, y, g: (g * y,)), (normal(4, 5),)


@bug("softmax: the sum over the wrong axis", "wrong_axis")
def _():
    f = rule(softmax, lambda a, y, g: (y * (g - (g * y).sum(0, keepdims=True)),))
    return f, (normal(5, 5),)


@bug("softmax: the sum without y", "unknown", "missing_term")
def _():
    f = rule(softmax, lambda a, y, g: (y * (g - g.sum(-1, keepdims=True)),))
    return f, (normal(4, 5),)


@bug("softmax: plus for minus", "missing_term", "unknown")
def _():
    f = rule(softmax, lambda a, y, g: (y * (g + (g * y).sum(-1, keepdims=True)),))
    return f, (normal(4, 5),)


@bug("log softmax: softmax without the sum of g", "nonlinear_in_cotangent")
def _():
    return rule(log_softmax, lambda a, y, g: (g - jnp.exp(y),)), (normal(4, 5),)


@bug("log softmax: g alone", "missing_term")
def _():
    return rule(log_softmax, lambda a, y, g: (g,)), (normal(4, 5),)


def _one_hot(labels, z):
    return jax.nn.one_hot(labels, z.shape[-1], dtype=z.dtype)


def _ce_bug(name, codes, dz):
    def build():
        f = rule(cross_entropy, lambda a, y, g: (dz(a[0], _one_hot(a[1], a[0]), g), None))
        return f, (normal(6, 3), jnp.asarray(LABELS))

    bug(f"cross entropy: {name}", *codes)(build)


_ce_bug("1/n forgotten", ("scaled",), lambda z, t, g: g * (softmax(z) - t))
_ce_bug("1/n twice", ("mean_not_sum",), lambda z, t, g: g * (softmax(z) - t) / 36)
_ce_bug("target minus prediction", ("negated",), lambda z, t, g: g * (t - softmax(z)) / 6)
_ce_bug("the one-hot forgotten", ("missing_term",), lambda z, t, g: g * softmax(z) / 6)
_ce_bug("the softmax forgotten", ("missing_term",), lambda z, t, g: -g * t / 6)
_ce_bug("forgets g", ("ignores_cotangent",), lambda z, t, g: (softmax(z) - t) / 6)
_ce_bug(
    "softmax over the batch",
    ("wrong_axis", "unknown"),
    lambda z, t, g: g * (softmax(z.T).T - t) / 6,
)

# --- norms --------------------------------------------------------------------------------------


def _norm_args():
    return normal(4, 6), positive(6, seed=1), normal(6, seed=2)


def _norm_parts(x):
    c = x - x.mean(-1, keepdims=True)
    r = lax.rsqrt((c * c).mean(-1, keepdims=True) + jnp.asarray(1e-5, x.dtype))
    return c * r, r


def _norm_bug(name, codes, dx, args=_norm_args):
    def build():
        def bwd(a, y, g):
            n, r = _norm_parts(a[0])
            h = g * a[1][None]
            return dx(n, r, h), (g * n).sum(0), g.sum(0)

        return rule(layer_norm, bwd), args()

    bug(f"layer norm: {name}", *codes)(build)


def _mean(x):
    return x.mean(-1, keepdims=True)


_norm_bug(
    "through the mean forgotten", ("missing_term",), lambda n, r, h: r * (h - n * _mean(h * n))
)
_norm_bug("through the variance forgotten", ("missing_term",), lambda n, r, h: r * (h - _mean(h)))
_norm_bug("through both forgotten", ("missing_term",), lambda n, r, h: r * h)
_norm_bug(
    "statistics of g over the batch",
    ("wrong_axis",),
    lambda n, r, h: r * (h - h.mean(0, keepdims=True) - n * _mean(h * n)),
    lambda: (normal(6, 6), positive(6, seed=1), normal(6, seed=2)),
)
_norm_bug(
    "1/std forgotten", ("unknown", "missing_term"), lambda n, r, h: h - _mean(h) - n * _mean(h * n)
)
_norm_bug(
    "the variance term added",
    ("missing_term", "unknown"),
    lambda n, r, h: r * (h - _mean(h) + n * _mean(h * n)),
)


@bug("layer norm: dscale without the normalised input", "unknown", "missing_term")
def _():
    return changed(layer_norm, lambda d, a, g: (d[0], (g * a[0]).sum(0), d[2])), _norm_args()


@bug("layer norm: dscale is dshift", "swapped")
def _():
    return changed(layer_norm, lambda d, a, g: (d[0], d[2], d[1])), _norm_args()


@bug("layer norm: dscale a mean", "mean_not_sum")
def _():
    return changed(layer_norm, lambda d, a, g: (d[0], d[1] / 4, d[2])), _norm_args()


@bug("rms norm: the norm held constant", "missing_term")
def _():
    f = rule(rms_norm, lambda a, y, g: (g * lax.rsqrt(_mean(a[0] ** 2) + 1e-6),))
    return f, (normal(4, 6),)


# --- images -------------------------------------------------------------------------------------


def _image_args():
    return normal(2, 6, 6, 3), normal(3, 3, 3, 3, seed=1)


@bug("conv: the kernel not flipped", "unknown")
def _():
    def bwd(a, y, g):
        dx = conv(g, a[1].transpose(0, 1, 3, 2))
        return dx, jax.vjp(lambda w: conv(a[0], w), a[1])[1](g)[0]

    return rule(conv, bwd), _image_args()


@bug("conv: channels not exchanged", "unknown")
def _():
    def bwd(a, y, g):
        return conv(g, a[1][::-1, ::-1]), jax.vjp(lambda w: conv(a[0], w), a[1])[1](g)[0]

    return rule(conv, bwd), _image_args()


@bug("conv: dw with channels exchanged", "transposed")
def _():
    return changed(conv, lambda d, a, g: (d[0], d[1].transpose(0, 1, 3, 2))), _image_args()


@bug("conv: dw a mean over the batch", "mean_not_sum", "scaled")
def _():
    return changed(conv, lambda d, a, g: (d[0], d[1] / 2)), _image_args()


@bug("conv: the border of dx", "elements")
def _():
    return changed(conv, lambda d, a, g: (d[0].at[:, 0].set(0), d[1])), _image_args()


@bug("avg pool: 1/4 forgotten", "scaled")
def _():
    def bwd(a, y, g):
        return (jnp.repeat(jnp.repeat(g, 2, 1), 2, 2),)

    return rule(avg_pool, bwd), (normal(2, 4, 4, 3),)


@bug("avg pool: to the first of each window", "elements", "unknown", "missing_term")
def _():
    def bwd(a, y, g):
        return (jnp.zeros_like(a[0]).at[:, ::2, ::2].set(g / 4),)

    return rule(avg_pool, bwd), (normal(2, 4, 4, 3),)


@bug("max pool: to all of the window", "unknown", "elements")
def _():
    def bwd(a, y, g):
        return (jnp.repeat(jnp.repeat(g, 2, 1), 2, 2),)

    return rule(max_pool, bwd), (normal(2, 4, 4, 3),)


@bug("max pool: to the first of each window", "unknown", "elements")
def _():
    def bwd(a, y, g):
        return (jnp.zeros_like(a[0]).at[:, ::2, ::2].set(g),)

    return rule(max_pool, bwd), (normal(2, 4, 4, 3),)


@bug("max pool: ties get g each", "elements", "unknown", "scaled")
def _():
    def bwd(a, y, g):
        up = functools.reduce(lambda z, k: jnp.repeat(z, 2, k), (1, 2), y)
        return (
            jnp.where(a[0] == up, functools.reduce(lambda z, k: jnp.repeat(z, 2, k), (1, 2), g), 0),
        )

    return rule(max_pool, bwd), (jnp.round(normal(2, 4, 4, 3)),)


# --- recurrent nets and attention ---------------------------------------------------------------


def _rnn_args():
    return normal(5, 2, 3), 0.5 * normal(3, 4, seed=1), 0.5 * normal(4, 4, seed=2)


@bug("rnn: truncated to one step", "missing_term", "unknown")
def _():
    def one_step(x, wx, wh):
        h = rnn(x, wx, wh)
        before = lax.stop_gradient(jnp.concatenate([jnp.zeros_like(h[:1]), h[:-1]]))
        return jnp.tanh(x @ wx + before @ wh)

    return rule(rnn, lambda a, y, g: jax.vjp(one_step, *a)[1](g)), _rnn_args()


@bug("rnn: dwh of the last step only", "missing_term", "unknown")
def _():
    def bwd(a, y, g):
        d = jax.vjp(rnn, *a)[1](g)
        last = g[-1] * (1 - y[-1] ** 2)
        return d[0], d[1], y[-2].T @ last

    return rule(rnn, bwd), _rnn_args()


@bug("rnn: dwh transposed", "transposed")
def _():
    return changed(rnn, lambda d, a, g: (d[0], d[1], d[2].T)), _rnn_args()


@bug("rnn: time reversed in dx", "unknown", "transposed")
def _():
    return changed(rnn, lambda d, a, g: (d[0][::-1], d[1], d[2])), _rnn_args()


def _attention_args():
    return normal(5, 4), normal(5, 4, seed=1), normal(5, 4, seed=2)


@bug("attention: scale forgotten in dq", "scaled")
def _():
    return changed(attention, lambda d, a, g: (2 * d[0], d[1], d[2])), _attention_args()


@bug("attention: dq and dk swapped", "swapped")
def _():
    return changed(attention, lambda d, a, g: (d[1], d[0], d[2])), _attention_args()


@bug("attention: dv with p, not its transpose", "transposed", "unknown")
def _():
    def bwd(a, y, g):
        d = jax.vjp(attention, *a)[1](g)
        p = softmax(a[0] @ a[1].T / 2)
        return d[0], d[1], p @ g

    return rule(attention, bwd), _attention_args()


@bug("attention: softmax's sum forgotten", "missing_term", "unknown")
def _():
    def bwd(a, y, g):
        q, k, v = a
        p = softmax(q @ k.T / 2)
        ds = p * (g @ v.T) / 2
        return ds @ k, ds.T @ q, p.T @ g

    return rule(attention, bwd), _attention_args()


# --- user pytrees -------------------------------------------------------------------------------


def _net(params, x):
    h = jnp.tanh(x @ params["in"]["w"] + params["in"]["b"][None])
    return h @ params["out"][0]


def _net_args():
    return {
        "in": {"w": normal(3, 4), "b": normal(4, seed=1)},
        "out": [normal(4, 2, seed=2)],
    }, normal(5, 3, seed=3)


def _net_bug(name, codes, change):
    def build():
        def bwd(a, y, g):
            d, dx = jax.vjp(_net, *a)[1](g)
            return change(d), dx

        return rule(_net, bwd), _net_args()

    bug(f"pytree: {name}", *codes)(build)


_net_bug(
    "one leaf doubled",
    ("scaled",),
    lambda d: {"in": {"w": d["in"]["w"], "b": 2 * d["in"]["b"]}, "out": d["out"]},
)
_net_bug(
    "one leaf None",
    ("zero", "shape"),
    lambda d: {"in": {"w": d["in"]["w"], "b": jnp.zeros_like(d["in"]["b"])}, "out": d["out"]},
)
_net_bug("a leaf left out", ("shape",), lambda d: {"in": d["in"], "out": []})
_net_bug("another structure", ("shape",), lambda d: [d["in"], d["out"]])
_net_bug("out negated", ("negated",), lambda d: {"in": d["in"], "out": [-d["out"][0]]})


@bug("pytree: one cotangent for the whole tree", "unknown", "swapped", "missing_term", "scaled")
def _():
    f = rule(lambda p: p["a"] * p["b"], lambda a, y, g: (g * a[0]["a"],))
    return f, ({"a": normal(5), "b": normal(5, seed=1)},)


# --- only under some transform, dtype, order, device --------------------------------------------


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

        return changed(lin, only), args()

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

    return rule(forward, bwd), (positive(3000, 2) * 0 + 1, jnp.zeros(2, "float32"))


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
        {"reference": lambda x: x * 1},
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
        return lambda x: x * lax.rsqrt(_mean(x * x) + jnp.asarray(eps, x.dtype))

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


@bug("sin: clips only large cotangents", "nonlinear_in_cotangent")
def _():
    f = rule(jnp.sin, lambda a, y, g: (jnp.clip(g, -50, 50) * jnp.cos(a[0]),))
    return f, (normal(5),)


@bug("differences: shifted by one", "unknown", "elements", "missing_term")
def _():
    f = rule(lambda x: x[1:] - x[:-1], lambda a, y, g: (jnp.pad(g, (0, 1)),))
    return f, (normal(8),)


# --- right rules that are easy to accuse --------------------------------------------------------


def _right_elementwise(name, f, bwd, x, **options):
    right(name)(lambda: (rule(f, lambda a, y, g: (bwd(a[0], y, g),)), (x(),), options))


def _f32(*values):
    return jnp.asarray(np.array(values, np.float32))


_KINKY = functools.partial(_f32, 0.0, -0.0, 1e-30, -1e-30, 1e-9, -1e-9, 1.0, -2.0)

_right_elementwise(
    "relu at 0, 0", lambda x: jnp.maximum(x, 0), lambda x, y, g: jnp.where(x > 0, g, 0), _KINKY
)
_right_elementwise(
    "relu at 0, 1", lambda x: jnp.maximum(x, 0), lambda x, y, g: jnp.where(x >= 0, g, 0), _KINKY
)
_right_elementwise("abs at 0, 0", jnp.abs, lambda x, y, g: g * jnp.sign(x), _KINKY)
_right_elementwise("abs at 0, -1", jnp.abs, lambda x, y, g: jnp.where(x > 0, g, -g), _KINKY)
_right_elementwise(
    "leaky relu at 0",
    lambda x: jnp.where(x > 0, x, 0.1 * x),
    lambda x, y, g: jnp.where(x >= 0, g, 0.1 * g),
    _KINKY,
)
_right_elementwise(
    "hard tanh at its corners",
    lambda x: jnp.clip(x, -1, 1),
    lambda x, y, g: jnp.where(jnp.abs(x) < 1, g, 0),
    lambda: _f32(-2, -1, -0.5, 0, 0.5, 1, 2),
)
_right_elementwise(
    "huber at its seams",
    lambda x: jnp.where(jnp.abs(x) < 1, 0.5 * x * x, jnp.abs(x) - 0.5),
    lambda x, y, g: g * jnp.clip(x, -1, 1),
    lambda: _f32(-2, -1, 0, 1, 3),
)
_right_elementwise(
    "sigmoid saturated",
    jax.nn.sigmoid,
    lambda x, y, g: g * y * (1 - y),
    lambda: _f32(-200, -90, -20, 0, 20, 90, 200),
)
_right_elementwise(
    "tanh saturated",
    jnp.tanh,
    lambda x, y, g: g * (1 - y * y),
    lambda: _f32(-50, -9, -3, 0, 3, 9, 50),
)
_right_elementwise(
    "softplus far out",
    lambda x: jnp.logaddexp(x, jnp.zeros_like(x)),
    lambda x, y, g: g * jax.nn.sigmoid(x),
    lambda: _f32(-300, -30, 0, 30, 300),
)
_right_elementwise(
    "a stiff exponential",
    lambda x: jnp.exp(60 * x),
    lambda x, y, g: 60 * g * y,
    lambda: _f32(-1, 0, 0.5, 1),
)
_right_elementwise(
    "a stiff decay",
    lambda x: jnp.exp(-1e4 * x * x),
    lambda x, y, g: -2e4 * x * y * g,
    lambda: _f32(0, 1e-3, 0.01, 0.1),
)
_right_elementwise(
    "scale 1e-8", lambda x: x * x, lambda x, y, g: 2 * x * g, lambda: 1e-8 * normal(9)
)
_right_elementwise("scale 1e8", lambda x: x * x, lambda x, y, g: 2 * x * g, lambda: 1e8 * normal(9))
_right_elementwise(
    "scales 1e-8 to 1e8 in one array",
    lambda x: jnp.sin(x) * x,
    lambda x, y, g: g * (jnp.sin(x) + x * jnp.cos(x)),
    lambda: _f32(1e-8, 1e-4, 1, 1e2, 1e4),
)
_right_elementwise(
    "1 - cos by half angles",
    lambda x: (1 - jnp.cos(x)) / (x * x),
    lambda x, y, g: (
        g * (jnp.sin(x) / x**2 - 4 * jnp.sin(x / 2) ** 2 / x**3)
        if False
        else g
        * jnp.where(
            jnp.abs(x) < 1e-2, -x / 12 + x**3 / 180, jnp.sin(x) / x**2 - 2 * (1 - jnp.cos(x)) / x**3
        )
    ),
    lambda: _f32(1e-8, 1e-5, 1e-4, 0.5, 1.5),
)
_right_elementwise(
    "sinc at 0",
    lambda x: jnp.sin(x) / x,
    lambda x, y, g: (
        g
        * jnp.where(
            x == 0, 0.0, (x * jnp.cos(x) - jnp.sin(x)) / jnp.where(x == 0, 1, x * x)
        ).astype(x.dtype)
    ),
    lambda: _f32(0.5, 1.0, 2.0),
)
_right_elementwise(
    "sqrt at 0, finite by rule",
    lambda x: jnp.sqrt(jnp.abs(x)),
    lambda x, y, g: jnp.where(x == 0, 0, g * jnp.sign(x) / (2 * jnp.where(y == 0, 1, y))),
    lambda: _f32(0, 1, 4, -4),
)
_right_elementwise(
    "log1p of small", jnp.log1p, lambda x, y, g: g / (1 + x), lambda: _f32(1e-8, -1e-8, 1e-20, 0.5)
)
_right_elementwise(
    "straight-through rounding, declared",
    lambda x: jnp.round(x),
    lambda x, y, g: g,
    lambda: normal(9),
    reference=lambda x: x * 1,
)
_right_elementwise(
    "straight-through sign, declared",
    jnp.sign,
    lambda x, y, g: jnp.where(jnp.abs(x) <= 1, g, 0),
    lambda: normal(9),
    reference=lambda x: jnp.clip(x, -1, 1),
)
_right_elementwise(
    "gradient reversal, declared",
    lambda x: x * 1,
    lambda x, y, g: -g,
    lambda: normal(9),
    reference=lambda x: -x,
)
_right_elementwise("a step function: zero", jnp.floor, lambda x, y, g: 0 * g, lambda: normal(9))
_right_elementwise(
    "clip far from its ends", lambda x: jnp.clip(x, -100, 100), lambda x, y, g: g, lambda: normal(9)
)
_right_elementwise(
    "bfloat16 sigmoid",
    jax.nn.sigmoid,
    lambda x, y, g: g * y * (1 - y),
    lambda: normal(64, dtype="bfloat16"),
)
_right_elementwise(
    "float16 gelu",
    gelu,
    lambda x, y, g: jax.vjp(gelu, x)[1](g)[0],
    lambda: normal(64, dtype="float16"),
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
        n, r = _norm_parts(a[0])
        h = g * a[1][None]
        return r * (h - _mean(h) - n * _mean(h * n)), (g * n).sum(0), g.sum(0)

    x, s, b = _norm_args()
    return rule(layer_norm, bwd), (x + 1e3, s, b)


@right("variance as E[x^2] - E[x]^2, differentiated stably")
def _():
    def forward(x):
        return (x * x).mean(-1) - x.mean(-1) ** 2

    def bwd(a, y, g):
        return (2 / a[0].shape[-1] * (a[0] - _mean(a[0])) * g[:, None],)

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
    f = rule(cross_entropy, lambda a, y, g: (g * (softmax(a[0]) - _one_hot(a[1], a[0])) / 6, None))
    return f, (normal(6, 3), jnp.asarray(LABELS))


@right("cross entropy, nearly certain")
def _():
    f = rule(cross_entropy, lambda a, y, g: (g * (softmax(a[0]) - _one_hot(a[1], a[0])) / 6, None))
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

    return rule(lambda x: jnp.expm1(x) / x, bwd), (_f32(1e-4, 0.3, -2, 5),)


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

    return rule(forward, bwd), (_f32(0, 0.5, 1, 2),)


@right("several outputs, one of them boolean")
def _():
    f = rule(
        lambda x: {"y": x * 2, "z": jnp.sin(x), "mask": x > 0},
        lambda a, y, g: (2 * g["y"] + jnp.cos(a[0]) * g["z"],),
    )
    return f, (normal(4),)
