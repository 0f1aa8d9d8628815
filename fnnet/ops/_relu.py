"""Rectified linear unit.

    relu : x (...) -> y (...)

Axes: all alike; the op works on each element.

Forward
    y = x where x > 0, else 0       (NaN stays NaN)

Backward, with g = ∂L/∂y
    Where x > 0, y = x and ∂y/∂x = 1; where x < 0, y is constant and ∂y/∂x = 0:
        dx = g where x > 0, else 0
    At the kink x = 0 any number of [0, 1] is a subgradient; we take 0, as `jax.nn.relu`. (Autodiff
    of ``jnp.maximum(x, 0)`` takes 1/2.)

Residuals
    y, not x. By the definition of y, x > 0 just where y > 0, so y decides as well; and y is what
    the next layer multiplies its weights with and keeps for their gradient. Keeping y adds nothing
    there, while x, or a mask of bytes, would be one more array. One bit an element is needed, so no
    smaller array of JAX will do without y.

References:
    V. Nair, G. E. Hinton, Rectified linear units improve restricted Boltzmann machines, ICML 2010.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from fnnet.ops._checks import floats
from fnnet.ops._compiled import compiled
from fnnet.rules import register


@compiled()
def relu(x: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    """Rectified linear unit, ``max(x, 0)``, with derivative 0 at 0.

    Args:
        x: any shape, real floating point.

    Returns:
        Shape and dtype of `x`; NaN where `x` is NaN.

    Raises:
        TypeError: for an array that is not of real floating point dtype.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnnet import relu
        >>> jax.vmap(jax.value_and_grad(relu))(jnp.array([-1.0, 0.0, 2.0]))
        (Array([0., 0., 2.], dtype=float32), Array([0., 0., 1.], dtype=float32))
    """
    return _relu(*floats("relu", x=x))


def _forward(x: jax.Array) -> jax.Array:
    # written by cases, so that autodiff of this text has our derivative at 0 and at NaN
    zero, nan = (jnp.full((), value, x.dtype) for value in (0, jnp.nan))
    return jnp.where(x > 0, x, jnp.where(x <= 0, zero, nan))


def relu_fwd(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """X -> y, residual."""
    y = _forward(x)
    return y, y


def relu_bwd(res: jax.Array, g: jax.Array) -> tuple[jax.Array]:
    """residual, CT y -> CT x."""
    y = res
    return (jnp.where(y > 0, g, jnp.zeros((), g.dtype)),)


_relu = register(_forward, relu_fwd, relu_bwd, name="relu")
