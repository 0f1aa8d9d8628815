"""Is the gradient's own derivative right, forward over reverse and reverse over reverse?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fnnet.check.case.case import Case, first_line
from fnnet.check.case.finding import Detail, Finding
from fnnet.check.case.modes import NATIVE, Program, widened
from fnnet.check.case.subject import Arrays
from fnnet.check.case.thresholds import BLIND, MARGIN
from fnnet.check.diagnosis import mistakes
from fnnet.check.diagnosis.explain import FORWARD_MODE, by_nature, is_forward_mode
from fnnet.check.oracle.evidence import Evidence, finding
from fnnet.check.oracle.numerical import pairing
from fnnet.check.oracle.tolerance import Compared, compared, scale_of, smooth, typical

NAME = "second order"
NAME_CODE = "second_order"
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
            want, noise = _oracle(case, product, v)
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
        findings += _compare(e, name, got, want, noise, v)
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


def _oracle(case: Case, product: Any, v: Arrays) -> tuple[Arrays, Arrays]:
    """The oracle's product, and how far rounding its problem moves it."""
    program = Program(product(case.truth), lambda: case.calls_host)
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
    e: Evidence, name: str, got: Arrays, want: Arrays, noise: Arrays, v: Arrays
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
        bound = bound + MARGIN * smooth(s)
        if i < n:
            a = np.where(e.unwitnessed(i), b, a)
        elif e.undecided:
            a = np.where(np.isfinite(a), a, b)
        c = compared(a, b, bound)
        if typical(bound) > max(BLIND * scale, 1e-9 * first[i]):
            findings += _blind(e, name, path, i, c, v)
            continue
        if c.bad.any() and not _convicted(e, i, c, v, all_at_once=WAYS[0] in name):
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


def _blind(e: Evidence, name: str, path: str, i: int, c: Compared, v: Arrays) -> list[Finding]:
    """Where autodiff's own noise is as large as its answer: differences of the gradient decide."""
    words = (
        "autodiff's second derivative is no more than its rounding here, and differences of the "
        "gradient do not settle"
    )
    if i < len(e.case.values):
        # the matrix of second derivatives is symmetric: either product is that along v
        want, error = _along(e, v)
        bound = error[i] + BLIND / 10 * scale_of(want[i])
        seen = compared(e.known(i, c.got, want[i]), want[i], bound)
        if np.isfinite(bound).all() and typical(bound) <= BLIND * max(seen.scale, scale_of(c.got)):
            if not seen.bad.any():
                return []
            _, fitted = mistakes.fit(seen.got, seen.want, float(np.max(bound)))
            fitted["words"] = (
                f"differences of the gradient, which is right, say otherwise: {fitted}"
            )
            return [finding(name, path, seen, seen.worst, "wrong", NAME_CODE, fitted)]
    return [Finding(name, "undecidable", path, detail=Detail(words=words))]


def _convicted(e: Evidence, i: int, c: Compared, v: Arrays, *, all_at_once: bool) -> bool:
    """Whether differences of the rule's own gradient, which is right, speak against its derivative.

    Args:
        e: the evidence.
        i: which of the arguments, or after them of the cotangents, the product belongs to.
        c: the product by the rule and by autodiff.
        v: the direction.
        all_at_once: whether the product is the gradient's derivative along v (forward over
            reverse), so that differences give all of it; else one element at a time.
    """
    case = e.case
    n = len(case.values)
    if all_at_once:
        differences, error = _along(e, v)
        return _against(c, differences[i], error[i])
    ratio = np.where(c.bad, c.error / np.maximum(c.bound, 1e-300), -1.0)
    for flat in np.argsort(-ratio, axis=None)[: min(6, int(c.bad.sum()))]:
        index = tuple(int(k) for k in np.unravel_index(flat, ratio.shape))
        if i >= n:
            # the gradient is linear in g: its derivative in one element of g is its value there
            g = [np.zeros_like(x) for x in case.g]
            g[i - n][index] = 1.0
            truth, doubt = pairing(case.by_hand(case.values, g), v), 0.0
        else:
            u = [np.zeros_like(x) for x in case.values]
            u[i][index] = abs(case.values[i][index]) or scale_of(case.values[i]) or 1.0
            differences, errors = _along(e, u)
            unit = float(np.real(u[i][index]))
            truth = pairing(differences, v) / unit
            doubt = pairing(errors, [np.abs(x) for x in v]) / unit
        if _against(c, truth, doubt, index):
            return True
    return False


def _along(e: Evidence, u: Arrays) -> tuple[Arrays, Arrays]:
    """Differences of the rule's gradient along `u`, and how far they are from settled."""
    case = e.case
    steps = (1e-2, 2e-3, 4e-4) if case.work is NATIVE else (1e-4, 1e-5, 1e-6)
    votes = []
    bends: Arrays = []
    for h in steps:
        up, down = (
            case.by_hand([x + s * h * d for x, d in zip(case.values, u, strict=True)], case.g)
            for s in (1, -1)
        )
        with np.errstate(all="ignore"):
            votes.append([(a - b) / (2 * h) for a, b in zip(up, down, strict=True)])
            # left and right differ at a kink of the gradient
            bends = [np.abs(a + b - 2 * m) / h for a, b, m in zip(up, down, e.hand, strict=True)]
    with np.errstate(all="ignore"):
        errors = [
            np.abs(b - c) + np.abs(a - b) + bend
            for a, b, c, bend in zip(*votes, bends, strict=True)
        ]
    return votes[1], errors


def _against(c: Compared, differences: Any, error: Any, at: Any = ...) -> bool:
    """Whether differences have settled on something else than the rule's number."""
    got, want, bad = c.got[at], c.want[at], c.bad[at]
    with np.errstate(all="ignore"):
        gap = np.abs(got - want)
        settled = bad & np.isfinite(error) & (error < 0.1 * gap)
        # along one element real parts are compared
        same = np.real if at is not ... else np.asarray
        other = ~(np.abs(differences - same(got)) < 0.25 * gap)
        unanswerable = bad & ~np.isfinite(got)
    return bool(np.any((settled & other) | unanswerable))
