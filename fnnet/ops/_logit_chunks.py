"""The chunks of `linear_cross_entropy`: its losses and cotangents with only a part of the logits.

Letters as in _linear_cross_entropy.py; samples are one axis here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnnet.ops._cross_entropy import Options, counting
from fnnet.rules import Precision, accumulator, contract, spread

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


class Settings(NamedTuple):
    """What the loss is computed with, beside its arrays."""

    loss: Options
    softcap: float | None
    chunk: int
    in_forward: bool  # chunks of samples, else of classes
    precision: Precision


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
        x, labels = x.reshape(-1, x.shape[-1]), labels.reshape(-1)
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

    def losses(self) -> tuple[jax.Array, jax.Array]:
        """e and l of every sample."""
        if self.settings.in_forward:
            e, l, _ = self._over_samples(None)
            return e, l
        return self._statistics()

    def losses_and_cotangents(
        self, a: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
        """e, dx, dw, db by chunks of samples; `a` is the cotangent of each e."""
        e, _, cotangents = self._over_samples(a)
        return (e, *cotangents)

    def cotangents(
        self, a: jax.Array, l: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """dx, dw, db by chunks of classes."""

        def add(sums: Carry, classes: jax.Array, w: jax.Array, b: jax.Array | None) -> Carry:
            dx, dw, db = sums
            z, slope = self._logits(self.x, w, b)
            da = self._da(z, slope, self.labels, classes, a, l)
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
        dx, dw, db = self._over_classes(add, spread(zeros, *self._operands, self.labels, a, l))
        return dx.astype(self.x.dtype), dw, db

    def _logits(
        self, x: jax.Array, w: jax.Array, b: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None]:
        """z, and the slope of the soft-cap where there is one."""
        z = self._product("pi,ik->pk", x, w)
        if b is not None:
            z = z + jnp.broadcast_to(b.astype(z.dtype), z.shape)
        if (cap := self.settings.softcap) is None:
            return z, None
        t = jnp.tanh(z / cap)
        return cap * t, 1 - t * t

    def _product(self, subscripts: str, *operands: jax.Array) -> jax.Array:
        return contract(subscripts, *operands, dtype=self.wide, precision=self.settings.precision)

    def _da(
        self,
        z: jax.Array,
        slope: jax.Array | None,
        labels: jax.Array,
        classes: jax.Array,
        a: jax.Array,
        l: jax.Array,
    ) -> jax.Array:
        """The cotangent of x w + b, rounded as a factor of products."""
        smoothing, z_loss, *_ = self.settings.loss
        pull = 1 + 2 * z_loss * l if z_loss else jnp.ones_like(l)
        rest = jnp.full((), smoothing / self.w.shape[1], z.dtype)
        target = jnp.where(_hot(labels, classes), 1 - smoothing + rest, rest)
        da = a[:, None] * (jnp.exp(z - l[:, None]) * pull[:, None] - target)
        return (da if slope is None else da * slope).astype(self.dtype)

    def _each(self, l: jax.Array, at_label: jax.Array, total: jax.Array) -> jax.Array:
        """e, from l, the label's logit and the sum of the logits."""
        smoothing, z_loss, *_ = self.settings.loss
        e = l - at_label if smoothing == 0 else l - (1 - smoothing) * at_label
        if smoothing:
            e = e - smoothing / self.w.shape[1] * total
        return e + z_loss * l * l if z_loss else e

    def _known(self, e: jax.Array, labels: jax.Array) -> jax.Array:
        """NaN for labels that are no class, 0 for those that are ignored."""
        known = (labels >= 0) & (labels < self.w.shape[1])
        e = jnp.where(known, e, jnp.full((), jnp.nan, e.dtype))
        counts = counting(labels, self.settings.loss)
        return e if counts is None else jnp.where(counts, e, jnp.zeros((), e.dtype))

    def _statistics(self) -> tuple[jax.Array, jax.Array]:
        """e and l by chunks of classes: the online log-sum-exp."""

        def add(state: Carry, classes: jax.Array, w: jax.Array, b: jax.Array | None) -> Carry:
            m, s, at_label, total = state
            z, _ = self._logits(self.x, w, b)
            m_new = jnp.maximum(m, jnp.max(z, -1))
            shift = jnp.where(m_new == -jnp.inf, jnp.zeros_like(m_new), m_new)
            s = s * jnp.exp(m - shift) + jnp.sum(jnp.exp(z - shift[:, None]), -1)
            return m_new, s, *self._added(at_label, total, z, self.labels, classes)

        zero = jnp.zeros(self.labels.shape, self.wide)
        state = (jnp.full_like(zero, -jnp.inf), zero, zero, zero)
        m, s, at_label, total = self._over_classes(add, spread(state, *self._operands, self.labels))
        l = m + jnp.log(s)
        return self._known(self._each(l, at_label, total), self.labels), l

    def _added(
        self,
        at_label: jax.Array,
        total: jax.Array,
        z: jax.Array,
        labels: jax.Array,
        classes: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        at_label = at_label + jnp.sum(jnp.where(_hot(labels, classes), z, jnp.zeros_like(z)), -1)
        return at_label, total + jnp.sum(z, -1) if self.settings.loss.smoothing else total

    def _over_classes(self, add: Callable[..., Carry], carry: Carry) -> Carry:
        """`add(carry, classes, w of them, b of them)` for one chunk of classes after the other."""
        c, size = self.w.shape[1], self.settings.chunk

        def step(carry: Carry, start: jax.Array, size: int) -> Carry:
            classes = start + jnp.arange(size, dtype=np.int32)
            w = lax.dynamic_slice_in_dim(self.w, start, size, 1)
            b = None if self.b is None else lax.dynamic_slice_in_dim(self.b, start, size, 0)
            return add(carry, classes, w, b)

        whole = c // size
        if whole:
            starts = size * jnp.arange(whole, dtype=np.int32)
            carry, _ = lax.scan(lambda k, start: (step(k, start, size), None), carry, starts)
        if c % size:
            carry = step(carry, jnp.asarray(whole * size, np.int32), c % size)
        return carry

    def _over_samples(
        self, a: jax.Array | None
    ) -> tuple[jax.Array, jax.Array, tuple[Any, Any, Any]]:
        """e and l by chunks of samples; dx, dw and db too if their cotangents `a` are given."""
        n, size = self.labels.shape[0], max(1, min(self.settings.chunk, self.labels.shape[0]))
        classes = jnp.arange(self.w.shape[1], dtype=np.int32)

        def step(sums: Carry, chunk: Carry) -> tuple[Carry, Carry]:
            x, labels, a = chunk
            z, slope = self._logits(x, self.w, self.b)
            m = jnp.max(z, -1, keepdims=True)
            l = (m + jnp.log(jnp.sum(jnp.exp(z - m), -1, keepdims=True)))[:, 0]
            zero = jnp.zeros_like(l)
            e = self._known(self._each(l, *self._added(zero, zero, z, labels, classes)), labels)
            if a is None:
                return sums, (e, l, None)
            dw, db = sums
            da = self._da(z, slope, labels, classes, a, l)
            dx = self._product("pk,ik->pi", da, self.w).astype(x.dtype)
            dw = dw + self._product("pi,pk->ik", x, da)
            return (dw, None if db is None else db + jnp.sum(da, 0, dtype=self.wide)), (e, l, dx)

        sums = None
        if a is not None:
            sums = tuple(
                None if p is None else jnp.zeros_like(p, dtype=self.wide) for p in (self.w, self.b)
            )
        rows = (self.x, self.labels, a)
        sums = spread(sums, *self._operands, self.labels, a)
        sums, out = lax.scan(step, sums, jax.tree.map(lambda v: _chunked(v, size), rows))
        e, l, dx = jax.tree.map(lambda v: v.reshape(-1, *v.shape[2:])[:n], out)
        dw, db = sums or (None, None)
        cotangents = (
            dx,
            None if dw is None else dw.astype(self.w.dtype),
            None if db is None or self.b is None else db.astype(self.b.dtype),
        )
        return e, l, cotangents


def _hot(labels: jax.Array, classes: jax.Array) -> jax.Array:
    """The one-hot of the labels, compared for: nothing is scattered."""
    return labels[:, None] == classes[None, :].astype(labels.dtype)


def _pasted(whole: jax.Array, part: jax.Array, classes: jax.Array) -> jax.Array:
    return lax.dynamic_update_slice_in_dim(whole, part, classes[0], whole.ndim - 1)


def _chunked(v: jax.Array, size: int) -> jax.Array:
    """Rows in chunks (k, size, ...), the last one filled up with zeros."""
    more = -v.shape[0] % size
    if more:
        v = jnp.pad(v, [(0, more)] + [(0, 0)] * (v.ndim - 1))
    return v.reshape(-1, size, *v.shape[1:])
