"""Where the rule has a forward mode: is it right, linear in the tangent, and the reverse's adjoint?

A rule that is written in forward mode (a jvp, or hijax's lin and linearized) is asked as the
reverse is: against autodiff, element by element; where that is no witness, against differences.
Then ``<Jv, g> = <v, J'g>`` is asked of the rule's two modes, which takes no oracle.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fnnet.check.case.case import Case, first_line
from fnnet.check.case.finding import Detail, Finding
from fnnet.check.case.kinds import HIJAX
from fnnet.check.case.modes import NATIVE, Program, widened
from fnnet.check.case.subject import Arrays
from fnnet.check.case.thresholds import MARGIN, ROUGH, ROUGH_NATIVE
from fnnet.check.diagnosis.explain import explain, lacks_forward
from fnnet.check.diagnosis.fit import fit
from fnnet.check.oracle.evidence import Evidence, finding
from fnnet.check.oracle.numerical import pairing
from fnnet.check.oracle.tolerance import Compared, compared, scale_of, smooth
from fnnet.check.questions.pushed import (
    evaluated,
    linearized,
    of_reverse_alone,
    pushed,
    rows_of,
    tangent,
)

NAME = "forward"
LINEARITY = "linearity in the tangent"
BY_LINEARIZE = "forward, by linearize"
AGAINST_REVERSE = "forward against reverse"

ALL_OUTPUTS = 32  # elements of the outputs that differences are asked of one by one
TRIES = 6  # elements that differ from autodiff, put before differences


def ask(e: Evidence) -> list[Finding]:
    """Findings for every forward mode that the rule has; none where it has none."""
    case = e.case
    if not case.rules or not case.size:
        return []
    v, w = (tangent(e, k) for k in range(2))
    rows = [v, w, [a + b for a, b in zip(v, w, strict=True)], [1e3 * a for a in v]]
    try:
        found = evaluated(case, pushed(case.hand), rows)
    except Exception as error:
        if lacks_forward(error) or of_reverse_alone(case, rows):
            return []
        code, detail = explain(error)
        return [Finding(NAME, "wrong", diagnosis=code, detail=detail)]
    findings = _linear(case, found)
    findings += _right(e, NAME, found[0], rows)
    if any(r.kind == HIJAX for r in case.rules):
        findings += _by_linearize(e, rows)
    if case.reverse and not any(f.verdict == "wrong" for f in findings):
        findings += _adjoint(e, found[0], v)
    return findings


def _linear(case: Case, found: Any) -> list[Finding]:
    at_v, at_w, at_sum, at_more = found
    near = 1e-9 if case.work_eps < 1e-10 else 64 * case.work_eps
    for words, got, want in (
        ("in a sum of two tangents", at_sum, [a + b for a, b in zip(at_v, at_w, strict=True)]),
        ("for 1000 times the tangent", at_more, [1e3 * a for a in at_v]),
    ):
        for k, (a, b) in enumerate(zip(got, want, strict=True)):
            size = max(scale_of(b), scale_of(at_v[k]), scale_of(at_w[k]))
            c = compared(a, np.where(np.isfinite(b), b, a), near * size)
            if c.bad.any():
                detail = Detail(words=f"the forward derivative is not linear {words}", where=words)
                path = _output(case, k)
                code = "nonlinear_in_tangent"
                return [finding(LINEARITY, path, c, c.worst, "wrong", code, detail)]
    return [Finding(LINEARITY, "correct")]


def _output(case: Case, k: int) -> str:
    return f"output {k}" if len(case.g) > 1 else "the output"


def _right(e: Evidence, name: str, got: Arrays, rows: list[Arrays]) -> list[Finding]:
    if e.case.blind:
        words = "the rule is declared another function's"
        return [Finding(name, "skipped", detail=Detail(words=words))]
    if e.case.has_oracle and e.case.witness:
        return _against_autodiff(e, f"{name} against autodiff", got, rows)
    return _against_differences(e, f"{name} against differences", got, rows[0])


def _against_autodiff(e: Evidence, name: str, got: Arrays, rows: list[Arrays]) -> list[Finding]:
    case = e.case
    try:
        want, noise = _oracle(e, rows)
    except Exception as error:
        words = f"autodiff has no forward mode here: {type(error).__name__}: {first_line(error)}"
        return [Finding(name, "skipped", detail=Detail(words=words))]
    findings = []
    for k, (a, b, s) in enumerate(zip(got, want, noise, strict=True)):
        # a derivative that is 0 but for rounding is compared at the size of what cancels in it
        size = max(scale_of(b), 1e-6 * scale_of(widened(case.outputs[k])))
        if e.undecided:
            a = np.where(np.isfinite(a), a, b)
        loose = case.floor + MARGIN * e.iterating
        c = compared(a, b, loose * size + MARGIN * smooth(s))
        index, unsettled = _convicted(e, k, c, rows[0])
        path = _output(case, k)
        if index is not None:
            code, detail = fit(a, b, float(np.max(c.bound, initial=0.0)))
            detail["words"] = f"the forward derivative of {path}: {detail}"
            findings.append(finding(name, path, c, index, "wrong", code, detail))
        elif unsettled:
            words = f"{unsettled} elements differ from autodiff, and differences do not settle it"
            detail = Detail(words=words)
            findings.append(finding(name, path, c, c.worst, "undecidable", None, detail))
        else:
            settled = int(c.bad.sum())
            words = f"{settled} elements: differences side with the rule" if settled else ""
            c.error = np.where(c.bad | c.unclear, 0.0, c.error)
            detail = Detail(words=words) if words else Detail()
            findings.append(finding(name, path, c, c.worst, "correct", None, detail))
    return findings


def _oracle(e: Evidence, rows: list[Arrays]) -> tuple[Arrays, Arrays]:
    """Autodiff's forward derivative, and how far rounding its problem moves it; kept for both."""
    case = e.case
    if "forward" not in e.kept:
        program = Program(pushed(case.truth), lambda: case.calls_host)
        want = rows_of(case, program, rows)[0]
        noise = [np.zeros(b.shape) for b in want]
        rng = case.rng(13)
        for _ in range(2):
            moved = [
                x * (1 + 2 * case.work_eps * rng.choice([-1.0, 1.0], x.shape)) for x in case.values
            ]
            near = rows_of(case, program, rows, moved)[0]
            with np.errstate(all="ignore"):
                noise = [
                    np.fmax(n, np.nan_to_num(np.abs(a - b), posinf=0.0))
                    for n, a, b in zip(noise, near, want, strict=True)
                ]
        e.kept["forward"] = want, noise
    return e.kept["forward"]  # type: ignore[no-any-return]


def _convicted(e: Evidence, k: int, c: Compared, v: Arrays) -> tuple[tuple[int, ...] | None, int]:
    """The worst element against which differences speak; how many they leave open."""
    case = e.case
    ratio = np.where(c.bad, c.error / np.maximum(c.bound, 1e-300), -1.0)
    unsettled = max(0, int(c.bad.sum()) - TRIES)
    for flat in np.argsort(-ratio, axis=None)[: min(TRIES, int(c.bad.sum()))]:
        index = tuple(int(i) for i in np.unravel_index(flat, ratio.shape))
        got, want = np.real(c.got[index]), np.real(c.want[index])
        if not np.isfinite(got) and case.reverse and not _finite(e.hand):
            unsettled += 1  # the reverse has no number here either: a singular point
            continue
        if not np.isfinite(got) or np.iscomplexobj(c.want):
            return index, 0
        d = _element(e, k, index, v)
        gap = abs(got - want)
        if d.kink:
            low, high = sorted((d.left, d.right))
            if not low - gap / 4 <= got <= high + gap / 4:
                return index, 0
        elif d.error < 0.1 * gap:
            if abs(d.value - got) >= 0.25 * gap:
                return index, 0
        elif gap > 0.1 * c.scale:
            return index, 0
        else:
            unsettled += 1
    return None, unsettled


def _finite(xs: Arrays) -> bool:
    return all(np.isfinite(x).all() for x in xs)


def _element(e: Evidence, k: int, index: tuple[int, ...], v: Arrays) -> Any:
    """The derivative of one element of an output along `v`, by differences."""
    g = [np.zeros_like(x) for x in e.case.g]
    g[k][index] = 1.0
    return e.arbiter.differences.along(v, g)


def _against_differences(e: Evidence, name: str, got: Arrays, v: Arrays) -> list[Finding]:
    """Every element of a small output; of a large one some combinations of all."""
    case = e.case
    if not case.traceable_value():
        words = "the function's value cannot be traced; make it traceable by jax.jit"
        return [Finding(name, "skipped", detail=Detail(words=words))]
    findings = []
    for k, x in enumerate(got):
        asked: list[tuple[Any, float, Any]] = []
        if x.size <= ALL_OUTPUTS:
            for index in np.ndindex(x.shape):
                asked.append((index, float(np.real(x[index])), _element(e, k, index, v)))
        else:
            for draw in range(3):
                g = [np.zeros_like(y) for y in case.g]
                g[k] = case.cotangent(20 + draw)[k]
                said = pairing([x], [g[k]])
                asked.append((None, said, e.arbiter.differences.along(v, g)))
        # the size of what is differenced, and not the rule's, which may be wrong by any factor
        known = [abs(d.value) for index, _, d in asked if index is not None and d.reliable]
        size = max(known, default=scale_of(widened(case.outputs[k])))
        findings.append(_settled(case, name, _output(case, k), asked, size))
    return findings


def _settled(case: Case, name: str, path: str, asked: Any, scale: float) -> Finding:
    worst: Any = None
    unsettled = 0
    for index, got, d in asked:
        bound = 10 * d.error + (1e-6 if case.work is not NATIVE else 1e-2) * (abs(d.value) + scale)
        if not np.isfinite(d.value) or d.kink or bound > 0.25 * max(scale, abs(d.value)):
            unsettled += 1
            continue
        error = abs(got - d.value) if np.isfinite(got) else np.inf
        rough = ROUGH_NATIVE if case.work is NATIVE else ROUGH
        if error > bound and d.error > rough * max(scale, abs(d.value)):
            unsettled += 1
            continue
        if worst is None or error / bound > worst[0]:
            worst = error / bound, index, got, d.value, error, bound
    if worst is None or (worst[0] <= 1 and unsettled):
        words = f"differences do not settle in {unsettled} of {len(asked)} places"
        return Finding(name, "undecidable", path, detail=Detail(words=words))
    ratio, index, got, want, error, bound = worst
    fields = {"index": index, "got": got, "want": want, "error": error, "bound": bound}
    if ratio <= 1:
        return Finding(name, "correct", path, **fields)
    pairs = np.array([(a, d.value) for _, a, d in asked if np.isfinite(d.value)])
    code, detail = fit(pairs[:, 0], pairs[:, 1], bound)
    detail["words"] = f"the forward derivative of {path}: {detail}"
    return Finding(name, "wrong", path, diagnosis=code, detail=detail, **fields)


def _by_linearize(e: Evidence, rows: list[Arrays]) -> list[Finding]:
    """Hijax's own rules for `jax.linearize`, which `jax.jvp` does not use."""
    case = e.case
    try:
        found = evaluated(case, linearized(case.hand), rows)
    except Exception as error:
        if lacks_forward(error):
            return []
        code, detail = explain(error)
        return [Finding(BY_LINEARIZE, "wrong", diagnosis=code, detail=detail)]
    return _right(e, BY_LINEARIZE, found[0], rows)


def _adjoint(e: Evidence, outs: Arrays, v: Arrays) -> list[Finding]:
    case = e.case
    if not _finite([*outs, *e.hand]):
        words = "a derivative is not finite here"
        return [Finding(AGAINST_REVERSE, "skipped", detail=Detail(words=words))]
    forward, reverse = pairing(outs, case.g), pairing(e.hand, v)
    size = sum(float(np.sum(np.abs(a * b))) for a, b in zip(outs, case.g, strict=True))
    size += sum(float(np.sum(np.abs(a * b))) for a, b in zip(e.hand, v, strict=True))
    bound = (1e-9 if case.work_eps < 1e-10 else 64 * case.work_eps) * size
    bound += sum(float(np.sum(np.abs(b) * np.abs(a))) for a, b in zip(v, e.bounds, strict=True))
    fields = {"got": forward, "want": reverse, "error": abs(forward - reverse), "bound": bound}
    if fields["error"] <= bound or e.kinks:
        return [Finding(AGAINST_REVERSE, "correct", **fields)]  # type: ignore[arg-type]
    words = (
        "<Jv, g> by the forward rule is not <v, J'g> by the reverse: one of the two is wrong. "
        "Compare each with autodiff"
    )
    found = Finding(AGAINST_REVERSE, "wrong", diagnosis="not_adjoint", **fields)  # type: ignore[arg-type]
    found.detail["words"] = words
    return [found]
