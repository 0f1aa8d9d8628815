"""Derivatives from differences, with an estimate of their error: the independent arbiter."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnnet.check.case.case import Case
from fnnet.check.case.large import signed, widely
from fnnet.check.case.modes import NATIVE, WIDE, Program
from fnnet.check.case.subject import Arrays
from fnnet.check.case.thresholds import AGREE, ESTIMATE, FINE, RATIO, STEPS, WOBBLE
from fnnet.check.oracle.tolerance import scale_of


@dataclasses.dataclass(frozen=True)
class Derivative:
    """The derivative of <g, f> along a direction.

    Attributes:
        value: by central differences, extrapolated.
        error: an estimate of its error.
        left: the derivative from the left, `right` from the right, with `side_error`.
        kink: whether left and right differ by more than their errors.
        grain: of a value that is constant in fine pieces, how far it jumps between them, relative
            to its size; else 0.
        inside: of one that is smooth in fine pieces, and jumps between them, the slope inside of a
            piece; `value` is that over many. None of all others.
    """

    value: float
    error: float
    left: float
    right: float
    side_error: float
    kink: bool
    grain: float = 0.0
    inside: float | None = None

    @property
    def reliable(self) -> bool:
        """Whether the differences agree among each other to three digits."""
        return bool(np.isfinite(self.value)) and self.error <= 1e-3 * abs(self.value) + 1e-300


class Differences:
    """Differences of the truth's value (no derivative rule is involved)."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._program = Program(self._changes, lambda: case.calls_host)
        # of a large case: arrays are widened inside, so that wide ones need not be held
        self._widened = Program(
            lambda values, others, v, g, ts, reached: self._changes(
                widely(values), others, widely(v), widely(g), ts, reached
            ),
            lambda: case.calls_host,
        )

    def _changes(
        self, values: Arrays, others: Arrays, v: Arrays, g: Arrays, ts: Any, reached: Any
    ) -> Any:
        """For each step, how far <g, f> moves, the size of what moves, and what has moved so far.

        An output that has moved at a larger step, and does not at this one, is one that rounds.
        """
        base, _ = self._case.primal(values, others)

        def at(reached: Any, t: Any) -> Any:
            moved = [
                x + (t.astype(x.dtype) * d).astype(x.dtype) for x, d in zip(values, v, strict=True)
            ]
            outs, _ = self._case.primal(moved, others)
            change, size = jnp.zeros(()), jnp.zeros(())
            now = []
            for out, before, ct, was in zip(outs, base, g, reached, strict=True):
                now.append(was | (out != before))
                change += jnp.sum(jnp.real(ct * (out - before))).astype(change.dtype)
                sizes = jnp.abs(ct) * (jnp.abs(out) + jnp.abs(before))
                size += jnp.sum(jnp.where(now[-1], sizes, 0.0 * sizes)).astype(size.dtype)
            return now, (change, size)

        if reached is None:
            reached = [jnp.zeros(x.shape, bool) for x in base]
        if len(ts) > 1:
            return jax.lax.scan(at, reached, ts)
        reached, found = at(reached, ts[0])
        return reached, [x[None] for x in found]

    def along(
        self,
        v: Arrays,
        g: Arrays | None = None,
        base: float = 1.0,
        at: Arrays | None = None,
    ) -> Derivative:
        """The derivative of the sum of g·f along `v`.

        Args:
            v: a direction for every argument.
            g: the cotangent; the case's own by default.
            base: the largest step is a tenth of it.
            at: where; at the caller's arguments by default.
        """
        case, mode = self._case, self._case.work
        ts = np.stack([STEPS, -STEPS], 1).ravel() * base  # the largest first
        values = case.values if at is None else at
        g = case.g if g is None else g
        program = self._widened if case.large and mode is WIDE else self._program
        if program is self._program:
            values, v = (mode.cast(x, case.subject.values) for x in (values, v))
            g = case.cast_g(g, mode)
        # of what is made of it below, 16 times the error that values so exact may cause is left
        eps = case.value_eps + case.inexact / 64
        ts = ts.astype(np.float64 if mode.dtype is not None else np.float32)
        # a loop compiled around a callback may run it in another thread
        parts = ts.reshape(-1, 1) if mode is WIDE and case.calls_host else [ts]
        found = []
        reached = None
        for part in parts:
            reached, moved = program(
                mode,
                values,
                case.subject.others,
                v,
                g,
                part,
                reached,
            )
            found.append(moved)
        change, size = (np.concatenate(x).astype(float) for x in zip(*found, strict=True))
        h: Any = STEPS * base
        up, down = change[0::2], change[1::2]
        sizes = size[0::2] + size[1::2]
        noise = 2 * eps * sizes / h
        spacing = case.native_eps if mode is NATIVE else np.finfo(float).eps
        if fine := _in_pieces(up, down, h, sizes, base * spacing):
            return fine
        with np.errstate(all="ignore"):
            central = (up - down) / (2 * h)
            value, error = _extrapolated(central, noise, order=2)
            right, right_error = _extrapolated(up / h, noise, order=1)
            left, left_error = _extrapolated(-down / h, noise, order=1)
        # what a loop in JAX rounds in few digits is no bracket that moves
        alone = case.calls_host and not case.witness
        if alone and (over := _over_pieces(central, value, h, sizes)):
            return over
        if case.may_iterate:
            error += _wobble(central, value)
        side_error = right_error + left_error
        gap = abs(right - left)
        most = max(abs(right), abs(left))
        least = 1e-4 if mode is NATIVE else 1e-7
        kink = bool(gap > ESTIMATE * side_error + least * most) and np.isfinite(gap)
        return Derivative(value, error, left, right, side_error, bool(kink))

    def element(
        self,
        number: int,
        index: tuple[int, ...],
        imaginary: bool = False,
        *,
        at: Arrays | None = None,
        base: float = 0.0,
    ) -> Derivative:
        """The derivative with respect to one element of one argument; `at`, `base` as `along`'s."""
        v = [np.zeros_like(x) for x in self._case.values]
        v[number][index] = 1j if imaginary else 1.0
        x = self._case.values[number]
        return self.along(v, base=base or abs(x[index]) or scale_of(x) or 1.0, at=at)

    def projection(self, number: int, draw: int = 0) -> tuple[Arrays, Derivative]:
        """A random direction in one argument, and the derivative along it."""
        case = self._case
        v = [np.zeros_like(x) for x in case.values]
        x = case.values[number]
        rng = case.rng(3, number, draw)
        if case.large:
            r = signed(rng, rng.integers(128, 385, x.shape, np.uint16).astype(np.float32) / 256)
        else:
            r = rng.choice([-1.0, 1.0], x.shape) * rng.uniform(0.5, 1.5, x.shape)
        if np.iscomplexobj(x):
            r = r + 1j * rng.choice([-1.0, 1.0], x.shape)
        v[number] = np.asarray(r * np.maximum(np.abs(x), 1e-3 * (scale_of(x) or 1.0)))
        return v, self.along(v)


def _in_pieces(up: Any, down: Any, h: Any, sizes: Any, spacing: float) -> Derivative | None:
    """The slope of a value that is constant in fine pieces, by steps much larger than they are.

    A solver of finite tolerance and a value rounded to few digits are so; small steps see no
    change at all, which is no derivative of 0. A piece's height is what the slope makes of its
    width.
    """
    if np.isnan(up).any() or np.isnan(down).any():
        return None
    still = (up == 0) & (down == 0)
    n = len(h) if not still.any() else int(np.argmax(still))
    # steps that the argument itself does not see say nothing
    if n == len(h) or not still[n:].all() or n < 3 or h[n] < 64 * spacing:
        return None
    slopes = (up[:n] - down[:n]) / (2 * h[:n])
    # a piece's end may be as near as it likes: each change is one jump at least
    changes = np.abs(np.concatenate([up[:n], down[:n]]))
    height = float(max(changes[changes > 0].min(), np.abs(slopes[0]) * h[n - 1]))
    # curvature shrinks with the step, and what the pieces' ends add grows
    errors = np.abs(np.diff(slopes)) + height / h[: n - 1]
    k = int(np.argmin(errors))
    value, error = float(slopes[k]), float(errors[k])
    grain = height / max(float(sizes[0]) / 4, 1e-300)
    sides = up[k] / h[k], -down[k] / h[k]
    if error > AGREE * abs(value) or grain > FINE:
        return None
    gap = abs(sides[0] - sides[1])
    return Derivative(value, error, sides[1], sides[0], gap + error, False, grain)


def _over_pieces(central: Any, value: float, h: Any, sizes: Any) -> Derivative | None:
    """The slope of a value that jumps between fine pieces, and has another slope inside of them.

    A bisection whose first bracket depends on its argument is so: between two arguments it takes
    the same steps, and stretches with the bracket. Only steps much larger than a piece see what it
    solves.
    """
    far = central[:4]
    if not np.isfinite([*far, value]).all():
        return None
    errors = np.abs(np.diff(far))
    k = int(np.argmin(errors))
    slope, error = float(far[k + 1]), float(errors[k])
    gap = abs(slope - value)
    if error > AGREE * abs(slope) or gap <= ESTIMATE * error + WOBBLE * abs(slope):
        return None
    seen = np.abs(central - slope) < 0.5 * gap
    pieces = h[int(np.argmin(seen)) - 1 if not seen.all() else -1]
    grain = float(gap * pieces / max(float(sizes[0]) / 4, 1e-300))
    if grain > FINE:
        return None
    return Derivative(slope, error, slope, slope, error, False, grain, value)


def _wobble(central: Any, value: float) -> float:
    """How far large steps see another slope than the best, as far as that may be inexactness."""
    with np.errstate(all="ignore"):
        away = np.nanmin(np.abs(_refined(central, 2)[:4] - value))
    return float(away) if away <= WOBBLE * abs(value) else 0.0


def _refined(d: Any, order: int) -> Any:
    """Richardson's extrapolations of differences at steps that shrink by `RATIO`."""
    factor = RATIO**order
    return (factor * d[1:] - d[:-1]) / (factor - 1)


def _extrapolated(d: Any, noise: Any, order: int) -> tuple[float, float]:
    """The best of the extrapolations, and an estimate of its error."""
    r = _refined(d, order)
    # three in a row must agree, and rounding is never less than its estimate
    before, here, after = r[:-2], r[1:-1], r[2:]
    error = np.maximum(np.abs(here - before), np.abs(here - after)) + 2 * noise[2:-1]
    error = np.where(np.isfinite(error), error, np.inf)
    if not np.isfinite(error).any():
        return float("nan"), float("inf")
    best = int(np.argmin(error))
    return float(r[1 + best]), float(error[best])


def pairing(gradient: Arrays, v: Arrays) -> float:
    """What a gradient says of the derivative along `v` (JAX's convention for complex numbers)."""
    return float(sum(np.sum((a * b).real) for a, b in zip(gradient, v, strict=True)))
