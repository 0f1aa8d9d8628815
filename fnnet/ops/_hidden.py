"""What a query of `attention` does not see leaves no trace, be it NaN.

A weight of 0 hides a finite number alone: 0 · NaN and 0 · inf are NaN. So where something is hidden
every product with weights takes `finite` factors, zero in the place of what is not finite. In the
products with dz nothing is lost by it: a query or key that is not finite makes z, hence p and dz,
NaN wherever it is seen. A value v_j, and a cotangent g_i, meet p alone, and p may be finite:

    o_ie  = Σ_j p_ij finite(v_je) + the v_je that are not finite, of the j that i sees
    dv_je = Σ_i p_ij finite(g_ie) + the g_ie that are not finite, of the i that see j

The second terms, zero in all that goes well, are `of_others`. Where things are hidden causally
alone, it is one number for each e: the first j, or the last i, that is not finite. With a mask, e
is summed over first (c_j = Σ_e v_je of what is not finite), so that one sum over the mask will do;
what it gives goes to every e at which some v_je, that anyone sees, is not finite: so a query that
sees NaN in one feature may have it in another too, but one that sees none has none.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def finite(x: jax.Array) -> jax.Array:
    """`x`, zero where it is NaN or infinite.

    Example:
        >>> finite(jnp.array([1.0, jnp.nan, -jnp.inf])).tolist()
        [1.0, 0.0, 0.0]
    """
    return jnp.where(jnp.isfinite(x), x, jnp.zeros_like(x))


def of_others(x: jax.Array, seen: jax.Array | None, *, n: int, queries: bool) -> jax.Array:
    """What is not finite of `x`, summed for each of n positions over the positions it meets.

    Args:
        x: v (..., K, 1, s, e), or g (..., K, G, t, e).
        seen: (..., K, G, t, s), axes of size 1 among them; None: query i sees the keys 0..i.
        n: how many others there are: t for v, s for g.
        queries: whether x belongs to queries (g), and the others are keys.

    Returns:
        (..., n, e), an axis of size 1 in the place of n where all are alike; of g not yet summed
        over G.
    """
    odd = ~jnp.isfinite(x)
    if seen is not None:
        c = jnp.sum(jnp.where(odd, x, jnp.zeros_like(x)), -1)
        c, seen = jnp.broadcast_arrays(c[..., None] if queries else c[..., None, :], seen)
        met = jnp.sum(jnp.where(seen, c, jnp.zeros_like(c)), -2 if queries else -1)[..., None]
        counts = jnp.any(seen, -1 if queries else -2)[..., None]
        counts, odd = jnp.broadcast_arrays(counts, odd)
        met, some = jnp.broadcast_arrays(met, jnp.any(odd & counts, -2, keepdims=True))
        return jnp.where(some, met, jnp.zeros_like(met))
    # the first one, met by all queries from it on; or the last one, met by all keys up to it
    at = jnp.argmax(jnp.flip(odd, -2) if queries else odd, -2, keepdims=True).astype(jnp.int32)
    at = jnp.asarray(x.shape[-2] - 1, jnp.int32) - at if queries else at
    value = jnp.take_along_axis(x, at, -2)
    whole = (*x.shape[:-2], n, x.shape[-1])
    other = jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32)[:, None], whole)
    at, value = jnp.broadcast_to(at, whole), jnp.broadcast_to(value, whole)
    met = (other <= at) if queries else (other >= at)
    return jnp.where(met & ~jnp.isfinite(value), value, jnp.zeros_like(value))
