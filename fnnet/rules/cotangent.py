"""What a forward and a backward rule are written with: contraction and un-broadcasting.

Both keep one promise of arithmetic: a sum of float16 or bfloat16 products is accumulated in float32
and rounded once, at the end. A cotangent has the dtype of its primal, so the rounding is the last
thing that happens to it (`like`).

Where a result as narrow as the operands is wanted, the product itself is asked for it: what a
policy such as `jax.checkpoint_policies.dots_saveable` saves then is 16 bits wide, as with
`jnp.matmul`, and so is what devices exchange that each have a part of the sum.
GPUs and TPUs add up such products in float32 inside. XLA's CPU compiler does too, except where the
first operand is summed over an axis that is not its last and the second has two more: an order of
axes that `jax.vmap` brings about. There it adds up in bfloat16, or, asked for float32, has no
kernel at all. So on a CPU the operands are cast to float32 where the product is lowered, or, for
a result in float32, kept in an order that is right. Each platform's compiler sees its own form
alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.typing import ArrayLike, DTypeLike

from fnnet.rules.platform import by_platform

Precision: TypeAlias = (
    str
    | jax.lax.Precision
    | jax.lax.DotAlgorithmPreset
    | tuple[str, str]
    | tuple[jax.lax.Precision, jax.lax.Precision]
    | None
)

# operands are cast to float32 where the product is lowered: in the program they stay narrow
_WIDENED = jax.lax.DotAlgorithmPreset.F32_F32_F32


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Like:
    """An array's shape and dtype without its contents: a residual that stores nothing.

    Example:
        >>> Like.of(jnp.ones((2, 3)))
        Like(shape=(2, 3), dtype=dtype('float32'))
    """

    shape: tuple[int, ...]
    dtype: np.dtype

    @staticmethod
    def of(x: jax.Array) -> Like:
        """The shape and dtype of `x`."""
        return Like(jnp.shape(x), jnp.result_type(x))


def accumulator(*operands: ArrayLike) -> np.dtype:
    """The dtype in which sums of products of `operands` are held: at least 32 bits.

    Example:
        >>> accumulator(jnp.ones(3, "bfloat16"), jnp.ones(3, "bfloat16"))
        dtype('float32')
    """
    dtype = jnp.result_type(*operands)
    return np.promote_types(dtype, np.float32)


def contract(
    subscripts: str,
    *operands: jax.Array,
    like: jax.Array | Like | None = None,
    dtype: DTypeLike | None = None,
    precision: Precision = None,
    out_sharding: NamedSharding | None = None,
) -> jax.Array:
    """`jnp.einsum` that accumulates in `accumulator(*operands)` and casts last.

    Args:
        subscripts: as in `jnp.einsum`.
        operands: arrays of floating point or complex dtype.
        like: the primal whose cotangent this is. It gives the result's dtype.
        dtype: the result's dtype where there is no `like`; by default the operands' common one.
        precision: as in `jnp.einsum`; None is the precision in force.
        out_sharding: the result's, on a mesh of explicit axes; None where it follows.

    Example:
        >>> x, g, w = jnp.ones((5, 2)), jnp.ones((5, 3)), jnp.ones((2, 3))
        >>> contract("bi,bj->ij", x, g, like=w).shape
        (2, 3)
    """
    narrow = jnp.result_type(*operands)
    if dtype is None:
        dtype = narrow if like is None else like.dtype
    wide = accumulator(*operands)
    as_wanted = narrow if dtype == narrow and _is_one_product(subscripts) else wide

    def product(asked: np.dtype, precision: Precision, *operands: jax.Array) -> jax.Array:
        # einsum itself adds up, in the wide dtype, along an axis that only one narrow operand has
        with jax.numpy_dtype_promotion("standard"):
            return jnp.einsum(
                subscripts,
                *operands,
                precision=precision,
                preferred_element_type=asked,
                out_sharding=out_sharding,
            )

    if narrow == wide or len(operands) == 1:
        return product(wide, precision, *operands).astype(dtype)
    asked = as_wanted if like is None else wide
    on_cpu = partial(product, asked, _WIDENED)
    if asked == wide and _is_one_product(subscripts) and _sums_over_last_axis(subscripts):
        on_cpu = partial(_narrow_on_cpu, partial(product, wide, precision))
    elsewhere = partial(product, as_wanted, precision)

    def cast(of: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        return lambda *operands: of(*operands).astype(dtype)

    return by_platform(*operands, cpu=cast(on_cpu), default=cast(elsewhere))


def _narrow_on_cpu(
    product: Callable[..., jax.Array], first: jax.Array, second: jax.Array
) -> jax.Array:
    """A wide product of narrow numbers as they are, which XLA's CPU compiler keeps right.

    It spares copies in float32. Either operand may come to be mapped alone; what is summed over
    stays the first one's last axis if mapped axes are in front.
    """
    # a squeezed axis brings mapped ones to the front; the barrier keeps the compiler from reading
    # the operand in the order it had before
    first, second = (jnp.squeeze(x[None], 0) for x in (first, second))
    return product(jax.lax.optimization_barrier(first), second)


def _is_one_product(subscripts: str) -> bool:
    """Whether all of the summing is in a product of two operands, and nothing around it.

    Example:
        >>> _is_one_product("...i,ij->...j"), _is_one_product("ij,j->")
        (True, False)
    """
    terms, _, result = subscripts.replace(".", "").partition("->")
    a, _, b = terms.partition(",")
    return "," in terms and "," not in b and set(a) ^ set(b) <= set(result)


def _sums_over_last_axis(subscripts: str) -> bool:
    """Whether the first operand's last axis is the one summed over, and its axes lead the result.

    Example:
        >>> _sums_over_last_axis("...i,ij->...j"), _sums_over_last_axis("...i,...j->ij")
        (True, False)
    """
    terms, _, result = subscripts.partition("->")
    kept = terms.partition(",")[0][:-1]
    return result.startswith(kept)


def sum_to(g: jax.Array, like: jax.Array | Like) -> jax.Array:
    """Sum `g` over the axes along which `like` was broadcast: the backward of broadcasting.

    Broadcasting reads one element many times, so its cotangent is the sum of what arrives at each
    of the copies.

    Args:
        g: the cotangent of the broadcast array.
        like: the array that was broadcast to g's shape; it gives the result's shape and dtype.

    Raises:
        ValueError: when `like` does not broadcast to g's shape.

    Example:
        >>> sum_to(jnp.ones((4, 2, 3)), jnp.ones((2, 1))).tolist()
        [[12.0], [12.0]]
    """
    shape = like.shape
    extra = g.ndim - len(shape)
    if extra < 0 or any(n not in (1, m) for n, m in zip(shape, g.shape[extra:], strict=True)):
        raise ValueError(f"sum_to: like of shape {shape} does not broadcast to g's shape {g.shape}")
    stretched = tuple(
        axis for axis in range(g.ndim) if axis < extra or shape[axis - extra] != g.shape[axis]
    )
    if not stretched:
        return g.astype(like.dtype)
    # jnp.sum adds float16 and bfloat16 up in float32
    return jnp.sum(g, axis=stretched).reshape(shape).astype(like.dtype)
