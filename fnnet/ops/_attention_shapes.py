"""What `attention` asks of the shapes of its arguments."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from fnnet.ops._checks import describe


def require_attention(q: Any, k: Any, v: Any, mask: Any) -> None:
    """Raise unless queries, keys, values and the mask fit."""
    shapes = {"q": jnp.shape(q), "k": jnp.shape(k), "v": jnp.shape(v)}
    for name, shape in shapes.items():
        if len(shape) < 3:
            raise ValueError(
                f"attention: {name} must have shape (..., time, head, feature); got shape {shape}. "
                "With one head it is [:, None]"
            )
    (*batch, t, heads, d), (*_, s, kv_heads, _) = shapes["q"], shapes["k"]
    if shapes["k"] != (*batch, s, kv_heads, d):
        raise ValueError(
            f"attention: k must have q's batch axes {tuple(batch)} and q's number of features {d}; "
            f"got q of shape {shapes['q']} and k of shape {shapes['k']}"
        )
    if shapes["v"][:-1] != (*batch, s, kv_heads):
        raise ValueError(
            f"attention: v must have one value for each key, shape {(*batch, s, kv_heads)} and "
            f"features; got v of shape {shapes['v']} with k of shape {shapes['k']}"
        )
    if (kv_heads == 0 and heads) or (kv_heads and heads % kv_heads):
        raise ValueError(
            f"attention: the heads of q, {heads}, must be a multiple of those of k and v, "
            f"{kv_heads}. The axes are (..., time, head, feature)"
        )
    if mask is not None:
        _require_mask(mask, (*batch, heads, t, s))


def _require_mask(mask: Any, whole: tuple[int, ...]) -> None:
    if not hasattr(mask, "dtype") or mask.dtype != bool:
        raise TypeError(
            f"attention: mask must be boolean, true where a query may look; got "
            f"{describe(mask)}. Of numbers to be added to the logits, compare them: mask > -inf"
        )
    fits = mask.ndim <= len(whole) and all(
        m in (1, w) for m, w in zip(mask.shape[::-1], whole[::-1], strict=False)
    )
    if not fits:
        raise ValueError(
            f"attention: mask must broadcast to (..., head, query, key) = {whole}, its axes "
            f"counted from the last; got shape {mask.shape}. One mask for each batch, whatever the "
            "head, is mask[:, None]; one that hides keys alone is mask[:, None, None]"
        )
