"""Planted bugs: functions of one number, sums and products of two."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from .functions import (
    gelu,
)
from .row import (
    bug,
    changed,
    complex_normal,
    normal,
    positive,
    rule,
)

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
        ("surrogate",),
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
