"""Mistakes that are right for another cotangent: of another output, conjugated, cut short."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from fnnet.check.case.finding import Detail
from fnnet.check.case.subject import Arrays
from fnnet.check.diagnosis.fit import Pair

Fitted = tuple[str, Detail]

MOST_ROWS = 64  # of an axis whose blocks are tried


def of_another(e: Any, number: int, pair: Pair) -> Fitted | None:
    """Whether the rule takes one output's cotangent for another's."""
    g = e.case.g
    for j, k in itertools.permutations(range(len(g)), 2):
        if g[j].shape != g[k].shape:
            continue
        changed = list(g)
        changed[j] = g[k]
        words = f"it takes the cotangent of output {k} for that of output {j}"
        if _gives(e, number, pair, changed):
            return "swapped", Detail(words=words, outputs=[j, k])
        changed[k] = g[j]
        if j < k and _gives(e, number, pair, changed):
            words = f"it takes the cotangents of outputs {j} and {k} for each other"
            return "swapped", Detail(words=words, outputs=[j, k])
    return None


def conjugated(e: Any, number: int, pair: Pair) -> Fitted | None:
    """Whether a factor is conjugated and the cotangent is not, or the other way round."""
    case = e.case
    if not any(np.iscomplexobj(x) for x in case.g) or not np.iscomplexobj(pair.want):
        return None
    found = case.by_truth(case.values, [np.conj(x) for x in case.g])[number]
    if pair.equals(np.conj(found)):
        words = "the factor of the cotangent is conjugated, and the cotangent is not"
        return "conjugated", Detail(words=words)
    if pair.equals(found):
        return "conjugated", Detail(words="the cotangent is conjugated, and its factor is not")
    return None


def cut_short(e: Any, number: int, pair: Pair) -> Fitted | None:
    """Whether the last, or the first, rows of the cotangent make no contribution."""
    g = e.case.g
    for j, x in enumerate(g):
        for axis, n in enumerate(x.shape):
            if not 1 < n <= MOST_ROWS:
                continue
            for m in range(1, n):
                for last in (True, False):
                    lost = slice(n - m, None) if last else slice(0, m)
                    changed = [y.copy() for y in g]
                    changed[j][(slice(None),) * axis + (lost,)] = 0
                    if _gives(e, number, pair, changed):
                        return "missing_term", _lost(j, len(g), axis, m, n, last)
    return None


def _lost(output: int, outputs: int, axis: int, m: int, n: int, last: bool) -> Detail:
    of = f"output {output}" if outputs > 1 else "the output"
    words = (
        f"the {'last' if last else 'first'} {m} of {n} along axis {axis} of {of} make no "
        "contribution: is a block left out?"
    )
    return Detail(words=words, axis=axis, lost=m, size=n)


def _gives(e: Any, number: int, pair: Pair, g: Arrays) -> bool:
    case = e.case
    return pair.equals(case.by_truth(case.values, g)[number])
