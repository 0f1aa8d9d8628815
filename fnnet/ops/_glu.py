"""The gated block of transformers (GLU), as one op.

    glu_mlp : x (..., d), w_gate (d, f), w_up (d, f), w_down (f, e) -> y (..., e)

Axes: p over all leading axes of x (the samples); i of d inputs, k of f hidden units, j of e
outputs.

Forward, with φ the activation
    a_pk = Σ_i x_pi wg_ik        u_pk = Σ_i x_pi wu_ik        the two pre-activations
    h_pk = φ(a_pk) u_pk
    y_pj = Σ_k h_pk wd_kj

Backward, with g_pj = ∂L/∂y_pj
    lin:            dh_pk = Σ_j g_pj wd_kj            dwd_kj = Σ_p h_pk g_pj
    product rule:   da_pk = dh_pk u_pk φ'(a_pk)       du_pk = dh_pk φ(a_pk)
    lin, twice:     dwg_ik = Σ_p x_pi da_pk           dwu_ik = Σ_p x_pi du_pk
                    dx_pi = Σ_k (da_pk wg_ik + du_pk wu_ik)      x is used twice: its cotangents add

Residuals
    x and the weights, the caller's arrays; a and u, two arrays of f numbers a sample. φ(a), φ'(a)
    and h are computed again from them, number by number, where autodiff keeps several more arrays
    of that size. (For dwd alone h would do.) Keeping x alone would cost two of the three products
    once more.
    float16 and bfloat16 products are summed in float32; a, u and h are rounded, as factors. The two
    terms of dx are added in float32 on CPUs; on accelerators each is rounded first, as autodiff has
    them, since chips that share the sum over k exchange it (half the bytes).
    a and u carry the names "fnnet.glu_mlp.a" and "fnnet.glu_mlp.u", by which a policy of
    `jax.checkpoint` can save or offload them.

References
    N. Shazeer, GLU variants improve transformer, arXiv:2002.05202.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from fnnet.ops._activations import gelu_bwd, gelu_fwd, silu_bwd, silu_fwd
from fnnet.ops._checks import floats, shapes
from fnnet.ops._compiled import compiled
from fnnet.ops._options import OUT_SHARDING, PRECISION, choice
from fnnet.ops._relu import relu_bwd, relu_fwd
from fnnet.rules import (
    OutSharding,
    Precision,
    Static,
    accumulator,
    by_platform,
    contract,
    register,
    result_sharding,
    tells_of_out_sharding,
)

Activation: TypeAlias = Literal["silu", "gelu", "gelu_tanh", "relu"]
Residuals: TypeAlias = tuple[
    jax.Array, jax.Array, jax.Array, jax.Array, jax.Array, jax.Array, Static
]

# φ as the two passes of its own op
_PASSES: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "silu": (silu_fwd, silu_bwd),
    "gelu": (gelu_fwd, gelu_bwd),
    "gelu_tanh": (partial(gelu_fwd, approximate=True), gelu_bwd),
    "relu": (relu_fwd, relu_bwd),
}


@compiled(
    activation=choice("silu", "gelu", "gelu_tanh", "relu"),
    precision=PRECISION,
    out_sharding=OUT_SHARDING,
)
def glu_mlp(
    x: Float[ArrayLike, "*batch d"],
    w_gate: Float[ArrayLike, "d f"],
    w_up: Float[ArrayLike, "d f"],
    w_down: Float[ArrayLike, "f e"],
    *,
    activation: Activation = "silu",
    precision: Precision = None,
    out_sharding: OutSharding = None,
) -> Float[Array, "*batch e"]:
    """Gated block ``(φ(x @ w_gate) * (x @ w_up)) @ w_down``.

    Args:
        x: shape (..., d), real floating point.
        w_gate: shape (d, f): its product goes through the activation.
        w_up: shape (d, f).
        w_down: shape (f, e).
        activation: "silu" (SwiGLU), "gelu" (exact, GEGLU), "gelu_tanh" or "relu" (ReGLU).
        precision: of the products, as in `jnp.einsum`, forward and backward alike.
        out_sharding: the result's sharding (`jax.P` or `jax.NamedSharding`) on a mesh of explicit
            axes, as in `jnp.matmul`: needed where an axis that is summed over is sharded, as f is
            in a tensor-parallel block.

    Returns:
        Shape (..., e).

    Raises:
        TypeError: for arrays that are not of real floating point dtype.
        ValueError: for shapes that do not fit, or an unknown activation.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnnet import glu_mlp
        >>> one = jnp.ones((1, 1))
        >>> glu_mlp(2 * one, one, 3 * one, one, activation="relu").tolist()
        [[12.0]]
    """
    arrays = floats("glu_mlp", x=x, w_gate=w_gate, w_up=w_up, w_down=w_down)
    _require(*shapes(*arrays))
    with tells_of_out_sharding("glu_mlp"):
        return _glu_mlp(
            *arrays, activation=activation, precision=precision, out_sharding=out_sharding
        )


def _before(
    x: jax.Array, w_gate: jax.Array, w_up: jax.Array, precision: Precision
) -> tuple[jax.Array, jax.Array]:
    """a and u."""
    dtype = jnp.result_type(x, w_gate, w_up)
    return (
        contract("...i,ik->...k", x, w_gate, dtype=dtype, precision=precision),
        contract("...i,ik->...k", x, w_up, dtype=dtype, precision=precision),
    )


def _after(
    a: jax.Array,
    u: jax.Array,
    w_down: jax.Array,
    activation: Activation,
    precision: Precision,
    out_sharding: OutSharding,
) -> jax.Array:
    """y."""
    h = _PASSES[activation][0](a)[0] * u
    dtype = jnp.result_type(a, w_down)
    out = result_sharding("glu_mlp", out_sharding, h.ndim, h, w_down)
    return contract("...k,kj->...j", h, w_down, dtype=dtype, precision=precision, out_sharding=out)


def _forward(
    x: jax.Array,
    w_gate: jax.Array,
    w_up: jax.Array,
    w_down: jax.Array,
    *,
    activation: Activation = "silu",
    precision: Precision = None,
    out_sharding: OutSharding = None,
) -> jax.Array:
    a, u = _before(x, w_gate, w_up, precision)
    return _after(a, u, w_down, activation, precision, out_sharding)


def glu_mlp_fwd(
    x: jax.Array,
    w_gate: jax.Array,
    w_up: jax.Array,
    w_down: jax.Array,
    *,
    activation: Activation = "silu",
    precision: Precision = None,
    out_sharding: OutSharding = None,
) -> tuple[jax.Array, Residuals]:
    """x, w_gate, w_up, w_down -> y, residuals."""
    a, u = _before(x, w_gate, w_up, precision)
    a, u = checkpoint_name(a, "fnnet.glu_mlp.a"), checkpoint_name(u, "fnnet.glu_mlp.u")
    y = _after(a, u, w_down, activation, precision, out_sharding)
    return y, (x, w_gate, w_up, w_down, a, u, Static((activation, precision)))


def glu_mlp_bwd(res: Residuals, g: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """residuals, CT y -> CT x, CT w_gate, CT w_up, CT w_down."""
    x, w_gate, w_up, w_down, a, u, static = res
    activation, precision = static.value
    phi_fwd, phi_bwd = _PASSES[activation]
    phi, phi_res = phi_fwd(a)
    dh = contract("...j,kj->...k", g, w_down, like=a, precision=precision)
    (da,) = phi_bwd(phi_res, dh * u)
    du = dh * phi

    def sum_of_two(dtype: np.dtype) -> Callable[..., jax.Array]:
        def dx(da: jax.Array, du: jax.Array, w_gate: jax.Array, w_up: jax.Array) -> jax.Array:
            first = contract("...k,ik->...i", da, w_gate, dtype=dtype, precision=precision)
            second = contract("...k,ik->...i", du, w_up, dtype=dtype, precision=precision)
            return (first + second).astype(x.dtype)

        return dx

    narrow, wide = jnp.result_type(da, w_gate, w_up), accumulator(da, w_gate, w_up)
    dx = sum_of_two(wide)
    if narrow != wide:
        dx = partial(by_platform, cpu=dx, default=sum_of_two(narrow))
    return (
        dx(da, du, w_gate, w_up),
        contract("...i,...k->ik", x, da, like=w_gate, precision=precision),
        contract("...i,...k->ik", x, du, like=w_up, precision=precision),
        contract("...k,...j->kj", phi * u, g, like=w_down, precision=precision),
    )


_glu_mlp = register(_forward, glu_mlp_fwd, glu_mlp_bwd, name="glu_mlp")


def _require(
    x: tuple[int, ...], w_gate: tuple[int, ...], w_up: tuple[int, ...], w_down: tuple[int, ...]
) -> None:
    for name, w, words in (
        ("w_gate", w_gate, "(d, f)"),
        ("w_up", w_up, "(d, f)"),
        ("w_down", w_down, "(f, e)"),
    ):
        if len(w) != 2:
            raise ValueError(f"glu_mlp: {name} must have shape {words}; got shape {w}")
    if w_up != w_gate:
        raise ValueError(
            f"glu_mlp: w_gate and w_up must have the same shape (d, f); got {w_gate} and {w_up}"
        )
    if not x or x[-1] != w_gate[0]:
        transposed = bool(x) and x[-1] == w_gate[1]
        remedy = "the weights seem transposed" if transposed else "x is (..., d)"
        raise ValueError(
            f"glu_mlp: the last axis of x must have the size d = {w_gate[0]} of w_gate's first "
            f"axis; got x of shape {x} and w_gate of shape {w_gate}. {remedy}"
        )
    if w_down[0] != w_gate[1]:
        raise ValueError(
            f"glu_mlp: w_down must have shape (f, e) with f = {w_gate[1]}, the size of w_gate's "
            f"last axis; got shape {w_down}"
        )
