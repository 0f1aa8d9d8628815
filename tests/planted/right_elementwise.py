"""Right rules that are easy to accuse: functions of one number."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from .functions import (
    gelu,
)
from .row import (
    f32,
    normal,
    right_elementwise,
)

_KINKY = functools.partial(f32, 0.0, -0.0, 1e-30, -1e-30, 1e-9, -1e-9, 1.0, -2.0)

right_elementwise(
    "relu at 0, 0", lambda x: jnp.maximum(x, 0), lambda x, y, g: jnp.where(x > 0, g, 0), _KINKY
)
right_elementwise(
    "relu at 0, 1", lambda x: jnp.maximum(x, 0), lambda x, y, g: jnp.where(x >= 0, g, 0), _KINKY
)
right_elementwise("abs at 0, 0", jnp.abs, lambda x, y, g: g * jnp.sign(x), _KINKY)
right_elementwise("abs at 0, -1", jnp.abs, lambda x, y, g: jnp.where(x > 0, g, -g), _KINKY)
right_elementwise(
    "leaky relu at 0",
    lambda x: jnp.where(x > 0, x, 0.1 * x),
    lambda x, y, g: jnp.where(x >= 0, g, 0.1 * g),
    _KINKY,
)
right_elementwise(
    "hard tanh at its corners",
    lambda x: jnp.clip(x, -1, 1),
    lambda x, y, g: jnp.where(jnp.abs(x) < 1, g, 0),
    lambda: f32(-2, -1, -0.5, 0, 0.5, 1, 2),
)
right_elementwise(
    "huber at its seams",
    lambda x: jnp.where(jnp.abs(x) < 1, 0.5 * x * x, jnp.abs(x) - 0.5),
    lambda x, y, g: g * jnp.clip(x, -1, 1),
    lambda: f32(-2, -1, 0, 1, 3),
)
right_elementwise(
    "sigmoid saturated",
    jax.nn.sigmoid,
    lambda x, y, g: g * y * (1 - y),
    lambda: f32(-200, -90, -20, 0, 20, 90, 200),
)
right_elementwise(
    "tanh saturated",
    jnp.tanh,
    lambda x, y, g: g * (1 - y * y),
    lambda: f32(-50, -9, -3, 0, 3, 9, 50),
)
right_elementwise(
    "softplus far out",
    lambda x: jnp.logaddexp(x, jnp.zeros_like(x)),
    lambda x, y, g: g * jax.nn.sigmoid(x),
    lambda: f32(-300, -30, 0, 30, 300),
)
right_elementwise(
    "a stiff exponential",
    lambda x: jnp.exp(60 * x),
    lambda x, y, g: 60 * g * y,
    lambda: f32(-1, 0, 0.5, 1),
)
right_elementwise(
    "a stiff decay",
    lambda x: jnp.exp(-1e4 * x * x),
    lambda x, y, g: -2e4 * x * y * g,
    lambda: f32(0, 1e-3, 0.01, 0.1),
)
right_elementwise(
    "scale 1e-8", lambda x: x * x, lambda x, y, g: 2 * x * g, lambda: 1e-8 * normal(9)
)
right_elementwise("scale 1e8", lambda x: x * x, lambda x, y, g: 2 * x * g, lambda: 1e8 * normal(9))
right_elementwise(
    "scales 1e-8 to 1e8 in one array",
    lambda x: jnp.sin(x) * x,
    lambda x, y, g: g * (jnp.sin(x) + x * jnp.cos(x)),
    lambda: f32(1e-8, 1e-4, 1, 1e2, 1e4),
)
right_elementwise(
    "1 - cos by half angles",
    lambda x: (1 - jnp.cos(x)) / (x * x),
    lambda x, y, g: (
        g * (jnp.sin(x) / x**2 - 4 * jnp.sin(x / 2) ** 2 / x**3)
        if False
        else g
        * jnp.where(
            jnp.abs(x) < 1e-2, -x / 12 + x**3 / 180, jnp.sin(x) / x**2 - 2 * (1 - jnp.cos(x)) / x**3
        )
    ),
    lambda: f32(1e-8, 1e-5, 1e-4, 0.5, 1.5),
)
right_elementwise(
    "sinc at 0",
    lambda x: jnp.sin(x) / x,
    lambda x, y, g: (
        g
        * jnp.where(
            x == 0, 0.0, (x * jnp.cos(x) - jnp.sin(x)) / jnp.where(x == 0, 1, x * x)
        ).astype(x.dtype)
    ),
    lambda: f32(0.5, 1.0, 2.0),
)
right_elementwise(
    "sqrt at 0, finite by rule",
    lambda x: jnp.sqrt(jnp.abs(x)),
    lambda x, y, g: jnp.where(x == 0, 0, g * jnp.sign(x) / (2 * jnp.where(y == 0, 1, y))),
    lambda: f32(0, 1, 4, -4),
)
right_elementwise(
    "log1p of small", jnp.log1p, lambda x, y, g: g / (1 + x), lambda: f32(1e-8, -1e-8, 1e-20, 0.5)
)
right_elementwise(
    "straight-through rounding, declared",
    lambda x: jnp.round(x),
    lambda x, y, g: g,
    lambda: normal(9),
    reference=lambda x: x * 1,
    surrogate=True,
)
right_elementwise(
    "straight-through sign, declared",
    jnp.sign,
    lambda x, y, g: jnp.where(jnp.abs(x) <= 1, g, 0),
    lambda: normal(9),
    reference=lambda x: jnp.clip(x, -1, 1),
    surrogate=True,
)
right_elementwise(
    "gradient reversal, declared",
    lambda x: x * 1,
    lambda x, y, g: -g,
    lambda: normal(9),
    reference=lambda x: -x,
    surrogate=True,
)
right_elementwise("a step function: zero", jnp.floor, lambda x, y, g: 0 * g, lambda: normal(9))
right_elementwise(
    "clip far from its ends", lambda x: jnp.clip(x, -100, 100), lambda x, y, g: g, lambda: normal(9)
)
right_elementwise(
    "bfloat16 sigmoid",
    jax.nn.sigmoid,
    lambda x, y, g: g * y * (1 - y),
    lambda: normal(64, dtype="bfloat16"),
)
right_elementwise(
    "float16 gelu",
    gelu,
    lambda x, y, g: jax.vjp(gelu, x)[1](g)[0],
    lambda: normal(64, dtype="float16"),
)
