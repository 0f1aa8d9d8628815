"""Derivatives from differences, with an estimate of their error: the independent arbiter."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnnet.check.case.case import Case
from fnnet.check.case.modes import NATIVE, WIDE, Program
from fnnet.check.case.subject import Arrays
from fnnet.check.oracle.tolerance import scale_of

# steps relative to the size of the argument. No ratio of two of them is a whole number: a fast
# periodic function would look smooth at all of them
RATIO = 3.7
STEPS = 0.1 * RATIO ** -np.arange(13.0)


@dataclasses.dataclass(frozen=True)
class Derivative:
    """The derivative of <g, f> along a direction.

    Attributes:
        value: by central differences, extrapolated.
        error: an estimate of its error.
        left: the derivative from the left, `right` from the right, with `side_error`.
        kink: whether left and right differ by more than their errors.
    """

    value: float
    error: float
    left: float
    right: float
    side_error: float
    kink: bool

    @property
    def reliable(self) -> bool:
        """Whether the differences agree among each other to three digits."""
        return bool(np.isfinite(self.value)) and self.error <= 1e-3 * abs(self.value) + 1e-300


class Differences:
    """Differences of the truth's value (no derivative rule is involved)."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._program = Program(self._changes, lambda: case.calls_host)

    def _changes(self, values: Arrays, others: Arrays, v: Arrays, g: Arrays, ts: Any) -> Any:
        base, _ = self._case.primal(values, others)

        def at(t: Any) -> Any:
            moved = [
                x + (t.astype(x.dtype) * d).astype(x.dtype) for x, d in zip(values, v, strict=True)
            ]
            outs, _ = self._case.primal(moved, others)
            change, noise = jnp.zeros(()), jnp.zeros(())
            for out, before, ct in zip(outs, base, g, strict=True):
                change += jnp.sum(jnp.real(ct * (out - before))).astype(change.dtype)
                size = jnp.abs(ct) * (jnp.abs(out) + jnp.abs(before))
                noise += jnp.sum(jnp.where(out == before, 0.0 * size, size)).astype(noise.dtype)
            return change, noise

        return jax.lax.map(at, ts) if len(ts) > 1 else [x[None] for x in at(ts[0])]

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
        ts = np.concatenate([STEPS, -STEPS]) * base
        values = mode.cast(case.values if at is None else at, case.subject.values)
        eps = case.work_eps
        ts = ts.astype(np.float64 if mode.dtype is not None else np.float32)
        # a loop compiled around a callback may run it in another thread
        parts = ts.reshape(-1, 1) if mode is WIDE and case.calls_host else [ts]
        found = [
            self._program(
                mode,
                values,
                case.subject.others,
                mode.cast(v, case.subject.values),
                case.cast_g(case.g if g is None else g, mode),
                part,
            )
            for part in parts
        ]
        change, noise = (np.concatenate(x) for x in zip(*found, strict=True))
        n = len(STEPS)
        h = STEPS * base
        up, down = change[:n].astype(float), change[n:].astype(float)
        noise = 2 * eps * (noise[:n].astype(float) + noise[n:].astype(float)) / h
        with np.errstate(all="ignore"):
            value, error = _extrapolated((up - down) / (2 * h), noise, order=2)
            right, right_error = _extrapolated(up / h, noise, order=1)
            left, left_error = _extrapolated(-down / h, noise, order=1)
        side_error = right_error + left_error
        gap = abs(right - left)
        size = max(abs(right), abs(left))
        least = 1e-4 if mode is NATIVE else 1e-7
        kink = bool(gap > 10 * side_error + least * size) and np.isfinite(gap)
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
        r = rng.choice([-1.0, 1.0], x.shape) * rng.uniform(0.5, 1.5, x.shape)
        if np.iscomplexobj(x):
            r = r + 1j * rng.choice([-1.0, 1.0], x.shape)
        v[number] = np.asarray(r * np.maximum(np.abs(x), 1e-3 * (scale_of(x) or 1.0)))
        return v, self.along(v)


def _extrapolated(d: Any, noise: Any, order: int) -> tuple[float, float]:
    """The best of Richardson's extrapolations of differences at steps that shrink by `RATIO`."""
    factor = RATIO**order
    r = (factor * d[1:] - d[:-1]) / (factor - 1)
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
