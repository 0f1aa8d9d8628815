"""gelu, silu: digits in the tails, beside the rows of the table."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnnet import gelu, plain, silu

gelu_tanh = functools.partial(gelu, approximate=True)

AT = [
    *(-3e38, -1e20, -1e10, -92.0, -89.0, -87.5, -60.0, -20.0, -12.5, -10.1, -8.0, -5.0, -4.0),
    *(-3.0, -0.5, -1e-3, -1e-20, 0.0, 1e-20, 1e-3, 0.5, 2.0, 4.0, 6.0, 9.0, 17.0, 1e10, 1e20, 3e38),
]


def sigmoid(z):
    e = np.exp(-np.abs(z))
    return np.where(z < 0, e, 1) / (1 + e)


def exact(op, x):
    """Value and slope in float64."""
    if op is silu:
        return x * sigmoid(x), sigmoid(x) * (1 + x * sigmoid(-x))
    if op is gelu:
        p = np.vectorize(lambda v: math.erfc(-v / math.sqrt(2)) / 2)(x)
        with np.errstate(over="ignore"):
            return x * p, p + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    w = np.clip(x, -30, 30)
    z = 2 * math.sqrt(2 / math.pi) * w * (1 + 0.044715 * w * w)
    dz = 2 * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * w * w)
    return x * sigmoid(z), sigmoid(z) * (1 + w * dz * sigmoid(-z))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("op", [silu, gelu, gelu_tanh], ids=["silu", "gelu", "gelu by tanh"])
def test_digits_in_both_tails(op, dtype):
    """Relative, down to the least number of the dtype; for `plain`'s gradient too.

    What remains is the rounding of the exponent: z², or the cubic, up to 88.
    """
    x = jnp.array(AT, "float32").astype(dtype)
    x = x[jnp.isfinite(x)]
    value, slope = exact(op, np.asarray(x, np.float64))
    least, u = float(jnp.finfo(dtype).tiny), float(jnp.finfo(dtype).eps)
    allowed = max(2e-5, 2 * u)
    for got, want, lost in (
        (op(x), value, least),
        (jax.vmap(jax.grad(op))(x), slope, least),
        # autodiff multiplies the small factors with each other first
        (jax.vmap(jax.grad(plain(op)))(x), slope, 100 * least if dtype != "float16" else least),
    ):
        got = np.asarray(got, np.float64)
        assert (np.abs(got - want) <= allowed * np.abs(want) + lost).all(), got - want


def test_the_slope_of_the_tanh_form_far_out():
    x = jnp.array([1e6, 1e13, 1e20, 3e38, jnp.inf], "float32")
    assert jax.vmap(jax.grad(gelu_tanh))(x).tolist() == [1] * 5
    assert jax.vmap(jax.grad(gelu_tanh))(-x).tolist() == [0] * 5
    assert float(gelu_tanh(jnp.float32(-5))) == pytest.approx(-2.2918e-07, rel=1e-4)


@pytest.mark.parametrize("op", [silu, gelu_tanh], ids=["silu", "gelu by tanh"])
def test_no_less_exact_than_jax_nn(op):
    peer = jax.nn.silu if op is silu else jax.nn.gelu
    x = jnp.linspace(-20, 20, 4001).astype("float32")
    wants = exact(op, np.asarray(x, np.float64))
    u = float(jnp.finfo("float32").eps)
    for of, want in zip((lambda f: f, lambda f: jax.vmap(jax.grad(f))), wants, strict=True):
        ours, theirs = (np.abs(np.asarray(of(f)(x), np.float64) - want) for f in (op, peer))
        # within every unit of x; where both are within rounding there is nothing to choose. Left of
        # 0 the slope has a zero, as the difference of two terms of up to 0.3
        for at, a, b, w in zip(
            *(np.split(np.asarray(v)[1:], 40) for v in (x, ours, theirs, want)), strict=True
        ):
            size = max(np.abs(w).max(), 0.3 if -4 <= at[0] <= 0 else 0)
            assert a.max() <= max(b.max(), 2 * u * size)


def test_second_derivatives_at_0():
    """A choice by the sign of x is nothing that derivatives see: σ'(0) = 1/4."""
    for op, want in (
        (silu, 0.5),
        (gelu, math.sqrt(2 / math.pi)),
        (gelu_tanh, math.sqrt(2 / math.pi)),
    ):
        for f in (op, plain(op)):
            assert float(jax.grad(jax.grad(f))(0.0)) == pytest.approx(want, rel=1e-12)
