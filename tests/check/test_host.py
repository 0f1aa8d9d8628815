"""Callbacks to the host see 64 bits where the check computes in 64 bits."""

import jax
import numpy as np
import pytest
from jax import lax

from fnnet.check.case.modes import WIDE, Program


def _sin(x, seen):
    def called(z):
        seen.append(np.asarray(z).dtype)
        return np.sin(np.asarray(z))

    return jax.pure_callback(called, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


@pytest.mark.parametrize("reverse", [False, True])
def test_in_a_scan(reverse):
    def f(x, seen):
        def step(carry, row):
            carry = _sin(carry + row, seen)
            return carry, carry * row

        return lax.scan(step, x[0], x, reverse=reverse)

    x = np.random.default_rng(0).normal(size=(4, 20_000))
    seen = []
    last, rows = Program(lambda x: f(x, seen), lambda: True)(WIDE, x)
    want = x[0]
    for i in range(4)[:: -1 if reverse else 1]:
        want = np.sin(want + x[i])
        np.testing.assert_allclose(rows[i], want * x[i], rtol=1e-14)
    np.testing.assert_allclose(last, want, rtol=1e-14)
    assert set(seen) == {np.dtype("float64")}
    assert len(seen) == 4


def test_under_a_rule_jit_and_checkpoint():
    seen = []
    g = jax.custom_vjp(lambda x: _sin(x, seen))
    g.defvjp(lambda x: (_sin(x, seen), x), lambda x, c: (c,))
    x = np.random.default_rng(0).normal(size=20_000)
    got = Program(jax.checkpoint(jax.jit(lambda x: g(x) + 1)), lambda: True)(WIDE, x)
    np.testing.assert_allclose(got, np.sin(x) + 1, rtol=1e-14)
    assert set(seen) == {np.dtype("float64")}
