"""Is the gradient's own derivative right, forward over reverse and reverse over reverse?"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fnnet.check.case.case import Case, first_line
from fnnet.check.case.finding import Detail, Finding
from fnnet.check.case.modes import Program, widened
from fnnet.check.case.subject import Arrays
from fnnet.check.case.thresholds import BLIND, MARGIN
from fnnet.check.diagnosis import mistakes
from fnnet.check.diagnosis.explain import FORWARD_MODE, by_nature, is_forward_mode
from fnnet.check.oracle.evidence import Evidence, finding
from fnnet.check.oracle.tolerance import compared, scale_of, smooth, typical
from fnnet.check.questions.bends import Bends
from fnnet.check.questions.gradient_differences import NAME_CODE, blind, convicted, right_in_g
from fnnet.check.questions.reverse import CANCELS, excused

NAME = "second order"
WAYS = ("forward over reverse", "reverse over reverse")


def ask(e: Evidence) -> list[Finding]:
    """Hessian-vector products of the rule against autodiff's, both ways."""
    case = e.case
    if not case.has_oracle:
        words = "without an oracle for the first derivative there is none for the second"
        return [Finding(NAME, "skipped", detail=Detail(words=words))]
    if e.wrong_first_order:
        words = "the gradient itself is wrong: mend it first"
        return [Finding(NAME, "skipped", detail=Detail(words=words))]
    v = [_direction(e, i) for i in range(len(case.values))]
    findings: list[Finding] = []
    for way, product in zip(WAYS, (_forward, _reverse), strict=True):
        name = f"{NAME}, {way}"
        try:
            program = Program(product(case.truth), lambda: case.calls_host)
            want, noise = _oracle(case, program, v)
        except Exception as error:
            words = (
                f"autodiff itself cannot do this here: {type(error).__name__}: {first_line(error)}"
            )
            findings.append(Finding(name, "skipped", detail=Detail(words=words)))
            continue
        try:
            got = _product(
                case, Program(product(case.hand), lambda: case.calls_host), case.values, case.g, v
            )
        except Exception as error:
            if not is_forward_mode(error) and not by_nature(error):
                findings.append(Finding(name, "wrong", diagnosis=NAME_CODE, detail=_mistake(error)))
                continue
            words = FORWARD_MODE if is_forward_mode(error) else _why(error)
            findings.append(Finding(name, "skipped", detail=Detail(words=words)))
            continue
        bends = Bends(e, functools.partial(_at, case, program, v), v)
        findings += _compare(e, name, got, want, noise, v, bends)
    return findings


def _why(error: Exception) -> str:
    return (
        "the rule can be differentiated once only: its backward pass raises "
        f"{type(error).__name__}: {first_line(error)}"
    )


def _mistake(error: Exception) -> Detail:
    said = f"{type(error).__name__}: {first_line(error)}"
    words = (
        f"the gradient is right, and raises when it is differentiated, where autodiff's does not: "
        f"{said}"
    )
    return Detail(words=words, error=said)


def _direction(e: Evidence, number: int) -> Any:
    """A direction in argument `number`, 0 where the first order is undecided already."""
    case = e.case
    x = case.values[number]
    rng = case.rng(7, number)
    r = rng.choice([-1.0, 1.0], x.shape) * rng.integers(32, 96, x.shape) / 64
    return np.where(e.unwitnessed(number), 0, np.asarray(r * (scale_of(x) or 1.0), x.dtype))


def _gradient(flat: Callable[..., Any], others: Arrays, g: Arrays) -> Callable[[Arrays], Arrays]:
    def gradient(values: Arrays) -> Arrays:
        (grads,) = jax.vjp(lambda v: flat(v, others)[0], values)[1](g)
        return grads  # type: ignore[no-any-return]

    return gradient


def _forward(flat: Callable[..., Any]) -> Callable[..., Any]:
    def run(values: Arrays, others: Arrays, g: Arrays, v: Arrays) -> Any:
        return jax.jvp(_gradient(flat, others, g), (values,), (v,))[1]

    return run


def _reverse(flat: Callable[..., Any]) -> Callable[..., Any]:
    def run(values: Arrays, others: Arrays, g: Arrays, v: Arrays) -> Any:
        def both(values: Arrays, g: Arrays) -> Arrays:
            return _gradient(flat, others, g)(values)

        # with the derivative in g, which is the function's own forward derivative
        in_values, in_g = jax.vjp(both, values, g)[1](v)
        return [*in_values, *in_g]

    return run


def _product(case: Case, program: Program, values: Arrays, g: Arrays, v: Arrays) -> Arrays:
    mode = case.work
    like = case.subject.values
    out = program(
        mode, mode.cast(values, like), case.subject.others, case.cast_g(g, mode), mode.cast(v, like)
    )
    return [widened(x) for x in out]


def _at(case: Case, program: Program, v: Arrays, values: Arrays) -> Arrays:
    return _product(case, program, values, case.g, v)


def _oracle(case: Case, program: Program, v: Arrays) -> tuple[Arrays, Arrays]:
    """The oracle's product, and how far rounding its problem moves it."""
    want = _product(case, program, case.values, case.g, v)
    noise = [np.zeros(w.shape) for w in want]
    rng = case.rng(8)
    for _ in range(2):
        moved = [
            x * (1 + 2 * case.work_eps * rng.choice([-1.0, 1.0], x.shape)) for x in case.values
        ]
        near = _product(case, program, moved, case.g, v)
        with np.errstate(all="ignore"):
            noise = [
                np.fmax(n, np.nan_to_num(np.abs(a - w), posinf=0.0))
                for n, a, w in zip(noise, near, want, strict=True)
            ]
    return want, noise


def _compare(
    e: Evidence, name: str, got: Arrays, want: Arrays, noise: Arrays, v: Arrays, bends: Bends
) -> list[Finding]:
    case = e.case
    n = len(case.values)
    findings = []
    # a derivative that is exactly 0 is compared at the scale of the gradient it is derived from
    first = [scale_of(x) for x in e.truth] + [scale_of(np.asarray(x)) for x in case.g]
    for i, (a, b, s) in enumerate(zip(got, want, noise, strict=True)):
        path = case.paths[i] if i < n else "the cotangent"
        scale = scale_of(b)
        bound = (case.floor + MARGIN * e.iterating) * max(scale, 1e-6 * first[i])
        bound = bound + MARGIN * smooth(bends.noise(i, s, b))
        if i < n:
            a = np.where(e.unwitnessed(i), b, a)
        elif e.undecided:
            a = np.where(np.isfinite(a), a, b)
        c = compared(a, b, bound)
        if typical(bound) > max(BLIND * scale, 1e-9 * first[i]):
            findings += blind(e, name, path, i, c, v)
            continue
        at_kinks = bends.between(i, c)
        if i >= n and at_kinks.any():
            at_kinks = right_in_g(e, i - n, a, at_kinks, v)
        if kinks := int(at_kinks.sum()):
            c.bad &= ~at_kinks
            c.error = np.where(at_kinks, 0.0, c.error)
            if not c.bad.any():
                words = (
                    f"{kinks} of {c.want.size} elements are at a kink of the gradient: the rule's "
                    "second derivative lies between those on its sides"
                )
                detail = Detail(words=words, kinks=kinks)
                findings.append(finding(name, path, c, c.worst, "correct", None, detail))
                continue
        cancels = e.cancelled * max([1.0, *map(scale_of, v)])
        if c.bad.any() and not (c.bad & ~excused(c, cancels)).any():
            detail = Detail(words=CANCELS)
            findings.append(finding(name, path, c, c.worst, "undecidable", None, detail))
            continue
        all_at_once = WAYS[0] in name
        # beside the point the gradient's derivative along v is known: its transpose is not, where
        # the function stops a gradient
        if c.bad.any() and not (
            (all_at_once and bends.convicted(i, c))
            or convicted(e, i, c, v, all_at_once=all_at_once)
        ):
            words = (
                "differences of the gradient do not speak against the rule: a kink of the "
                "gradient, a gradient stopped on purpose, or autodiff's own second derivative is "
                "unreliable"
            )
            findings.append(Finding(name, "skipped", path, detail=Detail(words=words)))
            continue
        if c.bad.any():
            _, fitted = mistakes.fit(a, b, float(np.max(c.bound)))
            fitted["words"] = (
                f"the gradient is right and its derivative is not: {fitted}. Does the rule compute "
                "something of its arguments outside of JAX, or stop a gradient?"
            )
            findings.append(finding(name, path, c, c.worst, "wrong", NAME_CODE, fitted))
    return findings or [Finding(name, "correct")]
