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
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from fnnet.check.case.case import Case
from fnnet.check.case.large import signed
from fnnet.check.case.modes import NATIVE, Mode
from fnnet.check.case.subject import Arrays
from fnnet.check.case.thresholds import DRAWS, JUMP, MET_AGAIN, ONE_SIDE

# an array of more numbers is looked at in chunks, each small enough to stay in a cache
PART, CHUNK = 1 << 18, 1 << 15
# and percentiles are those of about so many of its numbers
SAMPLE = 1 << 16


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
        worst, at, start = -1.0, 0, 0
        for error, bound in zip(parts(self.error), parts(self.bound), strict=True):
            ratio = np.where(error > 0, error / np.maximum(bound, 1e-300), 0.0).reshape(-1)
            k = int(np.argmax(ratio))
            if not ratio[k] <= worst:
                worst, at = float(ratio[k]), start + k
            start += ratio.size
        return tuple(int(i) for i in np.unravel_index(at, self.error.shape))


def scale_of(x: Any) -> float:
    """The largest finite size in an array."""
    return max((_scale_of(part) for part in parts(x)), default=0.0)


def _scale_of(x: Any) -> float:
    sizes = np.abs(x)
    return float(np.max(sizes, initial=0.0, where=np.isfinite(sizes)))


def parts(x: Any) -> Iterator[Any]:
    """An array in parts of a size that costs no memory to speak of."""
    if x.size <= PART:
        yield x
        return
    if not any(x.strides):  # one number, spread
        one = x[(0,) * x.ndim]
        for start in range(0, x.size, CHUNK):
            yield np.broadcast_to(one, (min(CHUNK, x.size - start),))
        return
    flat = x.reshape(-1)
    for start in range(0, flat.size, CHUNK):
        yield flat[start : start + CHUNK]


def few_digits(x: Any) -> Any:
    """A bound in 32 bits, not below what it was; what is too small for them is the smallest."""
    return np.nextafter(np.maximum(x, 1e-37).astype(np.float32), np.float32(np.inf))


def compared(got: Any, want: Any, bound: Any) -> Compared:
    """Compare two arrays; `bound` is one number or one for each element."""
    got, want = np.asarray(got), np.asarray(want)
    bound = np.broadcast_to(np.asarray(bound), want.shape)
    error, bad, unclear = by_parts(_far, got, want, bound)
    return Compared(got, want, error, bound, bad, unclear, scale_of(want))


def _far(got: Any, want: Any, bound: Any) -> tuple[Any, Any, Any]:
    """The error, where it is not allowed, and where it is unclear whether it is one."""
    both_nan = np.isnan(got) & np.isnan(want)
    same = (got == want) | both_nan
    want_finite = np.isfinite(want)
    unclear = ~same & ~want_finite
    with np.errstate(all="ignore"):
        error = np.asarray(np.abs(got - want))
    error[same | unclear] = 0.0
    error[want_finite & ~np.isfinite(got)] = np.inf
    return error, ~same & want_finite & ~(error <= bound), unclear


def by_parts(f: Callable[..., Any], *arrays: Any) -> tuple[Any, ...]:
    """The arrays that `f` gives for some of one shape, element by element.

    Of large arrays part by part, so that no memory goes into what is on the way, and floats are
    kept in 32 bits.
    """
    shape = arrays[0].shape
    if arrays[0].size <= PART:
        return tuple(f(*arrays))
    results: list[Any] = []
    start = 0
    for some in zip(*map(parts, arrays), strict=True):
        found = f(*some)
        if not results:
            dtypes = [np.float32 if x.dtype == np.float64 else x.dtype for x in found]
            results = [np.empty(shape, t) for t in dtypes]
        for full, x in zip(results, found, strict=True):
            full.reshape(-1)[start : start + x.size] = x
        start += some[0].size
    return tuple(results)


def perturbed(case: Case, draw: int, eps: float) -> tuple[Arrays, Arrays]:
    """The arguments and the cotangent, each number moved by up to two roundings."""
    rng = case.rng(2, draw)

    def moved(x: Any) -> Any:
        if case.large:
            way = signed(rng, rng.integers(43, 171, x.shape, np.uint8).astype(np.float64))
            way *= eps / 85
            way += 1
            return np.multiply(way, x, out=way) if np.isrealobj(x) else way * x
        return x * (1 + eps * rng.uniform(0.5, 2.0, x.shape) * rng.choice([-1.0, 1.0], x.shape))

    values = [moved(x) for x in case.values]
    # linear in g: its rounding moves a gradient by no more than the floor, in 64 bits
    return values, case.g if case.large and case.work is not NATIVE else [moved(x) for x in case.g]


def spreads(case: Case, mode: Mode, eps: float, *, base: Arrays, which: str) -> list[Any]:
    """For every argument, how far its gradient moves when its problem is moved by `eps`."""
    key = (mode.name, eps, which)
    if key not in case.sensitivity:
        evaluate = case.by_truth if which == "truth" else case.by_hand
        found = [np.zeros(b.shape, np.float32 if case.large else np.float64) for b in base]
        for draw in range(DRAWS):
            moved = evaluate(*perturbed(case, draw, eps), mode)
            for f, m, b in zip(found, moved, base, strict=True):
                for some in zip(*map(parts, (f, m, b)), strict=True):
                    _keep_the_most(*some)
            del moved, m
        if case.large and which == "hand":
            return found
        case.sensitivity[key] = found
    return case.sensitivity[key]


def _keep_the_most(spread: Any, moved: Any, base: Any) -> None:
    """Write into `spread` how far `moved` is from `base`, where that is more."""
    with np.errstate(all="ignore"):
        far = np.asarray(np.abs(moved - base))
    np.fmax(spread, np.where(np.isfinite(far), far, 0.0).astype(spread.dtype), out=spread)


def thinned(x: Any) -> Any:
    """An array, or of a large one some elements, evenly spread."""
    return x if x.size <= PART else x.reshape(-1)[:: x.size // SAMPLE]


def typical(x: Any) -> Any:
    """The 90th percentile: what most elements stay below, however few are extreme."""
    x = thinned(x)
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
    jumps = jumping(spread, want)
    if 2 * jumps.sum() > jumps.size:
        jumps &= in_few_numbers(beside())
    spread[jumps] = 0.0
    return spread


def in_few_numbers(beside: Any) -> Any:
    """Where an element has, beside the sample point, a few numbers over and over: at a kink."""
    near = np.sort(np.real(beside), 0)
    with np.errstate(all="ignore"):
        steps = np.diff(near, axis=0) / np.max(np.abs(near), initial=1e-300)
    few = 2 * (steps > ONE_SIDE).sum(0) <= len(near) - 2
    again = (steps > MET_AGAIN).sum(0) <= len(near) - 3
    return np.isfinite(near).all(0) & (few | again)


def jumping(spread: Any, want: Any) -> Any:
    """Where rounding moves an element by more than it explains: across a kink, most likely."""
    return by_parts(functools.partial(_jumps, scale_of(want)), spread, want)[0]


def _jumps(scale: float, spread: Any, want: Any) -> tuple[Any]:
    sizes = np.abs(np.where(np.isfinite(want), want, 0))
    return (spread > JUMP * np.maximum(sizes, scale),)


def natural_scale(case: Case, number: int) -> float:
    """The size that a derivative has where nothing cancels: outputs over inputs."""
    outs = max(
        (scale_of(np.asarray(x, complex)) for x in case.hand_at_args(case.work)[0]), default=0
    )
    x = scale_of(case.values[number])
    g = max((scale_of(x) for x in case.g), default=0.0)
    return float(g * outs / x) if x else float(g)
