"""Smooth activations: gelu and silu.

    gelu : x (...) -> y (...)        silu : x (...) -> y (...)

Axes: all alike; the ops work on each element.

Forward
    silu           y = x σ(x),    σ(x) = 1 / (1 + e⁻ˣ)
    gelu, exact    y = x Φ(x),    Φ(x) = ½ erfc(-x/√2), the normal distribution function
    gelu, tanh     y = ½ x (1 + tanh u) = x σ(z),    z = 2u = 2 √(2/π) (x + a x³),    a = 0.044715
                   as ½ (1 + tanh u) = e^u / (e^u + e^-u) = σ(2u)

Backward, with g = ∂L/∂y: the product rule, y' = x' · s(x) + x · s'(x) for y = x s(x)
    silu           σ' = σ (1 - σ), so       dx = g (σ + x σ (1 - σ))
    gelu, exact    Φ' = φ, the density φ(x) = e^(-x²/2) / √(2π), so
                                            dx = g (Φ + x φ)
    gelu, tanh     z' = 2 √(2/π) (1 + 3 a x²), so
                                            dx = g (σ(z) + x z' σ(z) (1 - σ(z)))

Digits, in the tails
    1 + tanh u and, for z > 0, 1 - σ(z) cancel; σ(z) does not. The backward pass needs σ(z) and
    σ(-z) = 1 - σ(z): of the two it computes t = σ(-|z|), at most ½, and takes 1 - t for the other,
    where nothing cancels; σ(z) σ(-z) = t (1 - t) on either side.
    Far to the left σ(z) is below the least number of its dtype where x σ(z) is not yet: there
    σ(z) = e^z = e^(z+30) e^-30, and e^-30 comes last.
    For |x| > 30, x³ need not be in range: z is held at its value there, where σ(z) is 0 or 1.

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

# below, σ(z) = e^z to all digits of float32 and float64, at z + 30 too; no rounding changes z + 30
_FAR, _SHIFT = -80.0, 30.0

# there, σ(2u) is 0 or 1 in float64 too
_REACH = 30.0


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
    y = _gated(v, _argument(v)[0]) if approximate else _gated_normally(v)
    return y.astype(x.dtype)


def gelu_fwd(x: jax.Array, *, approximate: bool = False) -> tuple[jax.Array, GeluResiduals]:
    """x -> y, residuals."""
    return _gelu_forward(x, approximate=approximate), (x, Static(approximate))


def gelu_bwd(res: GeluResiduals, g: jax.Array) -> tuple[jax.Array]:
    """residuals, CT y -> CT x."""
    x, approximate = res
    if not approximate.value:
        # else XLA stores what erfc has in common with the forward pass: two or three arrays
        x = lax.optimization_barrier(x)
    v = x.astype(accumulator(x))
    if approximate.value:
        slope = _slope(*_argument(v))
    else:
        slope = _normal(v) + v * (1 / math.sqrt(2 * math.pi)) * jnp.exp(-0.5 * v * v)
    return ((g.astype(v.dtype) * slope).astype(x.dtype),)


_gelu = register(_gelu_forward, gelu_fwd, gelu_bwd, name="gelu")


def _silu_forward(x: jax.Array) -> jax.Array:
    v = x.astype(accumulator(x))
    return _gated(v, v).astype(x.dtype)


def silu_fwd(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x -> y, residual."""
    return _silu_forward(x), x


def silu_bwd(res: jax.Array, g: jax.Array) -> tuple[jax.Array]:
    """residual, CT y -> CT x."""
    x = res
    v = x.astype(accumulator(x))
    return ((g.astype(v.dtype) * _slope(v, v)).astype(x.dtype),)


_silu = register(_silu_forward, silu_fwd, silu_bwd, name="silu")


def _normal(v: jax.Array) -> jax.Array:
    """Φ(v)."""
    return 0.5 * lax.erfc(-v * math.sqrt(0.5))


def _gated_normally(v: jax.Array) -> jax.Array:
    """v Φ(v)."""
    # The choice changes no value: Φ is 0 there. As the last step it keeps XLA for CPU from pulling
    # the product into a sum that may follow, whose factors it would store one by one.
    return jnp.where(v < -40, 0.0 * v, v * _normal(v))


def _small(far: jax.Array, y: jax.Array) -> jax.Array:
    """Y, times e^-30 where far; a choice is last, for XLA: see `_gated_normally`."""
    return jnp.where(far, y * math.exp(-_SHIFT), y)


def _gated(v: jax.Array, z: jax.Array) -> jax.Array:
    """v σ(z)."""
    far = z < _FAR
    return _small(far, v * lax.logistic(jnp.where(far, z + _SHIFT, z)))


def _slope(z: jax.Array, vdz: jax.Array) -> jax.Array:
    """σ(z) + v dz/dv σ(z) σ(-z), the derivative of v σ(z)."""
    far, left = z < _FAR, z < 0
    # no |z|: at 0 it has no derivative, and this has a second one
    t = lax.logistic(jnp.where(far, z + _SHIFT, jnp.where(left, z, -z)))
    rest = 1 - t
    return _small(far, jnp.where(left, t, rest) + (vdz * t) * rest)


def _argument(v: jax.Array) -> tuple[jax.Array, jax.Array]:
    """z = 2u, and v dz/dv; where σ(z) is 0 or 1 to all digits, z no longer grows."""
    w = jnp.clip(v, -_REACH, _REACH)
    a = _A * w * w
    return 2 * _ROOT * w * (1 + a), 2 * _ROOT * w * (1 + 3 * a)
