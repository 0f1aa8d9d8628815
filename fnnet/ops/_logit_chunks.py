"""The chunks of `linear_cross_entropy`: its losses and cotangents with only a part of the logits.

Letters as in _linear_cross_entropy.py; samples are one axis here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnnet.ops._options import Number, in_dtype
from fnnet.ops._sample_losses import (
    LossOptions,
    OfClass,
    absent,
    cotangent_of_class,
    counting,
    exponentials_of_others,
    of_class,
    shares_of_others,
)
from fnnet.rules import Precision, accumulator, by_platform, contract, spread

# a chunk of logits has about so many numbers: few enough for a processor's cache, enough for matmul
CHUNK = 2**22

Carry: TypeAlias = Any


def size_beside(other: Any) -> int:
    """The size of a chunk, of samples or classes, beside `other` classes or samples.

    Of a size that is unknown (in `jax.export`) 4096 is taken.

    Example:
        >>> size_beside(32768), size_beside(100), size_beside(10**9)
        (128, 16384, 32)
    """
    other = other if isinstance(other, int) else 4096
    power = round(math.log2(CHUNK / max(other, 1)))
    return 1 << min(max(5, power), 14)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the loss is computed with, beside its arrays; a pytree of its numbers."""

    loss: LossOptions
    softcap: Number | None
    chunk: int
    in_forward: bool  # chunks of samples, else of classes
    precision: Precision


jax.tree_util.register_dataclass(
    Settings,
    data_fields=["loss", "softcap"],
    meta_fields=["chunk", "in_forward", "precision"],
)


class Problem(NamedTuple):
    """The arguments, samples on one axis; those that are ignored are zeros."""

    x: jax.Array
    w: jax.Array
    labels: jax.Array
    b: jax.Array | None
    settings: Settings

    @staticmethod
    def of(
        x: jax.Array, w: jax.Array, labels: jax.Array, b: jax.Array | None, settings: Settings
    ) -> Problem:
        """From arrays of any leading axes."""
        n = math.prod(labels.shape)  # and not -1: an axis may be empty
        x, labels = x.reshape(n, x.shape[-1]), labels.reshape(n)
        counts = counting(labels, settings.loss)
        if counts is not None:  # whatever they hold: NaN too
            x = jnp.where(jnp.broadcast_to(counts[:, None], x.shape), x, jnp.zeros((), x.dtype))
        return Problem(x, w, labels, b, settings)

    @property
    def wide(self) -> np.dtype:
        """In which logits are held and sums are added up."""
        return accumulator(*self._operands)

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the loss."""
        return jnp.result_type(*self._operands)

    @property
    def _operands(self) -> tuple[jax.Array, ...]:
        return (self.x, self.w) if self.b is None else (self.x, self.w, self.b)

    def losses(self, *, again: bool = False) -> tuple[jax.Array, OfClass]:
        """e of every sample, and what `cotangents` wants of it; `again` as for `_over_classes`."""
        if self.settings.in_forward:
            e, of, _ = self._over_samples(None)
            return e, of
        return self._statistics(again=again)

    def losses_and_cotangents(
        self, a: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
        """e, dx, dw, db by chunks of samples; `a` is the cotangent of each e."""
        e, _, cotangents = self._over_samples(a)
        return (e, *cotangents)

    def cotangents(
        self, a: jax.Array, of: OfClass
    ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """dx, dw, db by chunks of classes."""

        def add(sums: Carry, classes: jax.Array, w: jax.Array, b: jax.Array | None) -> Carry:
            dx, dw, db = sums
            z, slope = self._logits(self.x, w, b)
            at_label = _hot(self.labels, classes)
            _, others = exponentials_of_others(z, of.m[:, None], at_label)
            da = self._da(others, at_label, slope, a, of)
            dx = dx + self._product("pk,ik->pi", da, w)
            dw = _pasted(dw, self._product("pi,pk->ik", self.x, da).astype(dw.dtype), classes)
            if db is not None:
                db = _pasted(db, jnp.sum(da, 0, dtype=self.wide).astype(db.dtype), classes)
            return dx, dw, db

        zeros = (
            jnp.zeros_like(self.x, dtype=self.wide),
            jnp.zeros_like(self.w),
            None if self.b is None else jnp.zeros_like(self.b),
        )
        dx, dw, db = self._over_classes(add, spread(zeros, *self._operands, self.labels, a, *of))
        return dx.astype(self.x.dtype), dw, db

    def tangents(
        self, of: OfClass, dx: jax.Array | None, dw: jax.Array | None, db: jax.Array | None
    ) -> jax.Array:
        """The tangent of every e by chunks of classes, from those of x, w and b."""

        def add(e_dot: Carry, classes: jax.Array, w: jax.Array, b: jax.Array | None) -> Carry:
            start, size = classes[0], classes.shape[0]
            z, slope = self._logits(self.x, w, b)
            at_label = _hot(self.labels, classes)
            _, others = exponentials_of_others(z, of.m[:, None], at_label)
            c, options = self.w.shape[1], self.settings.loss
            da = cotangent_of_class(others, at_label, jnp.ones_like(of.m), of, c, options)
            da = da if slope is None else da * slope
            a_dot = jnp.zeros_like(da)
            if dx is not None:
                a_dot += self._product("pi,ik->pk", dx, w)
            if dw is not None:
                more = _used(lax.dynamic_slice_in_dim(dw, start, size, 1), b)
                a_dot += self._product("pi,ik->pk", self.x, more)
            if db is not None and b is not None:
                more = lax.dynamic_slice_in_dim(db, start, size, 0).astype(da.dtype)
                more = jnp.where(b == -jnp.inf, jnp.zeros_like(more), more)
                a_dot += jnp.broadcast_to(more, da.shape)
            return e_dot + jnp.sum(da * a_dot, -1)

        given = [x for x in (dx, dw, db) if x is not None]
        zero = jnp.zeros(self.labels.shape, self.wide)
        zero = spread(zero, *self._operands, self.labels, *of, *given)
        return self._over_classes(add, zero, again=True)  # type: ignore[no-any-return]

    def _logits(
        self, x: jax.Array, w: jax.Array, b: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None]:
        """z, and the slope of the soft-cap where there is one; w as `_used` gives it."""
        z, slope = self._product("pi,ik->pk", x, w), None
        if b is not None:
            z = z + jnp.broadcast_to(b.astype(z.dtype), z.shape)
        if self.settings.softcap is not None:
            cap = in_dtype(self.settings.softcap, z.dtype)
            t = jnp.tanh(z / cap)
            z, slope = cap * t, 1 - t * t
            if b is not None:  # what is ruled out stays so
                out = jnp.where(b == -jnp.inf, b, jnp.zeros((), b.dtype)).astype(z.dtype)
                z = z + jnp.broadcast_to(out, z.shape)
        return z, slope

    def _product(self, subscripts: str, *operands: jax.Array) -> jax.Array:
        return contract(subscripts, *operands, dtype=self.wide, precision=self.settings.precision)

    def _da(
        self,
        others: jax.Array,
        at_label: jax.Array,
        slope: jax.Array | None,
        a: jax.Array,
        of: OfClass,
        *,
        divided: bool = False,
    ) -> jax.Array:
        """The cotangent of x w + b, rounded as a factor of products."""
        c, options = self.w.shape[1], self.settings.loss
        da = cotangent_of_class(others, at_label, a, of, c, options, divided=divided)
        return (da if slope is None else da * slope).astype(self.dtype)

    def _seen(
        self, z: jax.Array, m: jax.Array, labels: jax.Array, classes: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """R, z_y and Σ (m - z) of some classes."""
        smoothed = not absent(self.settings.loss.smoothing)

        def sums(z: jax.Array, m: jax.Array, labels: jax.Array) -> tuple[jax.Array, ...]:
            at_label = _hot(labels, classes)
            chosen = jnp.sum(jnp.where(at_label, z, jnp.zeros((), z.dtype)), -1)
            rest, _ = exponentials_of_others(z, m[:, None], at_label)
            gaps = -jnp.sum(z - m[:, None], -1) if smoothed else jnp.zeros_like(rest)
            return rest, chosen, gaps

        return _by_rows(sums, z, m, labels)  # type: ignore[return-value]

    def _each(
        self,
        m: jax.Array,
        rest: jax.Array,
        chosen: jax.Array,
        gaps: jax.Array,
        labels: jax.Array,
    ) -> tuple[jax.Array, OfClass]:
        options = self.settings.loss
        return of_class(m, rest, chosen, gaps, labels, self.w.shape[1], options)

    def _statistics(self, *, again: bool) -> tuple[jax.Array, OfClass]:
        """e and its parts by chunks of classes: the online log-sum-exp."""

        def add(state: Carry, classes: jax.Array, w: jax.Array, b: jax.Array | None) -> Carry:
            m, rest, chosen, gaps = state
            z, _ = self._logits(self.x, w, b)
            m_new = jnp.maximum(m, jnp.max(z, -1))
            top = _finite(m_new)
            more, at_label, below = self._seen(z, top, self.labels, classes)
            # the classes before are now seen from a higher maximum
            rise = top - jnp.where(m == -jnp.inf, top, m)
            gaps = gaps + classes[0].astype(m.dtype) * rise + below
            return m_new, rest * jnp.exp(m - top) + more, chosen + at_label, gaps

        zero = jnp.zeros(self.labels.shape, self.wide)
        state = (jnp.full_like(zero, -jnp.inf), zero, zero, zero)
        state = spread(state, *self._operands, self.labels)
        state = self._over_classes(add, state, again=again)
        m, rest, chosen, gaps = state
        return self._each(_finite(m), rest, chosen, gaps, self.labels)

    def _over_classes(
        self, add: Callable[..., Carry], carry: Carry, *, again: bool = False
    ) -> Carry:
        """`add(carry, classes, w of them, b of them)` for one chunk of classes after the other.

        Where this is differentiated, what a chunk needs for it is computed `again`, or kept.
        """
        c, size = self.w.shape[1], self.settings.chunk

        def step(carry: Carry, start: jax.Array, size: int) -> Carry:
            classes = start + jnp.arange(size, dtype=np.int32)
            w = lax.dynamic_slice_in_dim(self.w, start, size, 1)
            b = None if self.b is None else lax.dynamic_slice_in_dim(self.b, start, size, 0)
            return add(carry, classes, _used(w, b), b)

        if again:
            step = jax.checkpoint(step, static_argnums=2)
        whole = c // size
        if whole:
            starts = size * jnp.arange(whole, dtype=np.int32)
            carry, _ = lax.scan(lambda k, start: (step(k, start, size), None), carry, starts)
        if c % size:
            carry = step(carry, jnp.asarray(whole * size, np.int32), c % size)
        return carry

    def _over_samples(self, a: jax.Array | None) -> tuple[jax.Array, OfClass, tuple[Any, Any, Any]]:
        """e and its parts by chunks of samples; dx, dw, db too if the cotangents `a` are given."""
        n, size = self.labels.shape[0], max(1, min(self.settings.chunk, self.labels.shape[0]))
        classes = jnp.arange(self.w.shape[1], dtype=np.int32)
        used = _used(self.w, self.b)

        def step(sums: Carry, chunk: Carry) -> tuple[Carry, Carry]:
            x, labels, a = chunk
            z, slope = self._logits(x, used, self.b)
            m = _finite(jnp.max(z, -1, initial=-jnp.inf))
            rest, chosen, gaps = self._seen(z, m, labels, classes)
            e, of = self._each(m, rest, chosen, gaps, labels)
            if a is None:
                return sums, (e, of, None)
            dw, db = sums
            at_label = _hot(labels, classes)
            da = self._da(shares_of_others(z, of, at_label), at_label, slope, a, of, divided=True)
            dx = self._product("pk,ik->pi", da, used).astype(x.dtype)
            dw = dw + self._product("pi,pk->ik", x, da)
            return (dw, None if db is None else db + jnp.sum(da, 0, dtype=self.wide)), (e, of, dx)

        sums = None
        if a is not None:
            step = jax.checkpoint(step)  # for derivatives of these cotangents
            sums = tuple(
                None if p is None else jnp.zeros_like(p, dtype=self.wide) for p in (self.w, self.b)
            )
        rows = (self.x, self.labels, a)
        sums = spread(sums, *self._operands, self.labels, a)
        sums, out = lax.scan(step, sums, jax.tree.map(lambda v: _chunked(v, size), rows))
        e, of, dx = jax.tree.map(
            lambda v: v.reshape(v.shape[0] * v.shape[1], *v.shape[2:])[:n], out
        )
        dw, db = sums or (None, None)
        cotangents = (
            dx,
            None if dw is None else dw.astype(self.w.dtype),
            None if db is None or self.b is None else db.astype(self.b.dtype),
        )
        return e, of, cotangents


def _by_rows(f: Callable[..., tuple[jax.Array, ...]], *rows: jax.Array) -> tuple[jax.Array, ...]:
    """``f(*rows)``, on CPUs some of the rows at a time.

    XLA's reductions for CPUs take in no mask: the masked terms of all rows are written down, an
    array of the logits' size. So they are of a sixteenth of the rows.
    """
    n = rows[0].shape[0]
    parts = math.gcd(n, 16) if isinstance(n, int) else 1

    def in_parts(*rows: jax.Array) -> tuple[jax.Array, ...]:
        cut = tuple(v.reshape(parts, n // parts, *v.shape[1:]) for v in rows)
        found = lax.map(lambda part: f(*part), cut)
        return tuple(v.reshape(n, *v.shape[2:]) for v in found)

    if parts == 1:
        return f(*rows)
    return by_platform(*rows, cpu=in_parts, default=f)


def _hot(labels: jax.Array, classes: jax.Array) -> jax.Array:
    """The one-hot of the labels, compared for: nothing is scattered."""
    return labels[:, None] == classes[None, :].astype(labels.dtype)


def _finite(m: jax.Array) -> jax.Array:
    """0 for -inf, the maximum of no class, or of none that is not ruled out."""
    return jnp.where(m == -jnp.inf, jnp.zeros((), m.dtype), m)


def _used(w: jax.Array, b: jax.Array | None) -> jax.Array:
    """w, 0 for the classes that b rules out: whatever they hold, NaN too."""
    if b is None:
        return w
    return jnp.where(jnp.broadcast_to(b == -jnp.inf, w.shape), jnp.zeros((), w.dtype), w)


def _pasted(whole: jax.Array, part: jax.Array, classes: jax.Array) -> jax.Array:
    return lax.dynamic_update_slice_in_dim(whole, part, classes[0], whole.ndim - 1)


def _chunked(v: jax.Array, size: int) -> jax.Array:
    """Rows in chunks (k, size, ...), the last one filled up with zeros."""
    count = -(-v.shape[0] // size)
    more = count * size - v.shape[0]
    if more:
        v = jnp.pad(v, [(0, more)] + [(0, 0)] * (v.ndim - 1))
    return v.reshape(count, size, *v.shape[1:])
