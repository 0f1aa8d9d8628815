"""What is right is not accused, what is loose elsewhere is a caution, what is open is said."""

import jax
import jax.numpy as jnp
import pytest
from jax.scipy import special

from fnnet.check import GradientError, assert_vjp, check_vjp
from tests.planted import RIGHT
from tests.planted.limits import cofactors, det3, rms, rms_bwd, tangent
from tests.planted.row import f32, normal, rule
from tests.planted.solvers import (
    bisected,
    bisected_until,
    fixed_point,
    implicit,
    of_the_cosine,
    of_the_cubic,
    on_the_host,
)

SOME = (f32(1.1, 2.2, 3.7),)


@pytest.mark.parametrize(
    ("solve", "slope"),
    [
        (bisected(18), of_the_cubic),
        (bisected_until(1e-5), of_the_cubic),
        (on_the_host(18), of_the_cubic),
    ],
    ids=["for", "while", "host"],
)
def test_a_bisection_has_the_implicit_gradient(solve, slope):
    right = check_vjp(implicit(solve, slope), SOME, level="quick")
    assert right.verdict != "wrong", f"{right}"
    wrong = implicit(solve, lambda x, a: (1.05 * slope(x, a)[0],))
    assert check_vjp(wrong, SOME, level="quick").verdict == "wrong"


def test_a_tolerance_that_is_said_widens_the_bound_and_no_more():
    def off_by(error):
        return implicit(fixed_point(1e-6), lambda x, a: ((1 + error) * of_the_cosine(x, a)[0],))

    args = (f32(0.3, 0.6, 0.8),)
    assert check_vjp(off_by(1e-3), args, level="quick").verdict == "wrong"
    assert check_vjp(off_by(1e-3), args, level="quick", tolerance=1e-3).verdict != "wrong"
    assert check_vjp(off_by(0.5), args, level="quick", tolerance=1e-3).verdict == "wrong"


def test_a_small_error_is_no_factor_of_1():
    report = check_vjp(rule(jnp.sin, lambda a, y, g: (g * jnp.cos(a[0]) * (1 + 3e-6),)), SOME)
    assert report.verdict == "wrong"
    assert "1 + 3e-06 times" in str(report)
    assert "it is 1 times" not in str(report)


def in_another_dtype(dtype, factor=2.0):
    def bwd(a, y, g):
        return (g * jnp.cos(a[0]) * (factor if g.dtype == dtype else 1),)

    return rule(jnp.sin, bwd)


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_wrong_in_another_dtype_is_a_caution(dtype):
    f = in_another_dtype(dtype)
    report = check_vjp(f, SOME)
    assert report.verdict == "correct", f"{report}"
    assert report.ok
    assert report.cautions
    assert {c.verdict for c in report.cautions} == {"caution"}
    assert report.cautions[0].diagnosis == "scaled"
    assert f"caution: {report.cautions[0].check}" in str(report)
    strict = check_vjp(f, SOME, strict=True)
    assert strict.verdict == "correct"
    assert not strict.ok
    assert "strict: this does not pass" in str(strict)
    with pytest.raises(GradientError, match="caution"):
        assert_vjp(f, SOME, strict=True)


def test_strict_passes_what_leaves_nothing_open():
    f = rule(jnp.sin, lambda a, y, g: (g * jnp.cos(a[0]),))
    # a custom_vjp has no second derivative forward over reverse unless fwd calls the plain one
    assert assert_vjp(f, SOME, strict=True).left_open == ()


def test_strict_fails_on_nan_and_on_what_is_undecided():
    norm = tangent(
        lambda x: jnp.sqrt((x * x).sum(-1)),
        lambda p, t: (
            jnp.sqrt((p[0] ** 2).sum(-1)),
            (p[0] * t[0]).sum(-1) / jnp.sqrt((p[0] ** 2).sum(-1)),
        ),
    )
    x = f32(0.0, 0.0, 3.0, 4.0).reshape(2, 2)
    report = check_vjp(norm, (x,))
    assert report.verdict == "undecidable"
    said = " ".join(str(report).split())
    assert "2 of 4 elements are NaN by the rule and by autodiff alike" in said
    assert report.ok
    assert not check_vjp(norm, (x,), strict=True).ok
    assert not check_vjp(special.xlogy, (f32(0.0, 1.0), f32(0.0, 1.0)), strict=True).ok


def test_elements_left_undecided_convict_nobody_later():
    report = check_vjp(special.xlogy, (f32(0.0, 1.0), f32(0.0, 1.0)))
    assert report.verdict == "undecidable", f"{report}"


def test_sums_of_16_bits_are_asked_with_a_cotangent_of_one_sign():
    x, s = (normal(1024, 4, seed=2) + 2).astype("bfloat16"), jnp.ones(4, "bfloat16")
    report = check_vjp(rule(rms, rms_bwd), (x, s), stop_early=True)
    assert report.verdict == "wrong"
    assert report.diagnosis == "dtype"


def test_a_bound_larger_than_the_answer_decides_nothing():
    def rule_with(second):
        df = tangent(cofactors, lambda p, t: (cofactors(p[0]), second(p[0], t[0])))
        return tangent(jnp.linalg.det, lambda p, t: (det3(p[0]), jnp.sum(df(p[0]) * t[0])))

    right = rule_with(lambda m, t: jax.jvp(cofactors, (m,), (t,))[1])
    assert check_vjp(right, (jnp.ones((3, 3)),)).verdict != "wrong"
    report = check_vjp(rule_with(lambda m, t: 0 * t), (jnp.ones((3, 3)),))
    assert report.diagnosis == "second_order", f"{report}"


def test_surrogates_are_named_with_the_remedy():
    straight = rule(lambda x: jnp.round(x), lambda a, y, g: (g,))
    x = (f32(0.3, 1.7, 2.2),)
    report = check_vjp(straight, x)
    assert report.diagnosis == "surrogate"
    assert "surrogate=True" in str(report)
    assert "reference=" in str(report)
    declared = {"reference": lambda x: x * 1}
    assert check_vjp(straight, x, **declared).diagnosis == "value_differs"
    assert check_vjp(straight, x, **declared, surrogate=True).verdict == "correct"
    alone = check_vjp(straight, x, surrogate=True)
    assert alone.verdict == "undecidable"
    assert alone.ok


def test_words_for_an_error_say_how_many_and_how_large():
    f = rule(jnp.sin, lambda a, y, g: ((g * jnp.cos(a[0])).at[1].mul(3),))
    report = check_vjp(f, (normal(7),), level="quick")
    assert "1 of 7 elements are off by more than is allowed" in str(report)
    (finding, *_) = report.wrong
    assert (finding.detail["off"], finding.detail["of"]) == (1, 7)
    assert finding.detail["largest"] > 0


def test_a_check_writes_nothing_to_stderr(capfd):
    def bwd(a, y, g):
        def called(z):
            raise RuntimeError("out of luck")

        return (jax.pure_callback(called, jax.ShapeDtypeStruct(g.shape, g.dtype), g),)

    assert check_vjp(rule(jnp.sin, bwd), SOME, stop_early=True).verdict == "wrong"
    assert capfd.readouterr().err == ""


def test_on_several_devices_a_solver_may_stop_elsewhere():
    """Of a part of the arguments a loop that ends by a test takes fewer turns: no missing sum."""
    (row,) = (r for r in RIGHT if r.name == "cube root by Newton until 1e-3")
    report = check_vjp(*row.build())
    found = {x.check: x.verdict for x in report.findings if x.check.startswith("sharded")}
    assert found == {"sharded by the compiler": "correct", "sharded by shard_map": "undecidable"}


def test_a_surrogate_need_not_be_cut_as_its_value_is():
    """The clipping of all of a gradient by its norm is not that of each device's part."""
    (row,) = (r for r in RIGHT if r.name == "clipped by norm, declared")
    f, args, options = row.build()
    report = check_vjp(f, args, **options)
    assert report.ok, f"{report}"
    (skipped,) = (x for x in report.findings if x.check == "sharded by shard_map")
    assert "another function's" in str(skipped.detail)
