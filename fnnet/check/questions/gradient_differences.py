"""Differences of the rule's own gradient, which is right, against its derivative.

Where autodiff's second derivative says another number than the rule, or none that is more than its
rounding, they decide.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fnnet.check.case.finding import Detail, Finding
from fnnet.check.case.modes import NATIVE
from fnnet.check.case.subject import Arrays
from fnnet.check.case.thresholds import BLIND, NATIVE_STEPS, SURE, WIDE_STEPS
from fnnet.check.diagnosis import mistakes
from fnnet.check.oracle.evidence import Evidence, finding
from fnnet.check.oracle.numerical import pairing
from fnnet.check.oracle.tolerance import Compared, compared, scale_of, typical

NAME_CODE = "second_order"
FEW = 32  # elements of a cotangent that are asked one by one


def blind(e: Evidence, name: str, path: str, i: int, c: Compared, v: Arrays) -> list[Finding]:
    """Where autodiff's own noise is as large as its answer: differences of the gradient decide."""
    words = (
        "autodiff's second derivative is no more than its rounding here, and differences of the "
        "gradient do not settle"
    )
    n = len(e.case.values)
    few = i >= n and c.want.size <= FEW and np.isrealobj(c.want)
    if few and right_in_g(e, i - n, c.got, np.ones(c.want.shape, bool), v).all():
        return []
    if i < n:
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


def right_in_g(e: Evidence, output: int, got: Any, where: Any, v: Arrays) -> Any:
    """Which elements of `got` are the gradient's derivative in `output`'s cotangent, paired with v.

    The gradient is right, and linear in g: its derivative in one element of g is its value there.
    No more than `FEW` of the elements `where` are asked; the others are taken for right.
    """
    case = e.case
    right = np.array(where)
    size = scale_of(case.outputs[output])
    for index in [tuple(map(int, k)) for k in np.argwhere(where)[:FEW]]:
        g = [np.zeros_like(x) for x in case.g]
        g[output][index] = 1.0
        found = case.by_hand(case.values, g)
        truth = pairing(found, v)
        terms = sum(float(np.sum(np.abs(a * b))) for a, b in zip(found, v, strict=True))
        near = max(case.floor, 1e-7) * max(terms, size)
        right[index] = abs(np.real(got[index]) - truth) <= near
    return right


def convicted(e: Evidence, i: int, c: Compared, v: Arrays, *, all_at_once: bool) -> bool:
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
    steps = NATIVE_STEPS if case.work is NATIVE else WIDE_STEPS
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
        settled = bad & np.isfinite(error) & (error < SURE * gap)
        # along one element real parts are compared
        same = np.real if at is not ... else np.asarray
        other = ~(np.abs(differences - same(got)) < 0.25 * gap)
        unanswerable = bad & ~np.isfinite(got)
    return bool(np.any((settled & other) | unanswerable))
