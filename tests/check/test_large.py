"""A million numbers: bounded memory, the same verdicts, and what is not asked of so many."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnnet.check import check_vjp
from fnnet.check.case.large import LARGE
from fnnet.check.oracle.tolerance import PART, by_parts, compared, parts, scale_of
from tests.planted.row import rule

N = 1_000_000


def _tanh(slope):
    def bwd(args, y, g):
        return (g * (1 - y * y) * slope(y),)

    return rule(jnp.tanh, bwd)


def _args(dtype="float32"):
    return (jnp.asarray(np.random.default_rng(0).normal(size=N), dtype),)


# JAX's own arrays are not among what is traced: two gradients of the arguments' size are held
@pytest.mark.parametrize(("dtype", "times"), [("float64", 9), ("float32", 12)])
def test_how_much_memory_numpy_takes(dtype, times):
    with jax.enable_x64(dtype == "float64"):
        f, args = _tanh(lambda y: 1), _args(dtype)
        tracemalloc.start(1)
        try:
            report = check_vjp(f, args, level="quick")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert report.verdict == "correct", f"{report}"
        assert peak < times * args[0].nbytes


def test_what_is_not_asked():
    report = check_vjp(_tanh(lambda y: 1), _args())
    assert report.verdict == "correct", f"{report}"
    skipped = {f.check: str(f.detail) for f in report.findings if f.verdict == "skipped"}
    assert "above 500000 this is not asked" in skipped["second order"]
    assert "smaller arguments" in skipped["jit against no jit"]
    assert "reverse against differences" not in skipped


@pytest.mark.parametrize(
    ("slope", "diagnosis"),
    [
        (lambda y: 0.999, "scaled"),
        (lambda y: jnp.ones_like(y).at[-7].set(1.001), "elements"),
    ],
)
def test_bugs_are_found_there_too(slope, diagnosis):
    report = check_vjp(_tanh(slope), _args(), stop_early=True)
    assert report.verdict == "wrong"
    assert report.diagnosis == diagnosis


def test_a_rule_for_x64_arguments_is_asked_in_32_bits_too():
    """Where 64 bits are on, arrays of 32 stay what they are in the caller's dtypes."""

    def slope(y):
        return 1.01 if y.dtype == jnp.float32 else 1

    with jax.enable_x64(True):
        report = check_vjp(_tanh(slope), _args(), level="quick")
    assert report.verdict == "wrong"
    assert {f.check for f in report.wrong} == {"reverse against autodiff, in own dtypes"}


def test_parts_are_the_whole():
    rng = np.random.default_rng(0)
    got, want = rng.normal(size=(2, 3, PART))
    want = np.where(rng.random(want.shape) < 0.5, got, want)
    got[1, 5], want[2, 7] = np.nan, np.inf
    bound = np.full(want.shape, 1.5)
    for b in (bound, np.broadcast_to(1.5, want.shape)):
        c = compared(got, want, b)
        rows = [compared(*row) for row in zip(got, want, bound, strict=True)]
        np.testing.assert_array_equal(c.bad, [r.bad for r in rows])
        np.testing.assert_array_equal(c.unclear, [r.unclear for r in rows])
        np.testing.assert_allclose(c.error, [r.error for r in rows], rtol=1e-6)
        assert c.worst == (1, 5)
    assert sum(x.size for x in parts(want)) == want.size
    assert scale_of(want) == np.abs(want[np.isfinite(want)]).max()
    (double,) = by_parts(lambda x: (2 * x,), want)
    np.testing.assert_allclose(double, 2 * want, rtol=1e-6)
    assert want.size < 2 * LARGE
