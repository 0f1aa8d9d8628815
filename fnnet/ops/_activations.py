"""Smooth activations: gelu and silu.

    gelu : x (...) -> y (...)        silu : x (...) -> y (...)

Axes: all alike; the ops work on each element.

Forward
    silu           y = x σ(x),    σ(x) = 1 / (1 + e⁻ˣ)
    gelu, exact    y = x Φ(x),    Φ(x) = ½ erfc(-x/√2), the normal distribution function
    gelu, tanh     y = ½ x (1 + t),    t = tanh u,    u = √(2/π) (x + a x³),    a = 0.044715

Backward, with g = ∂L/∂y: the product rule, y' = x' · s(x) + x · s'(x) for y = x s(x)
    silu           σ' = σ (1 - σ), so       dx = g (σ + x σ (1 - σ))
    gelu, exact    Φ' = φ, the density φ(x) = e^(-x²/2) / √(2π), so
                                            dx = g (Φ + x φ)
    gelu, tanh     t' = (1 - t²) u',  u' = √(2/π) (1 + 3 a x²), so
                                            dx = g ½ (1 + t + x (1 - t²) u')

Residuals
    x, the caller's array. Everything else is a function of it, recomputed by a few operations on
    each element. y would not do: silu and gelu are not monotone, two x have the same y.

References
    D. Hendrycks, K. Gimpel, Gaussian error linear units, arXiv:1606.08415.
    S. Elfwing, E. Uchibe, K. Doya, Sigmoid-weighted linear units for neural network function
    approximation in reinforcement learning, arXiv:1702.03118.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from fnnet.ops._checks import floats
from fnnet.ops._compiled import compiled
from fnnet.ops._options import flag
from fnnet.rules import Static, accumulator, register

GeluResiduals: TypeAlias = tuple[jax.Array, Static]

_A = 0.044715
_ROOT = math.sqrt(2 / math.pi)


@compiled(approximate=flag('PyTorch\'s "tanh" is True, its "none" False'))
def gelu(x: Float[ArrayLike, "..."], *, approximate: bool = False) -> Float[Array, "..."]:
    """Gaussian error linear unit, x times the normal distribution function of x.

    Args:
        x: any shape, real floating point.
        approximate: whether to use the tanh formula, off by up to 5e-4, as GPT-2 does; the
            exact one by default.

    Returns:
        Shape and dtype of `x`; float16 and bfloat16 are computed in float32.

    Raises:
        TypeError: for an array that is not of real floating point dtype.

    Note:
        On JAX 0.12 the exact form cannot be differentiated twice inside `jax.shard_map` with
        ``check_vma=True``: JAX's derivative of erfc fails there (and so does `jax.nn.gelu`'s
        first).

    Example:
        >>> import jax.numpy as jnp
        >>> from fnnet import gelu
        >>> [f"{y:.4f}" for y in gelu(jnp.array([-1.0, 0.0, 1.0])).tolist()]
        ['-0.1587', '0.0000', '0.8413']
    """
    return _gelu(*floats("gelu", x=x), approximate=approximate)


@compiled()
def silu(x: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    """Sigmoid linear unit ``x * sigmoid(x)``, also called swish.

    Args:
        x: any shape, real floating point.

    Returns:
        Shape and dtype of `x`; float16 and bfloat16 are computed in float32.

    Raises:
        TypeError: for an array that is not of real floating point dtype.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnnet import silu
        >>> [f"{y:.4f}" for y in silu(jnp.array([-1.0, 0.0, 1.0])).tolist()]
        ['-0.2689', '0.0000', '0.7311']
    """
    return _silu(*floats("silu", x=x))


def _gelu_forward(x: jax.Array, *, approximate: bool = False) -> jax.Array:
    v = x.astype(accumulator(x))
    if approximate:
        y = 0.5 * v * (1 + jnp.tanh(_ROOT * (v + _A * v * v * v)))
    else:
        y = 0.5 * v * lax.erfc(-v * math.sqrt(0.5))
    return y.astype(x.dtype)


def gelu_fwd(x: jax.Array, *, approximate: bool = False) -> tuple[jax.Array, GeluResiduals]:
    """x -> y, residuals."""
    return _gelu_forward(x, approximate=approximate), (x, Static(approximate))


def gelu_bwd(res: GeluResiduals, g: jax.Array) -> tuple[jax.Array]:
    """residuals, CT y -> CT x."""
    x, approximate = res
    v = x.astype(accumulator(x))
    if approximate.value:
        t = jnp.tanh(_ROOT * (v + _A * v * v * v))
        slope = 0.5 * (1 + t + v * (1 - t * t) * (_ROOT * (1 + 3 * _A * v * v)))
    else:
        density = jnp.exp(-0.5 * v * v) * (1 / math.sqrt(2 * math.pi))
        slope = 0.5 * lax.erfc(-v * math.sqrt(0.5)) + v * density
    return ((g.astype(v.dtype) * slope).astype(x.dtype),)


_gelu = register(_gelu_forward, gelu_fwd, gelu_bwd, name="gelu")


def _silu_forward(x: jax.Array) -> jax.Array:
    v = x.astype(accumulator(x))
    return (v * lax.logistic(v)).astype(x.dtype)


def silu_fwd(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x -> y, residual."""
    return _silu_forward(x), x


def silu_bwd(res: jax.Array, g: jax.Array) -> tuple[jax.Array]:
    """residual, CT y -> CT x."""
    x = res
    v = x.astype(accumulator(x))
    s = lax.logistic(v)
    return ((g.astype(v.dtype) * (s + v * s * (1 - s))).astype(x.dtype),)


_silu = register(_silu_forward, silu_fwd, silu_bwd, name="silu")
