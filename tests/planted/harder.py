"""Planted bugs that an attack on the checker was made of: other ops, other places to hide."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .row import STRICT, bug, complex_normal, f32, normal, positive, rule


def el(name: str, f: Any, bwd: Any, codes: Any, x: Any = None, **options: Any) -> None:
    bug(name, *codes)(
        lambda: (
            rule(f, lambda a, y, g: (bwd(a[0], y, g),)),
            (normal(24) if x is None else x(),),
            options,
        )
    )


el(
    "softsign: 1/(1+|x|)",
    lambda x: x / (1 + jnp.abs(x)),
    lambda x, y, g: g / (1 + jnp.abs(x)),
    ("unknown", "missing_term"),
)

el(
    "mish: tanh(softplus) alone",
    lambda x: x * jnp.tanh(jax.nn.softplus(x)),
    lambda x, y, g: g * jnp.tanh(jax.nn.softplus(x)),
    ("missing_term",),
)

el(
    "negative inputs 1 percent",
    lambda x: x * jnp.abs(x),
    lambda x, y, g: jnp.where(x < 0, 2.02, 2.0).astype(x.dtype) * jnp.abs(x) * g,
    ("elements",),
)

el(
    "det: no transpose",
    lambda x: jnp.linalg.det(x),
    lambda x, y, g: g * y * jnp.linalg.inv(x),
    ("transposed",),
    lambda: normal(4, 4),
)

el(
    "inv: lacks sign",
    lambda x: jnp.linalg.inv(x),
    lambda x, y, g: y.T @ g @ y.T,
    ("negated",),
    lambda: normal(4, 4) + 3 * jnp.eye(4, dtype="float32"),
)

el(
    "sort: unsorted back",
    lambda x: jnp.sort(x),
    lambda x, y, g: g[jnp.argsort(x)],
    ("unknown", "elements"),
    lambda: normal(9),
)

el(
    "one of 1e5 by 1e-3, elementwise",
    jnp.sin,
    lambda x, y, g: (g * jnp.cos(x)).at[77777].mul(1.001),
    ("elements",),
    lambda: normal(100_000),
)

el(
    "complex abs: real part",
    lambda z: jnp.abs(z),
    lambda z, y, g: (g * z / y).astype(z.dtype),
    ("conjugated",),
    lambda: complex_normal(6),
)

el(
    "complex off by i",
    lambda z: z * z,
    lambda z, y, g: 2j * z * g,
    ("scaled", "unknown"),
    lambda: complex_normal(6),
)

el(
    "reference STE: clipped at 1 forgot",
    jnp.sign,
    lambda x, y, g: g,
    ("elements",),
    lambda: normal(20),
    reference=lambda x: jnp.clip(x, -1, 1),
    surrogate=True,
)

el(
    "norm near zero wrong by 2",
    lambda x: jnp.sqrt((x * x).sum(-1)),
    lambda x, y, g: 2 * (g / y)[:, None] * x,
    ("scaled",),
    lambda: 1e-12 * normal(4, 3),
)

el(
    "large offset: variance gradient without mean",
    lambda x: jnp.var(x),
    lambda x, y, g: 2 * g * x / x.size,
    ("unknown", "missing_term"),
    lambda: normal(100) + 100,
)

el(
    "max ties: nothing",
    lambda x: x.max(-1),
    lambda x, y, g: jnp.where(
        (x == y[:, None]) & ((x == y[:, None]).sum(-1, keepdims=True) == 1), g[:, None], 0
    ),
    ("elements", "unknown", "scaled"),
    lambda: jnp.asarray(np.array([[1, 1, 0], [0, 2, 1], [3, 0, 1]], np.float32)),
)

el(
    "abs at 0 gives 2",
    jnp.abs,
    lambda x, y, g: jnp.where(x == 0, 2 * g, jnp.sign(x) * g),
    ("elements",),
    lambda: f32(0, 1, -1, 2),
)

el(
    "relu at 0 gives -1",
    lambda x: jnp.maximum(x, 0),
    lambda x, y, g: jnp.where(x == 0, -g, jnp.where(x > 0, g, 0)),
    ("elements",),
    lambda: f32(0, 1, -1, 2),
)

el(
    "sqrt finite by rule but wrong elsewhere",
    lambda x: jnp.sqrt(x),
    lambda x, y, g: jnp.where(x == 0, 0, g / (2 * jnp.where(y == 0, 1, y)) * 1.05),
    ("scaled", "elements"),
    lambda: f32(0, 1, 4, 9),
)


def _running_sum(g, terms):
    """Added up row by row in g's own dtype."""
    return lax.scan(lambda a, t: (a + t, None), jnp.zeros_like(g[0]), terms.astype(g.dtype))[0]


def _scaled_rows(x, s):
    return (x.astype("float32") * s[None].astype("float32")).astype(x.dtype)


for _dtype in ("bfloat16", "float16", "float32"):

    @bug(f"scale of 1024 rows: ds a running sum in the cotangent's dtype, {_dtype}", "dtype")
    def _(dtype=_dtype):
        def bwd(args, y, g):
            x, s = args
            return (g * s[None]).astype(x.dtype), _running_sum(g, g * x).astype(s.dtype)

        args = (positive(1024, 3, dtype=dtype), positive(3, dtype=dtype))
        # with 1024 rows alone bfloat16 goes wrong
        return rule(_scaled_rows, bwd), args, {} if dtype == "bfloat16" else STRICT


@bug("bias of 4096 rows: db a running sum in bfloat16", "dtype", "scaled")
def _():
    return rule(lambda x, b: x + b[None], lambda a, y, g: (g, _running_sum(g, g))), (
        normal(4096, 2, dtype="bfloat16"),
        normal(2, dtype="bfloat16"),
    )
