"""At kinks, ties and seams a right rule is "correct", and what is allowed elsewhere stays small."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnnet.check import check_vjp
from tests.planted.row import f32, rule


def _huber(x):
    return jnp.where(jnp.abs(x) <= 1, 0.5 * x * x, jnp.abs(x) - 0.5)


def _of(report, check):
    return [f for f in report.findings if f.check == check]


def test_a_seam_of_the_gradient_leaves_nothing_open():
    f = rule(_huber, lambda a, y, g: (jnp.clip(a[0], -1, 1) * g,))
    report = check_vjp(f, (f32(-1, 1, 0.5, 3),), strict=True)
    assert report.verdict == "correct", f"{report}"
    assert report.ok
    (found,) = _of(report, "second order, forward over reverse")
    assert "2 of 4 elements are at a kink of the gradient" in str(found.detail)


def test_ties_do_not_loosen_the_callers_dtypes():
    first = rule(
        lambda x: x.max(), lambda a, y, g: (jnp.zeros_like(a[0]).at[jnp.argmax(a[0])].set(g),)
    )
    report = check_vjp(first, (f32(1, 3, 3, 0, 3),))
    assert report.verdict == "correct", f"{report}"
    (found,) = _of(report, "reverse against autodiff, in own dtypes")
    assert found.bound < 1e-4


def test_an_argument_that_is_nan_is_told_and_no_more():
    sin = rule(lambda x: jnp.sin(x), lambda a, y, g: (g * jnp.cos(a[0]),))
    report = check_vjp(sin, (f32(np.nan, 1, 2),))
    assert report.verdict == "correct", f"{report}"
    assert "1 of 3 elements of x are NaN" in str(report)
    assert not check_vjp(sin, (f32(np.nan, 1, 2),), strict=True).ok


def test_where_terms_cancel_the_power_is_what_is_left():
    def bwd(args, p, g):
        return (p * (g - (g * p).sum()),)

    sure = {n: check_vjp(rule(lambda z: jax.nn.softmax(z), bwd), (f32(n, 0),)) for n in (30, 40)}
    assert sure[30].verdict == "correct"
    assert 1e-3 < sure[30].power["z"] < 0.1
    assert sure[40].verdict == "undecidable"


def test_a_loop_of_unknown_length_is_asked_forward():
    f = jax.custom_jvp(lambda x: x * x)
    f.defjvp(lambda x, t: (f(x[0]), 2 * x[0] * t[0]))

    def repeated(x):
        return lax.while_loop(lambda c: c[1] < 3, lambda c: (f(c[0]), c[1] + 1), (x, 0))[0]

    report = check_vjp(repeated, (f32(0.5, 0.7),))
    assert report.verdict == "correct", f"{report}"
    assert "a loop of unknown length has no reverse mode" in str(_of(report, "contract")[0].detail)
    assert _of(report, "forward against differences")
