"""Matrix product, batched.

    matmul : a (..., n, k), b (..., k, m) -> c (..., n, m)

Axes: i of n rows, k contracted, j of m columns; p stands for all batch axes, which broadcast.
A vector a is one row and a vector b one column; their axis i or j is left out, as in `jnp.matmul`.

Forward
    c_pij = Σ_k a_pik b_pkj

Backward, for a scalar loss L with g_pij = ∂L/∂c_pij
    a_pik enters every c_pij of its row, with the factor b_pkj:
        da_pik = Σ_j (∂L/∂c_pij) (∂c_pij/∂a_pik) = Σ_j g_pij b_pkj
    b_pkj enters every c_pij of its column, with the factor a_pik:
        db_pkj = Σ_i (∂L/∂c_pij) (∂c_pij/∂b_pkj) = Σ_i a_pik g_pij
    A batch axis that a lacks, or has in size 1, is one that all its copies share: there the sum
    that gives da runs over that axis too. In einsum's letters this is no new rule. The letter is
    missing from a's term, so it is summed: "pij,pkj->ik". Likewise for b.
    In matrices, da = g bᵀ and db = aᵀ g. For complex arrays JAX's cotangents are not conjugated.

Residuals
    a and b. The product is bilinear: each cotangent contains the other factor whole, so both must
    be kept; both are the caller's arrays already, and nothing new is stored. c is not needed.

References:
    D. E. Rumelhart, G. E. Hinton, R. J. Williams, Learning representations by back-propagating
    errors, Nature 323, 1986. M. Giles, Collected matrix derivative results for forward and reverse
    mode algorithmic differentiation, 2008.
"""

from __future__ import annotations

import string
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike
from jaxtyping import Array, Inexact

from fnnet.ops._checks import floats, shapes
from fnnet.ops._compiled import compiled
from fnnet.ops._options import OUT_SHARDING, PRECISION
from fnnet.rules import (
    OutSharding,
    Precision,
    Static,
    contract,
    register,
    result_sharding,
    tells_of_out_sharding,
)

Residuals: TypeAlias = tuple[jax.Array, jax.Array, Static]

# einsum adds up over letters in their order: capitals before i, j, k keep batch axes outermost
_BATCH_LETTERS = string.ascii_uppercase + string.ascii_lowercase[:8]


@compiled(precision=PRECISION, out_sharding=OUT_SHARDING)
def matmul(
    a: Inexact[ArrayLike, "..."],
    b: Inexact[ArrayLike, "..."],
    *,
    precision: Precision = None,
    out_sharding: OutSharding = None,
) -> Inexact[Array, "..."]:
    """Matrix product over the last two axes; leading axes are batch axes and broadcast.

    Args:
        a: shape (..., n, k), or (k,) for one row.
        b: shape (..., k, m), or (k,) for one column.
        precision: of the products, as in `jnp.einsum`, forward and backward alike; by default the
            one in force (`jax.default_matmul_precision`).
        out_sharding: the result's sharding (`jax.P` or `jax.NamedSharding`) on a mesh of explicit
            axes, as in `jnp.matmul`: needed where an axis that is summed over is sharded.

    Returns:
        Shape (..., n, m), without n or m where a or b is a vector. float16 and bfloat16 products
        are summed in float32 and rounded once (on GPU and TPU by the hardware, as `jnp.matmul`'s).

    Raises:
        TypeError: for arrays that are not of float or complex dtype.
        ValueError: for scalars, for inner sizes that differ, for batch axes that do not broadcast.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnnet import matmul
        >>> matmul(jnp.ones((5, 2, 3)), jnp.ones((3, 4))).shape
        (5, 2, 4)
    """
    arrays = floats("matmul", complex_too=True, a=a, b=b)
    _require_shapes(*shapes(*arrays))
    with tells_of_out_sharding("matmul"):
        return _matmul(*arrays, precision=precision, out_sharding=out_sharding)


def _forward(
    a: jax.Array,
    b: jax.Array,
    *,
    precision: Precision = None,
    out_sharding: OutSharding = None,
) -> jax.Array:
    t = _terms(a.shape, b.shape)
    out = result_sharding("matmul", out_sharding, len(t.c), a, b)
    if out is not None:
        of_letter = dict(zip(t.c, out.spec, strict=True))
        out = NamedSharding(out.mesh, P(*(of_letter[letter] for letter in t.grouped)))
    c = contract(
        f"{t.a},{t.b}->{t.grouped}",
        jnp.squeeze(a, t.a_shared),
        jnp.squeeze(b, t.b_shared),
        precision=precision,
        out_sharding=out,
    )
    return jnp.einsum(f"{t.grouped}->{t.c}", c)


def matmul_fwd(
    a: jax.Array,
    b: jax.Array,
    *,
    precision: Precision = None,
    out_sharding: OutSharding = None,
) -> tuple[jax.Array, Residuals]:
    """a, b -> c, residuals."""
    c = _forward(a, b, precision=precision, out_sharding=out_sharding)
    return c, (a, b, Static(precision))


def matmul_bwd(res: Residuals, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    """residuals, CT c -> CT a, CT b."""
    a, b, precision = res
    t = _terms(a.shape, b.shape)
    g = jnp.einsum(f"{t.c}->{t.grouped}", g)
    da = contract(
        f"{t.grouped},{t.b}->{t.a}",
        g,
        jnp.squeeze(b, t.b_shared),
        like=a,
        precision=precision.value,
    )
    db = contract(
        f"{t.grouped},{t.a}->{t.b}",
        g,
        jnp.squeeze(a, t.a_shared),
        like=b,
        precision=precision.value,
    )
    return jnp.expand_dims(da, t.a_shared), jnp.expand_dims(db, t.b_shared)


_matmul = register(_forward, matmul_fwd, matmul_bwd, name="matmul")


class _Terms(NamedTuple):
    """einsum's terms for a, b and c; and the axes of size 1 that broadcast, left out of them.

    `grouped` is c with the axes that come from a alone side by side, and those from b alone: so it
    is one matrix (a batch of them), and so is its cotangent in both of the products it enters.
    """

    a: str
    b: str
    c: str
    grouped: str
    a_shared: tuple[int, ...]
    b_shared: tuple[int, ...]


def _terms(a_shape: tuple[int, ...], b_shape: tuple[int, ...]) -> _Terms:
    """Einsum's terms for these shapes.

    Example:
        >>> _terms((7, 1, 2, 3), (5, 3, 4))
        _Terms(a='Aik', b='Bkj', c='ABij', grouped='AiBj', a_shared=(1,), b_shared=())
    """
    batch_a, batch_b = a_shape[:-2], b_shape[:-2]
    ndim = max(len(batch_a), len(batch_b))
    letters = _BATCH_LETTERS[:ndim]

    def batch_term(own: tuple[int, ...], other: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
        term, shared = "", []
        for axis, size in enumerate(own):
            from_right = len(own) - axis
            facing = other[-from_right] if from_right <= len(other) else 1
            if size == 1 and facing != 1:
                shared.append(axis)
            else:
                term += letters[ndim - from_right]
        return term, tuple(shared)

    term_a, a_shared = batch_term(batch_a, batch_b)
    term_b, b_shared = batch_term(batch_b, batch_a)
    row, column = "i" * (len(a_shape) > 1), "j" * (len(b_shape) > 1)
    common = "".join(c for c in letters if c in term_a and c in term_b)
    alone_a, alone_b = ("".join(c for c in t if c not in common) for t in (term_a, term_b))
    return _Terms(
        a=f"{term_a}{row}k",
        b=f"{term_b}k{column}",
        c=f"{letters}{row}{column}",
        grouped=f"{common}{alone_a}{row}{alone_b}{column}",
        a_shared=a_shared,
        b_shared=b_shared,
    )


def _require_shapes(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    if not a or not b:
        raise ValueError(
            f"matmul: a and b must have at least one axis; got shapes {a} and {b}. "
            "Multiply by a scalar with *"
        )
    if a[-1] != b[-2 if len(b) > 1 else -1]:
        inner = "the last but one axis of b" if len(b) > 1 else "the length of b"
        raise ValueError(
            f"matmul: the last axis of a must equal {inner}; got shapes {a} and {b}. "
            "Is one of them transposed?"
        )
    try:
        jnp.broadcast_shapes(a[:-2], b[:-2])
    except ValueError:
        raise ValueError(
            f"matmul: the batch axes {a[:-2]} of a and {b[:-2]} of b must broadcast; "
            f"got shapes {a} and {b}"
        ) from None
