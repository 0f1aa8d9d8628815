"""How far a right rule may be from the oracle: element by element, from rounding alone.

An error is put down to rounding when it is below the sum of

- `floor` times the scale of its own leaf (the largest number in the leaf's gradient);
- a multiple of how much the gradient moves when the arguments and the cotangent are moved by their
  own rounding. This measures the condition of the problem, cancellation in a long sum, and the
  oracle's own noise; for one element as for a million.

Nothing grows with the size of an array.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from fnnet.check.case.case import Case
from fnnet.check.case.modes import Mode
from fnnet.check.case.subject import Arrays

DRAWS = 3
MARGIN = 16.0


@dataclasses.dataclass
class Compared:
    """Two gradients of one argument, element by element.

    Attributes:
        got: the rule's.
        want: the oracle's.
        error: the distance; inf where only `got` is not finite.
        bound: the distance allowed.
        bad: where the distance is not allowed.
        unclear: where the oracle is not finite and the rule gives something else.
        scale: the largest number in `want`.
    """

    got: Any
    want: Any
    error: Any
    bound: Any
    bad: Any
    unclear: Any
    scale: float

    @property
    def worst(self) -> tuple[int, ...] | None:
        """The element with the largest error in terms of its bound."""
        if self.error.size == 0:
            return None
        ratio = np.where(self.error > 0, self.error / np.maximum(self.bound, 1e-300), 0.0)
        return tuple(int(i) for i in np.unravel_index(np.argmax(ratio), ratio.shape))


def scale_of(x: Any) -> float:
    """The largest finite size in an array."""
    sizes = np.abs(x[np.isfinite(x)])
    return float(sizes.max(initial=0.0))


def compared(got: Any, want: Any, bound: Any) -> Compared:
    """Compare two arrays; `bound` is one number or one for each element."""
    got, want = np.asarray(got), np.asarray(want)
    both_nan = np.isnan(got) & np.isnan(want)
    same = (got == want) | both_nan
    with np.errstate(all="ignore"):
        error = np.where(same, 0.0, np.abs(got - want))
    want_finite, got_finite = np.isfinite(want), np.isfinite(got)
    unclear = ~same & ~want_finite
    error = np.where(want_finite & ~got_finite, np.inf, np.where(unclear, 0.0, error))
    bound = np.broadcast_to(np.asarray(bound, float), want.shape)
    bad = ~same & want_finite & ~(error <= bound)
    return Compared(got, want, error, bound, bad, unclear, scale_of(want))


def perturbed(case: Case, draw: int, eps: float) -> tuple[Arrays, Arrays]:
    """The arguments and the cotangent, each number moved by up to two roundings."""
    rng = case.rng(2, draw)

    def moved(x: Any) -> Any:
        return x * (1 + eps * rng.uniform(0.5, 2.0, x.shape) * rng.choice([-1.0, 1.0], x.shape))

    return [moved(x) for x in case.values], [moved(x) for x in case.g]


def spreads(case: Case, mode: Mode, eps: float, *, base: Arrays, which: str) -> list[Any]:
    """For every argument, how far its gradient moves when its problem is moved by `eps`."""
    key = (mode.name, eps, which)
    if key not in case.sensitivity:
        evaluate = case.by_truth if which == "truth" else case.by_hand
        found = [np.zeros(b.shape) for b in base]
        for draw in range(DRAWS):
            moved = evaluate(*perturbed(case, draw, eps), mode)
            for i, (m, b) in enumerate(zip(moved, base, strict=True)):
                with np.errstate(all="ignore"):
                    found[i] = np.fmax(found[i], np.nan_to_num(np.abs(m - b), nan=0.0, posinf=0.0))
        case.sensitivity[key] = found
    return case.sensitivity[key]


def typical(x: Any) -> Any:
    """The 90th percentile: what most elements stay below, however few are extreme."""
    return np.quantile(np.nan_to_num(x), 0.9) if x.size else 0.0


def smooth(spread: Any) -> Any:
    """A spread of few draws, not below what is typical of its leaf."""
    return np.fmax(spread, typical(spread))


def without_jumps(spread: Any, want: Any, beside: Callable[[], Any]) -> Any:
    """A spread without the elements that jump at a kink: they are the arbiter's to judge.

    Few that jump are at kinks. Where most do, either all are at kinks (ties everywhere), and then
    the gradients `beside` the point are a few numbers over and over; or the oracle is unreliable,
    and the spread says so.
    """
    jumps = spread > 1e-3 * np.maximum(np.abs(np.where(np.isfinite(want), want, 0)), scale_of(want))
    if 2 * jumps.sum() > jumps.size:
        near = np.sort(np.real(beside()), 0)
        with np.errstate(all="ignore"):
            steps = np.diff(near, axis=0) > 3e-3 * np.max(np.abs(near), initial=0.0)
        jumps &= np.isfinite(near).all(0) & (2 * steps.sum(0) <= len(near) - 2)
    return np.where(jumps, 0.0, spread)


def natural_scale(case: Case, number: int) -> float:
    """The size that a derivative has where nothing cancels: outputs over inputs."""
    outs = max(
        (scale_of(np.asarray(x, complex)) for x in case.hand_at_args(case.work)[0]), default=0
    )
    x = scale_of(case.values[number])
    g = max((scale_of(x) for x in case.g), default=0.0)
    return float(g * outs / x) if x else float(g)
