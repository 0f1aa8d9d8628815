"""The forward pass of `attention`: a weighted mean, one block of keys after the other.

Letters as in _attention.py. With m_i the largest z_ij so far, S_i the sum of the e^(z_ij - m_i) and
O_i that of the e^(z_ij - m_i) v_j, a further block that raises m_i to m'_i rescales what there is
by e^(m_i - m'_i) and adds its own. In the end o = O / S.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp

from fnnet.ops._attention_blocks import Blocks, by_head, by_position, where
from fnnet.ops._hidden import of_others
from fnnet.ops._rounding import rounded, shift
from fnnet.ops._tiles import Carry, Options, Start, part
from fnnet.rules import Static, accumulator

T = TypeVar("T")


class Mean(NamedTuple):
    """The result, and what of it the backward pass needs beside the arguments."""

    o: jax.Array  # (..., t, H, e), in the dtype of the arguments
    exact: jax.Array | None  # o before it was rounded, where D needs it and it was
    m: jax.Array  # the largest y (see _attention_blocks.py): (..., K, G, t, 1), as is S
    total: jax.Array


Residuals: TypeAlias = tuple[
    jax.Array, jax.Array, jax.Array, jax.Array | None, jax.Array | None, Mean, Static
]


def weighted_mean(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array | None,
    scale: jax.Array | None,
    options: Options,
) -> Mean:
    """o, m and S."""
    dtype = jnp.result_type(q, k, v)
    if is_empty(q, k):
        none = jnp.zeros((*q.shape[:-3], 0, 0, 0, 1), accumulator(q, k, v))
        return Mean(jnp.zeros((*q.shape[:-1], v.shape[-1]), dtype), None, none, none)
    blocks = Blocks(q, k, v, mask, scale, options)

    def meet(i: Start, j: Start, m: jax.Array | None = None) -> tuple[jax.Array, ...]:
        """m with what a pair of blocks adds to it, and the block's S and O."""
        y, seen, *_ = blocks.products(i, j)
        m = blocks.top(y, seen, m)
        vj = blocks.factor(part(blocks.v, j, blocks.tiles.sb))
        p = rounded(blocks.weights(y, seen, shift(m)), v.dtype)
        o = blocks.product("...rs,...se->...re", p.astype(v.dtype), vj)
        return m, jnp.sum(p, -1, keepdims=True), o

    def step(state: Carry, i: Start, j: Start) -> Carry:
        m_old, total, o = (blocks.of_block(x, i) for x in state)
        m, total_more, o_more = meet(i, j, m_old)
        rescale = blocks.rescaled(m_old, shift(m))
        new = (m, total * rescale + total_more, o * rescale + o_more)
        return tuple(blocks.put(x, i, y) for x, y in zip(state, new, strict=True))

    if blocks.tiles.is_one:
        m, total, o = (blocks.put(x, 0, x) for x in meet(0, 0))
    else:
        rows = blocks.q.shape[:-1]
        start = (
            jnp.full((*rows, 1), -jnp.inf, blocks.wide),
            jnp.zeros((*rows, 1), blocks.wide),
            jnp.zeros((*rows, v.shape[-1]), blocks.wide),
        )
        state = blocks.tiles.each(step, start, q, k, v, mask, scale)
        m, total, o = (x[..., : q.shape[-3], :] for x in state)
    seen = blocks.seen_at_all()
    if seen is not None:  # of a query that may look nowhere o is 0 / 1
        total = where(jnp.any(seen, -1, keepdims=True), total, 1)
    o = o / total
    if blocks.hides:
        others = of_others(by_head(v, 1), seen, n=q.shape[-3], queries=False)
        o = o + others.astype(o.dtype)
    o = by_position(o)
    exact = None if blocks.tiles.columns == 1 or o.dtype == dtype else o
    return Mean(o.astype(dtype), exact, shift(m), total)


def as_one(f: Callable[..., T]) -> Callable[..., T]:
    """`f`, of which a policy of `jax.checkpoint` saves nothing but its results, by name.

    Policies look into loops and calls, and "save the products" would save every block of z. They do
    not look into a `jax.custom_jvp`. This one's rule is JAX's own: derivatives are those of `f`.
    """
    whole = jax.custom_jvp(f)
    whole.defjvp(lambda primals, tangents: jax.jvp(f, primals, tangents))
    return jax.jit(whole)  # as an equation, which JAX may trace again


def is_empty(q: jax.Array, k: jax.Array) -> bool:
    """Whether there are no heads, no queries or no keys."""
    return 0 in (*q.shape[-3:-1], *k.shape[-3:-1])
