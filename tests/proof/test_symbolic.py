"""Every backward rule is proved; every planted error is refuted."""

from __future__ import annotations

import functools
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sympy
from sympy import Rational, exp, log, sqrt, symbols, tanh

from fnnet.proof import reference
from fnnet.proof.cases import CASES
from fnnet.proof.cli import main
from fnnet.proof.identity import vanishes
from fnnet.proof.symbolic import Instance, Sym, prove
from fnnet.proof.twin import elementary, losses
from fnnet.proof.twin.activations import gelu_vjp, silu_vjp
from fnnet.proof.twin.dense import lin_vjp
from tests.marks import thorough

proof_of = functools.cache(prove)


def test_one_step_of_gru_is_exact() -> None:
    """By default of that op; two steps take ten seconds."""
    proof = prove(
        "gru", cases=[case for case in CASES["gru"]() if case.arguments["x"].shape[0] == 1]
    )
    assert proof.exact, str(proof)
    assert len(proof.claims) == 3


@pytest.mark.parametrize(
    "op", [pytest.param(op, marks=thorough if op == "gru" else []) for op in reference.OPS]
)
def test_every_rule_is_exact(op: str) -> None:
    proof = proof_of(op)
    assert proof.exact, str(proof)
    # a rule of forward mode too, where the twin has one
    assert len(proof.tangents) == len(proof.claims) * hasattr(reference, f"{op}_jvp")
    assert len(proof.shapes) >= 3
    images = ("conv2d", "unfold", "fold", "max_pool", "avg_pool", "attention", "rnn")
    batch = 4 if op in images and op != "rnn" else 3
    assert any(len(shape) >= batch for shapes in proof.shapes for shape in shapes.values())
    assert "exact" in str(proof)
    for claim in proof.claims:  # it is about something: the derivatives hold the cotangent
        cotangent = {s for s in sympy.Tuple(*np.ravel(claim.out)).free_symbols if s.name[0] == "g"}
        assert not cotangent
        found = set().union(
            *(e.free_symbols for d in claim.derivative.values() for e in map(sympy.sympify, d.flat))
        )
        nothing_counts = claim.options.get("ignore_index") == -1 or claim.region
        assert nothing_counts or any(s.name.split("_")[0] == "g" for s in found)


def test_every_pattern_of_signs_and_every_order_is_gone_through() -> None:
    relu = proof_of("relu").claims
    for shape in [(2,), (2, 2)]:
        regions = {claim.region for claim in relu if claim.shapes["x"] == shape}
        assert len(regions) == 2 ** math.prod(shape)
    slopes = {tuple(claim.rule["x"]) for claim in relu if claim.shapes["x"] == (2,)}
    g_0, g_1 = symbols("g_0 g_1")
    assert slopes == {(0, 0), (0, g_1), (g_0, 0), (g_0, g_1)}

    pool = [claim for claim in proof_of("max_pool").claims if claim.shapes["out"] == (1, 1, 1, 1)]
    assert len({claim.region for claim in pool}) == math.factorial(4)
    winners = [claim.out.item() for claim in pool]
    assert all(winners.count(winner) == 6 for winner in winners)
    assert len(set(winners)) == 4


def times(vjp: Callable[..., Any], *factors: Any) -> Callable[..., Any]:
    """The rule with each cotangent multiplied."""

    def wrong(*args: Any, **options: Any) -> tuple[Any, ...]:
        given = vjp(*args, **options)
        return tuple(
            d if d is None else d * f
            for d, f in zip(given, [*factors, *[1] * (len(given) - len(factors))], strict=True)
        )

    return wrong


def softmax_without_sum(z: Any, g: Any, axis: int = -1) -> Any:
    p = reference.softmax(z, axis)
    return (p * g,)


def layer_norm_without_mean(x: Any, scale: Any, shift: Any, g: Any, *, eps: Any) -> Any:
    h = g if scale is None else g * scale
    _, dscale, dshift = reference.layer_norm_vjp(x, scale, shift, g, eps=eps)
    c = x - x.mean(axis=-1, keepdims=True)
    s = elementary.sqrt((c**2).mean(axis=-1, keepdims=True) + eps)
    return h / s - (c / s) * (h * c / s).mean(axis=-1, keepdims=True) / s, dscale, dshift


def silu_wrong_left_of_zero(x: Any, g: Any) -> Any:
    (dx,) = silu_vjp(x, g)
    return (np.where(elementary.greater(x, 0), dx, g),)


def gelu_without_density(x: Any, g: Any, *, approximate: bool) -> Any:
    if approximate:
        return gelu_vjp(x, g, approximate=True)
    return (g * elementary.erfc(-x / elementary.sqrt(2)) / 2,)


def cross_entropy_without_smoothing(logits: Any, labels: Any, g: Any, **options: Any) -> Any:
    return reference.cross_entropy_vjp(logits, labels, g, **{**options, "smoothing": 0})


def attention_without_softmax_rule(q: Any, k: Any, v: Any, g: Any, **options: Any) -> Any:
    dq, dk, dv = reference.attention_vjp(q, k, v, g, **options)
    return dq, dk + k, dv


def rnn_without_time(x: Any, h0: Any, wx: Any, wh: Any, b: Any, g: Any) -> Any:
    hs = reference.rnn(x, h0, wx, wh, b)
    before = np.concatenate([h0[None], hs[:-1]])
    da = g * (1 - hs**2)
    dx, dwx, db = lin_vjp(x, wx, b, da)
    dh, dwh, _ = lin_vjp(before, wh, None, da)
    return dx, dh[0], dwx, dwh, db


def gru_without_reset(x: Any, h0: Any, wx: Any, wh: Any, b: Any, g: Any) -> Any:
    dx, dh0, dwx, dwh, db = reference.gru_vjp(x, h0, wx, wh, b, g)
    n = h0.shape[-1]
    return dx, dh0, dwx, np.concatenate([dwh[:, : 2 * n], dwx[:1, 2 * n :]], axis=-1), db


def glu_swapped(x: Any, w_gate: Any, w_up: Any, w_down: Any, g: Any, **options: Any) -> Any:
    dx, dw_gate, dw_up, dw_down = reference.glu_mlp_vjp(x, w_gate, w_up, w_down, g, **options)
    return dx, dw_up, dw_gate, dw_down


def conv2d_flipped(x: Any, w: Any, b: Any, g: Any, **options: Any) -> Any:
    dx, dw, db = reference.conv2d_vjp(x, w, b, g, **options)
    return dx, dw[::-1, ::-1], db


def max_pool_to_all(x: Any, size: Any, g: Any, **options: Any) -> Any:
    return reference.avg_pool_vjp(x, size, g, **options)


def relu_leaks(x: Any, g: Any) -> Any:
    return (np.where(elementary.greater(x, 0), g, g / 100),)


def weights_ignored(logits: Any, labels: Any, g: Any, **options: Any) -> Any:
    given = losses.cross_entropy_vjp(logits, labels, g, **options)
    return (*given[:2], *(d * 0 for d in given[2:]))


def norm_of_the_square(x: Any, g: Any, ord: Any = 2, axis: Any = None, **options: Any) -> Any:
    (dx,) = reference.norm_vjp(x, g, ord, axis, **options)
    return (2 * x * g if ord == 2 and axis is None else dx,)


PLANTED: list[tuple[str, Callable[..., Any]]] = [
    *((op, times(getattr(reference, f"{op}_vjp"), 2)) for op in reference.OPS),  # twice dx
    ("matmul", lambda a, b, g: tuple(-d for d in reference.matmul_vjp(a, b, g))),
    ("lin", times(lin_vjp, 1, 1, Rational(999, 1000))),
    ("lin", lambda x, w, b, g: lin_vjp(x, w, b, np.full(g.shape, sympy.Integer(1)))),
    ("lin", lambda x, w, b, g: lin_vjp(x, w, b, g)[:2]),
    ("lin", lambda x, w, b, g: (*lin_vjp(x, w, b, g)[:2], None)),
    ("lin", lambda x, w, b, g: (lin_vjp(x, w, b, g)[0], *lin_vjp(x, w, b, g)[1:][::-1])),
    ("lin", lambda x, w, b, g: list(lin_vjp(x, w, b, g))),
    ("relu", relu_leaks),
    ("mse", times(reference.mse_vjp, 1, -1)),
    ("softmax", softmax_without_sum),
    ("log_softmax", softmax_without_sum),
    ("cross_entropy", cross_entropy_without_smoothing),
    ("cross_entropy", weights_ignored),
    ("layer_norm", layer_norm_without_mean),
    ("norm", norm_of_the_square),
    ("gelu", gelu_without_density),
    ("silu", silu_wrong_left_of_zero),
    ("glu_mlp", glu_swapped),
    ("rnn", rnn_without_time),
    ("gru", gru_without_reset),
    ("attention", attention_without_softmax_rule),
    ("conv2d", conv2d_flipped),
    ("max_pool", max_pool_to_all),
]


@pytest.mark.parametrize(
    ("op", "wrong"), PLANTED, ids=[f"{i}-{op}" for i, (op, _) in enumerate(PLANTED)]
)
def test_planted_errors_are_refuted(op: str, wrong: Callable[..., Any]) -> None:
    cases = CASES[op]()[:2]
    if op == "cross_entropy":  # its errors are of one option each
        cases = [case for case in CASES[op]() if len(case.options) > 1][:3]
    proof = prove(op, vjp=wrong, cases=cases)
    assert not proof.exact
    assert all(d.refuted for d in proof.differences)
    assert "NOT PROVED" in str(proof)
    assert "the rule is not the derivative" in str(proof)


HAVE_TANGENTS = [op for op in reference.OPS if hasattr(reference, f"{op}_jvp")]


@pytest.mark.parametrize("op", HAVE_TANGENTS)
def test_a_wrong_tangent_is_refuted(op: str) -> None:
    """One that forgets an argument's tangent, and one whose sign is wrong."""
    jvp = getattr(reference, f"{op}_jvp")
    case = CASES[op]()[0]
    n = sum(not isinstance(a, int | tuple) for a in case.arguments.values())
    for wrong in (
        lambda *args, **options: -jvp(*args, **options),
        lambda *args, **options: jvp(
            *args[:-n], args[-n] * 0, *args[len(args) - n + 1 :], **options
        ),
    ):
        proof = prove(op, jvp=wrong, cases=[case])
        assert not proof.exact
        assert all(d.refuted and d.argument == "out" for d in proof.differences)
        assert "dout" in str(proof)


def test_the_gradient_of_attentions_tangent_is_exact() -> None:
    """Reverse mode over forward mode: the tangent is a function like any other."""
    for case in CASES["attention"]():
        if math.prod(case.arguments["q"].shape) > 2 or "scale" in case.learned:
            continue
        dots = {f"d{name}": s for name, s in case.arguments.items()}
        more = Instance({**case.arguments, **dots}, case.options)
        rules = {"forward": reference.attention_jvp, "vjp": reference.attention_jvp_vjp}
        proof = prove("attention's tangent", **rules, cases=[more])
        assert proof.exact, str(proof)
    swapped = lambda *args, **o: reference.attention_jvp_vjp(*args, **o)[::-1]  # noqa: E731
    assert not prove("f", forward=reference.attention_jvp, vjp=swapped, cases=[more]).exact


def test_the_differing_expressions_are_shown() -> None:
    case = Instance({"x": Sym(1, 2), "w": Sym(2, 1), "b": None})
    proof = prove("lin", vjp=times(lin_vjp, 1, 2), cases=[case])
    first = proof.differences[0]
    x_00, g_00 = symbols("x_00 g_00")
    assert (first.argument, first.index) == ("w", (0, 0))
    assert (first.rule, first.derivative, first.difference) == (
        2 * g_00 * x_00,
        g_00 * x_00,
        -g_00 * x_00,
    )
    assert str(first).splitlines() == [
        "  dw[0, 0]: the rule is not the derivative",
        "    rule        2*g_00*x_00",
        "    derivative  g_00*x_00",
        "    difference  -g_00*x_00",
    ]


def test_a_wrong_forward_is_refuted_too() -> None:
    proof = prove("relu", forward=lambda x: reference.relu(2 * x))
    assert not proof.exact
    assert all(d.refuted for d in proof.differences)


def test_floats_are_held_to_their_value() -> None:
    cases = [Instance({"x": Sym(2)})]
    half = prove("f", forward=lambda x: x / 2, vjp=lambda x, g: (g * 0.5,), cases=cases)
    assert half.exact
    third = prove("f", forward=lambda x: x / 3, vjp=lambda x, g: (g * (1 / 3),), cases=cases)
    assert not third.exact  # 1/3 is no float
    assert not third.differences[0].refuted  # but near enough not to be called wrong
    assert "was not proved to be the derivative" in str(third)


def test_nothing_proved_is_not_exact() -> None:
    assert not prove("lin", cases=[]).exact
    with pytest.raises(ValueError, match="'nosuch' is no op of fnnet"):
        prove("nosuch")


def test_a_kink_is_no_place_for_a_proof() -> None:
    def forward(x: Any) -> Any:
        return elementary.maximum((x + 1) ** 2, x**2 + 2 * x + 1)

    with pytest.raises(ValueError, match="a kink"):
        prove("f", forward=forward, vjp=lambda x, g: (g,), cases=[Instance({"x": Sym(2)})])


def test_latex_is_the_derived_gradient() -> None:
    small = Instance({"x": Sym(2, 1), "w": Sym(1, 1), "b": Sym(1)})
    assert prove("lin", cases=[small]).latex.splitlines() == [
        r"\begin{aligned}",
        r"\frac{\partial L}{\partial x_{00}} &= g_{00} w_{00} \\",
        r"\frac{\partial L}{\partial x_{10}} &= g_{10} w_{00} \\",
        r"\frac{\partial L}{\partial w_{00}} &= g_{00} x_{00} + g_{10} x_{10} \\",
        r"\frac{\partial L}{\partial b_{0}} &= g_{00} + g_{10}",
        r"\end{aligned}",
    ]
    wrong = prove("lin", vjp=times(lin_vjp, 7), cases=[small])
    assert "7" not in wrong.latex  # the derivative is shown, not the wrong rule
    relu = proof_of("relu").claims[1].latex
    assert r"&\text{where } x_{0} > 0,\ x_{1} < 0" in relu


def test_vanishes_proves_identities_and_nothing_else() -> None:
    x, y, p, c = symbols("x y p c")
    length = sqrt(x**2 + y**2)
    total = (x**p + y**p) ** (1 / p)
    zero = [
        (x + y) ** 3 - x**3 - y**3 - 3 * x * y * (x + y),
        sqrt(8) - 2 * sqrt(2),
        sympy.diff(length, x) - x / length,
        1 / (1 + length) - (length - 1) / (x**2 + y**2 - 1),
        exp(x / 2) ** 2 * exp(-x) - 1,
        exp(exp(x) + y) - exp(y) * exp(exp(x)),
        exp(x / c) ** 3 / exp(3 * x / c) - 1,
        sympy.diff(c * tanh(x / c), x) - 1 + tanh(x / c) ** 2,
        sympy.diff(log(exp(x) + exp(y)), x) - 1 / (1 + exp(y - x)),
        sympy.diff(total, x) - x ** (p - 1) / total ** (p - 1),
        x ** Rational(3, 2) / sqrt(x) - x,
        tanh(1 / (x - y)) + tanh((y - x) / (x**2 - 2 * x * y + y**2)),
        sympy.diff(sympy.erfc(-x / sqrt(2)), x) - 2 * exp(-(x**2) / 2) / sqrt(2 * sympy.pi),
    ]
    assert [vanishes(e) for e in zero] == [True] * len(zero)
    # Each plus a small term, each times 1.001 minus itself; and near misses.
    different = [e + Rational(1, 10**9) * x for e in zero]
    different += [e.args[0] * Rational(1001, 1000) + e - e.args[0] for e in zero if e.is_Add]
    different += [
        sqrt(x**2) - x,
        exp(x + y) - exp(x) - exp(y),
        tanh(2 * x) - 2 * tanh(x),
        log(x * y) - log(x) * log(y),
        sqrt(x + y) - sqrt(x) - sqrt(y),
        sympy.pi - Rational(314159, 100000),
        sympy.Float(0.1) - sympy.Float(0.2),
    ]
    assert [vanishes(e) for e in different] == [False] * len(different)


def test_main_prints_a_table_and_says_whether_all_is_proved(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--op", "mse"]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == [
        *("op", "shapes", "regions", "cotangents", "tangents", "seconds", "verdict")
    ]
    assert row.split()[0] == "mse"
    assert row.split()[-1] == "exact"
    monkeypatch.setattr(reference, "mse_vjp", times(reference.mse_vjp, 3))
    assert main(["--op", "mse"]) == 1
    out = capsys.readouterr().out
    assert "NOT PROVED" in out
    assert "difference" in out
    with pytest.raises(SystemExit):
        main(["--op", "nosuch"])


def test_without_sympy_the_extra_is_named() -> None:
    code = "import sys; sys.modules['sympy'] = None; import fnnet.proof.symbolic"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=120
    )
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1] == (
        "ImportError: fnnet.proof.symbolic needs SymPy: pip install sympy"
    )
