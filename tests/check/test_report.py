"""What a user reads: the report, its table, its JSON, the error, the names of arguments."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnnet
from fnnet.check import Finding, GradientError, Report, assert_vjp, check_vjp, compare_gradients
from fnnet.check.case.case import Terms
from fnnet.check.case.finding import DIAGNOSES
from fnnet.check.case.made import make_case
from tests.planted import BUGS
from tests.planted.functions import lin, lin_args
from tests.planted.row import changed, rule


@pytest.fixture(scope="module")
def wrong():
    f = changed(lin, lambda d, a, g: (d[0], d[1] / 8, d[2]))
    return check_vjp(f, lin_args(), stop_early=True)


def test_every_code_of_the_table_is_planted():
    assert {code for row in BUGS for code in row.codes} == set(DIAGNOSES)


def test_a_wrong_report_names_argument_element_and_mistake(wrong):
    (finding,) = wrong.wrong
    assert (finding.check, finding.arg) == ("reverse against autodiff", "w")
    assert finding.diagnosis == "mean_not_sum"
    assert finding.detail["n"] == 8
    assert finding.detail["factor"] == pytest.approx(1 / 8)
    assert finding.got == pytest.approx(finding.want / 8)
    assert finding.error == pytest.approx(abs(finding.got - finding.want))
    assert finding.error > finding.bound > 0
    assert len(finding.index) == 2
    assert wrong.verdict == "wrong"
    assert not wrong.ok
    text = str(wrong)
    for part in ("the gradient is wrong", "1/8 of what it should be", "[mean_not_sum]", "dw["):
        assert part in text
    assert max(map(len, text.splitlines())) < 140


def test_the_report_as_json(wrong):
    read = json.loads(json.dumps(wrong.to_dict(), allow_nan=False))
    assert read["verdict"] == "wrong"
    (finding,) = [f for f in read["findings"] if f["verdict"] == "wrong"]
    assert finding["detail"]["n"] == 8
    assert set(finding) == {
        *("check", "verdict", "arg", "index", "got", "want", "error", "bound"),
        *("diagnosis", "detail"),
    }


def test_json_holds_what_is_not_finite_and_complex():
    finding = Finding("c", "wrong", got=complex(1, np.nan), want=float("inf"), index=(1,))
    read = json.dumps(Report("f", (finding,)).to_dict(), allow_nan=False)
    assert '"imag": "nan"' in read
    assert '"want": "inf"' in read


def test_assert_vjp_raises_with_the_report(wrong):
    f = changed(lin, lambda d, a, g: (d[0], d[1] / 8, d[2]))
    with pytest.raises(GradientError, match="1/8 of what it should be") as e:
        assert_vjp(f, lin_args(), stop_early=True)
    assert isinstance(e.value, AssertionError)
    assert str(e.value.report) == str(wrong)


def test_verdict_of_findings():
    def verdict(*verdicts):
        return Report("f", tuple(Finding("c", v) for v in verdicts)).verdict

    assert verdict("correct", "skipped") == "correct"
    assert verdict("correct", "undecidable", "wrong") == "wrong"
    assert verdict("correct", "undecidable") == "undecidable"
    assert verdict("skipped") == verdict() == "undecidable"


def test_paths_are_as_the_user_wrote_them():
    def model(params, x, *more, scale=1.0):
        return params["out"]["w"][0] * x + more[0] * scale

    f = changed(
        lambda params, x, more: model(params, x, more),
        lambda d, a, g: ({"out": {"w": (2 * d[0]["out"]["w"][0],)}}, d[1], d[2]),
    )
    args = ({"out": {"w": (jnp.ones(3, "float32"),)}}, jnp.ones(3, "float32"))
    more = jnp.ones(3, "float32")
    report = check_vjp(lambda params, x, *rest: f(params, x, *rest), (*args, more), stop_early=True)
    assert report.wrong[0].arg == "params['out']['w'][0]"
    assert {"x", "rest[0]"} <= {finding.arg for finding in report.findings}


def test_keywords_statics_none_and_numbers():
    def f(x, power, bias=None, *, scale):
        return x**power * scale + (0 if bias is None else bias)

    x = jnp.linspace(0.5, 1.5, 5)
    options = {"kwargs": {"scale": jnp.asarray(2.0), "bias": x}, "allow_no_rule": True}
    report = check_vjp(f, (x, 3), **options)
    assert report.verdict == "correct"
    assert {"x", "bias"} <= {finding.arg for finding in report.findings}
    (fixed,) = [finding for finding in report.findings if finding.arg == "scale"]
    assert fixed.verdict == "skipped"
    assert "keyword-only" in str(fixed.detail)


def test_argnums_and_python_floats():
    f = rule(lambda x, y: x * y, lambda a, out, g: (g * a[1], 2 * g * a[0]))
    x, y = jnp.linspace(1.0, 2.0, 3), jnp.linspace(2.0, 3.0, 3)
    assert check_vjp(f, (x, y), argnums=0, stop_early=True).verdict == "correct"
    assert check_vjp(f, (x, y), argnums=(-1,), stop_early=True).wrong[0].arg == "y"
    assert check_vjp(f, (1.5, 2.5), stop_early=True).wrong[0].arg == "y"
    with pytest.raises(ValueError, match="argnums names argument 2, but there are 2"):
        check_vjp(f, (x, y), argnums=2)


def test_a_call_that_does_not_fit_is_an_error_of_the_call():
    def mul(x, y):
        return x * y

    with pytest.raises(TypeError, match="mul cannot be called with these arguments"):
        check_vjp(mul, (jnp.ones(3),))
    with pytest.raises(ValueError, match="lin: the last axis"):
        check_vjp(fnnet.lin, (jnp.ones((2, 3)), jnp.ones((2, 3))))


def test_nothing_to_differentiate():
    report = check_vjp(lambda i: i + 1, (jnp.arange(3),))
    assert report.verdict == "undecidable"
    assert "nothing to differentiate" in str(report)
    with pytest.raises(GradientError, match="nothing to differentiate"):
        assert_vjp(lambda i: i + 1, (jnp.arange(3),))
    assert assert_vjp(lambda i: i + 1, (jnp.arange(3),), allow_no_rule=True).ok


def test_a_function_without_rule_is_not_correct():
    """The usual typo passes the function that a rule was made for, not the one with the rule."""
    args = (jnp.linspace(0.0, 1.0, 3),)
    report = check_vjp(jnp.sin, args)
    (which,) = [f for f in report.findings if f.check == "which rule ran"]
    assert report.verdict == which.verdict == "undecidable"
    assert "no custom rule" in str(which.detail)
    with pytest.raises(GradientError, match="no custom rule"):
        assert_vjp(jnp.sin, args)
    assert check_vjp(jnp.sin, args, allow_no_rule=True).verdict == "correct"

    def loss(x):
        jax.debug.callback(lambda y: None, x)  # looks on, and is no rule
        return jnp.sin(x).sum()

    assert compare_gradients(loss, *args).no_rule
    assert compare_gradients(loss, *args, allow_no_rule=True).verdict == "correct"


def test_budget_of_residual_bytes():
    x, w, b = lin_args()
    kept = x.nbytes + w.nbytes
    assert check_vjp(fnnet.lin, (x, w, b), budget_bytes=kept).verdict == "correct"
    report = check_vjp(fnnet.lin, (x, w, b), budget_bytes=kept - 1)
    assert [f.check for f in report.wrong] == ["residual bytes"]
    assert report.residual_bytes == (kept, kept)


def test_the_same_key_gives_the_same_report():
    f = changed(lin, lambda d, a, g: (1.01 * d[0], d[1], d[2]))
    key = jax.random.key(7)
    one, two = (check_vjp(f, lin_args(), key=key, stop_early=True).to_dict() for _ in range(2))
    assert one == two
    assert one != check_vjp(f, lin_args(), key=8, stop_early=True).to_dict()


def test_compare_gradients_leaf_by_leaf():
    wrong = changed(lin, lambda d, a, g: (d[0], -d[1], d[2]))

    def loss(f):
        return lambda params, x: jnp.sum(jnp.tanh(f(x, params["w"], params["b"])))

    x, w, b = lin_args()
    args = ({"w": w, "b": b}, x)
    right = compare_gradients(loss(fnnet.lin), *args)
    assert right.verdict == "correct"
    assert {"params['w']", "params['b']", "x"} <= {f.arg for f in right.findings}
    report = compare_gradients(loss(wrong), *args)
    assert {(f.arg, f.diagnosis) for f in report.wrong} == {("params['w']", "negated")}
    with pytest.raises(TypeError, match="must return one real number"):
        compare_gradients(lin, x, w, b)


def test_a_rule_that_raises_when_it_is_run_is_wrong():
    """Tracing it shows nothing; without this every question would be skipped."""

    def bwd(a, y, g):
        def called(z):
            raise RuntimeError("out of luck")

        return (jax.pure_callback(called, jax.ShapeDtypeStruct(g.shape, g.dtype), g),)

    report = check_vjp(rule(jnp.sin, bwd), (jnp.ones(3, "float32"),), stop_early=True)
    assert report.verdict == "wrong"
    assert "The rule raises where autodiff does not" in str(report)


def test_undecidable_where_no_oracle_settles():
    def noisy(x):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return jax.pure_callback(
            lambda z: (np.sin(1e9 * z)).astype(z.dtype), shape, x, vmap_method="sequential"
        )

    f = rule(noisy, lambda a, y, g: (g,))
    assert check_vjp(f, (jnp.linspace(1.0, 2.0, 4),)).verdict == "undecidable"


@pytest.mark.parametrize("f", [lambda x: fnnet.unfold(x, 3), lambda x: fnnet.max_pool(x, 2)])
def test_what_gathers_images_over_devices_is_nobodys_rule(f):
    """It stays in the plain form, where a rule would leave autodiff no witness."""
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 1))
    assert "gathered" in str(jax.make_jaxpr(fnnet.plain(f))(x))
    case = make_case(f, (x,), None, [0], None, Terms())
    case.settle_mode()
    assert case.witness
    assert not case.why_no_witness
