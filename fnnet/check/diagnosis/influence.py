"""Mistakes that show in what depends on what: one number of the cotangent, or of an argument."""

from __future__ import annotations

from typing import Any

import numpy as np

from fnnet.check.case.finding import Detail
from fnnet.check.diagnosis.fit import size_of

PROBES = 4


class Influence:
    """Where a single number of the cotangent goes, by the rule and by the oracle.

    Args:
        e: the evidence.
        number: of the argument whose gradient is wrong.
    """

    def __init__(self, e: Any, number: int) -> None:
        self._e, self._number = e, number
        case = e.case
        self._probes: list[tuple[int, tuple[int, ...], Any, Any]] = []
        k = max(range(len(case.g)), key=lambda j: case.g[j].size)
        shape = case.g[k].shape
        for place in _places(shape):
            g = [np.zeros_like(x) for x in case.g]
            g[k][place] = 1.0
            got = case.by_hand(case.values, g)[number]
            want = case.by_truth(case.values, g)[number]
            if np.isfinite(got).all() and np.isfinite(want).all():
                self._probes.append((k, place, got, want))

    def dropped(self) -> tuple[str, Detail] | None:
        """Whether the rule has each contribution either right or not at all."""
        lost = kept = 0
        for _, _, got, want in self._probes:
            near = 1e-6 * max(size_of(want), 1e-300)
            there = np.abs(want) > near
            right = np.abs(got - want) <= near
            if np.any(~right & (np.abs(got) > near)):
                return None
            lost += int((there & ~right).sum())
            kept += int((there & right).sum())
        if not lost or not kept:
            return None
        words = (
            "it has some of the contributions that an element of the output makes, and lacks others"
        )
        return "missing_term", Detail(words=words, kept=kept, lost=lost)

    def axes(self) -> tuple[str, Detail] | None:
        """Whether a number of the cotangent, or of the argument, spreads along other axes."""
        wants = [(place, want) for _, place, _, want in self._probes]
        gots = [(place, got) for _, place, got, _ in self._probes]
        found = _axis_words(_signature(wants), _signature(gots), "the cotangent")
        if found and self._probes:
            return "wrong_axis", found
        found = self._by_value()
        return ("wrong_axis", found) if found else None

    def _by_value(self) -> Detail | None:
        """The same, of the gradient's dependence on its own argument."""
        e, i = self._e, self._number
        case = e.case
        wants, gots = [], []
        for place in _places(case.values[i].shape):
            moved = [x.copy() for x in case.values]
            moved[i][place] += 0.05 * (size_of(moved[i]) or 1.0)
            wants.append((place, case.by_truth(moved, case.g)[i] - e.truth[i]))
            gots.append((place, case.by_hand(moved, case.g)[i] - e.hand[i]))
        return _axis_words(_signature(wants), _signature(gots), "the argument")


def _places(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Elements that share as few coordinates as can be, all different within themselves."""
    found = []
    for k in range(PROBES):
        place = tuple((3 * k + 2 * axis + 1) % n if n else 0 for axis, n in enumerate(shape))
        if all(shape) and place not in found:
            found.append(place)
    return found


Signature = tuple[Any, ...] | None


def _signature(probes: list[tuple[tuple[int, ...], Any]]) -> Signature:
    """For each axis of the gradient: the cotangent's axes that it follows, or that it spreads."""
    follows: list[set[int]] | None = None
    spreads: set[int] = set()
    for place, gradient in probes:
        near = 1e-6 * size_of(gradient)
        support = np.argwhere(np.abs(gradient) > near)
        if not len(support):
            continue
        now = []
        for axis in range(gradient.ndim):
            indices = set(support[:, axis].tolist())
            if len(indices) > 1:
                spreads.add(axis)
            now.append({m for m, p in enumerate(place) if indices == {p}})
        follows = now if follows is None else [a & b for a, b in zip(follows, now, strict=True)]
    if follows is None:
        return None
    return tuple(
        "spreads" if axis in spreads else tuple(sorted(f)) for axis, f in enumerate(follows)
    )


def _axis_words(want: Signature, got: Signature, of: str) -> Detail | None:
    """Words for two signatures, if one is the other on wrong axes."""
    if want is None or got is None or want == got:
        return None
    # following nothing consistently says little; fewer axes than wanted is a term that is missing
    if all(g == w or (w == "spreads" and g != "spreads") for w, g in zip(want, got, strict=True)):
        return None
    if all(g == w or w == () for w, g in zip(want, got, strict=True)):
        return None
    words = (
        f"an element of {of} should reach it so, axis by axis: {_said(want)}; "
        f"by the rule: {_said(got)}"
    )
    return Detail(words=words, axes=[list(want), list(got)])


def _said(signature: tuple[Any, ...]) -> str:
    said = []
    for axis, what in enumerate(signature):
        if what == "spreads":
            said.append(f"all of axis {axis}")
        elif what:
            said.append(f"axis {axis} like axis {', '.join(map(str, what))}")
        else:
            said.append(f"one place of axis {axis}")
    return "; ".join(said) or "a number"
