"""The numerics in which a function is evaluated: the caller's dtypes, 64 bits, fewer than 32."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnnet.check.case import settings
from fnnet.check.case.host import InPlace
from fnnet.check.case.subject import Arrays


@dataclasses.dataclass(frozen=True)
class Mode:
    """A name, the settings, and the dtype that real arguments get (None: their own)."""

    name: str
    context: Callable[[], AbstractContextManager[None]]
    dtype: Any = None

    def cast(self, values: Arrays, like: Sequence[Any]) -> Arrays:
        """`values` in this mode's dtypes; `like` are the arrays as the caller gave them."""
        return [narrowed(v, self._dtype_of(x)) for v, x in zip(values, like, strict=True)]

    def _dtype_of(self, x: Any) -> Any:
        if self.dtype is None:
            return x.dtype
        if np.issubdtype(x.dtype, np.complexfloating):
            return np.complex128 if self.dtype == np.float64 else x.dtype
        return self.dtype


NATIVE = Mode("native", settings.native)
WIDE = Mode("float64", settings.wide, np.float64)
BFLOAT16 = Mode("bfloat16", settings.native, jnp.bfloat16)
FLOAT16 = Mode("float16", settings.native, np.float16)


class Program:
    """A function of arrays, compiled once for each mode; what it returns comes as NumPy arrays.

    What cannot be traced (Python control flow on values) runs as it is.

    Args:
        f: the function.
        calls_host: whether it calls back to the host, asked when it is first evaluated.
    """

    def __init__(
        self, f: Callable[..., Any], calls_host: Callable[[], bool] = lambda: False
    ) -> None:
        self._f = f
        self._compiled = jax.jit(f)
        self._in_place = InPlace(f)
        self._calls_host = calls_host
        self.traceable = True

    def __call__(self, mode: Mode, *args: Any) -> Any:
        """Evaluate in `mode`."""
        with mode.context():
            if self.traceable:
                try:
                    if mode.dtype is np.float64 and self._calls_host():
                        return to_numpy(self._in_place(mode.name, *args))
                    return to_numpy(self._compiled(*args))
                except _NOT_TRACEABLE:
                    self.traceable = False
            return to_numpy(self._f(*jax.tree.map(_on_device, args)))


_NOT_TRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)


def _on_device(x: Any) -> Any:
    return jnp.asarray(x) if isinstance(x, np.ndarray) else x


def to_numpy(tree: Any) -> Any:
    """Every array of a pytree as a NumPy array; keys as their data."""
    return jax.tree.map(_numpy, tree)


def _numpy(x: Any) -> Any:
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    return np.asarray(x)


def narrowed(x: Any, dtype: Any) -> Any:
    """A NumPy array in another dtype; what is too large for it becomes infinite, in silence."""
    with np.errstate(all="ignore"):
        return np.asarray(x).astype(dtype)


def widened(x: Any) -> Any:
    """A NumPy array in 64 (complex: 128) bits, where every smaller one fits exactly."""
    x = np.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        return x.astype(np.complex128)
    return x.astype(np.float64)


def in_16_bits(eps: float) -> bool:
    """Whether a dtype of spacing `eps` is float16 or narrower: sums in it go wrong soon."""
    return eps >= 2.0**-10


def _finfo(dtype: Any) -> Any:
    return jnp.finfo(dtype)  # type: ignore[no-untyped-call]


def smallest(dtype: Any) -> float:
    """The smallest number of a float dtype with all its digits."""
    return float(_finfo(dtype).tiny)


def largest(dtype: Any) -> float:
    """The largest finite number of a float dtype."""
    return float(_finfo(dtype).max)


def epsilon(dtype: Any) -> float:
    """The spacing of a float dtype's numbers at 1."""
    return float(_finfo(dtype).eps)
