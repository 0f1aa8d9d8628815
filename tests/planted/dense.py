"""Planted bugs: lin and matmul."""

from __future__ import annotations

import jax.numpy as jnp

from .functions import (
    lin,
    lin_args,
)
from .row import (
    bug,
    changed,
    complex_normal,
    normal,
    rule,
)


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
    "surrogate",
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
