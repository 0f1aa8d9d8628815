"""What each level asks, that it costs what it should, and that cheap answers are the same."""

import json
import os

import jax
import jax.numpy as jnp
import pytest

import fnnet
from fnnet.check import check_vjp, cli, verify
from fnnet.check.case import modes
from fnnet.check.questions import determinism, sharded
from tests.planted import BUGS, RIGHT
from tests.planted.functions import lin, lin_args
from tests.planted.row import changed, normal, rule

FIRST_ORDER = {
    "contract",
    "value under differentiation",
    "linearity in g",
    "reverse against autodiff",
    "reverse against autodiff, in own dtypes",
    "reverse against differences",
}
NAMES = (
    "lin: dw is half",
    "softmax: the sum over the wrong axis",
    "layer norm: through the mean forgotten",
    "square: stops the gradient's gradient",
    "only under vmap: doubled",
    "matmul, complex: da conjugated",
    "embedding: padding row dropped",
    "float32 rule computes in bfloat16",
    "relu at 0, 0",
    "top-k ties",
    "complex modulus squared, real output",
    "softmax masked by -1e9",
    "NaN input passes through",
)
ROWS = {row.name: row for row in (*BUGS, *RIGHT) if row.name in NAMES}


def test_the_rows_are_there():
    assert set(ROWS) == set(NAMES)


def test_quick_asks_about_the_gradient_alone():
    report = check_vjp(fnnet.lin, lin_args(4, 3, 2), level="quick")
    assert report.verdict == "correct"
    assert {f.check for f in report.findings} == FIRST_ORDER
    assert 'level="full" also asks' in str(report)
    full = check_vjp(fnnet.lin, lin_args(4, 3, 2))
    assert {f.check for f in full.findings} > FIRST_ORDER
    assert full.notes == ()


def test_quick_says_correct_of_no_function_without_a_rule():
    report = check_vjp(jnp.sin, (jnp.ones(3),), level="quick")
    assert report.verdict == "undecidable"
    assert report.no_rule
    allowed = check_vjp(jnp.sin, (jnp.ones(3),), level="quick", allow_no_rule=True)
    assert allowed.verdict == "correct"


def test_a_second_derivative_is_asked_by_full_only():
    def bwd(args, out, g):
        return (2 * jax.lax.stop_gradient(args[0]) * g,)

    square = rule(lambda x: x * x, bwd)
    assert check_vjp(square, (normal(4),), level="quick").verdict == "correct"
    assert check_vjp(square, (normal(4),), level="full").diagnosis == "second_order"


def test_a_level_that_there_is_not():
    with pytest.raises(ValueError, match=r"level must be one of .quick., .full., got .fast.; "):
        check_vjp(fnnet.lin, lin_args(), level="fast")


def test_the_command_takes_a_level(capsys, tmp_path):
    file = tmp_path / "reports.json"
    assert cli.main(["--op", "relu", "--level", "quick", "--json", str(file)]) == 0
    (op,) = json.loads(file.read_text(encoding="utf-8"))
    assert {f["check"] for f in op["calls"][0]["findings"]} == FIRST_ORDER
    capsys.readouterr()
    assert cli.main(["--score", "--level", "quick", "--only", "lin: dw is zero"]) == 0
    assert "1 of 1" in capsys.readouterr().out
    assert cli.main(["--level", "fast"]) == 2
    assert "invalid choice: 'fast'" in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_numpy_and_xla_answer_alike(name, monkeypatch):
    f, args, *options = ROWS[name].build()

    def answers():
        report = check_vjp(f, args, **(options[0] if options else {}))
        return report.verdict, {(x.check, x.arg): (x.verdict, x.diagnosis) for x in report.findings}

    cheap = answers()
    monkeypatch.setattr(modes, "pays", lambda jaxpr: False)
    assert answers() == cheap


@pytest.mark.skipif(
    os.environ.get("JAX_CUSTOM_VJP3") == "1", reason="rules are hijax classes, which are compiled"
)
def test_how_much_is_compiled(compilations, monkeypatch):
    """In 64 bits nothing; in the caller's dtypes the function, its rule and its oracle."""
    f = changed(lin, lambda d, a, g: d)
    check_vjp(f, lin_args(5, 3, 2), level="quick")  # what a process compiles once
    with compilations() as counted:
        check_vjp(f, lin_args(7, 3, 2), level="quick")
    assert counted() == 3
    # the rule uncompiled is compiled operation by operation, and devices ask for more programs
    asked = tuple(q for q in verify.QUESTIONS if q not in (determinism, sharded))
    monkeypatch.setitem(verify.LEVELS, "full", asked)
    with compilations() as counted:
        check_vjp(f, lin_args(11, 3, 2))
    # rule and oracle in bfloat16 and in float16 are the other four
    assert counted() == 7


def test_what_is_mapped_is_compiled_once(compilations):
    """However often it is evaluated: run alone, a `shard_map` is compiled at each evaluation."""
    row = next(r for r in BUGS if r.name == "psum missing inside shard_map loss")
    f, args = row.build()
    with compilations() as counted:
        report = check_vjp(f, args, level="quick", stop_early=True)
    assert report.diagnosis in row.codes
    assert counted() < 40
