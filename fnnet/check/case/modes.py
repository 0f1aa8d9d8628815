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
from fnnet.check.case.compiled import compiled
from fnnet.check.case.interpret import Interpreted, pays
from fnnet.check.case.subject import Arrays
from fnnet.rules import plain


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
    """A function of arrays, traced once for each mode; what it returns comes as NumPy arrays.

    A small program in 64 bits is run by NumPy (`interpret`); any other is compiled, a small one
    with few of XLA's optimisations, which cost more than they save. What cannot be traced (Python
    control flow on values) runs as it is.

    Args:
        f: the function.
        calls_host: whether it calls back to the host, asked when it is first evaluated.
    """

    def __init__(
        self, f: Callable[..., Any], calls_host: Callable[[], bool] = lambda: False
    ) -> None:
        self.f = f
        self._calls_host = calls_host
        self._ready: dict[Any, Callable[..., Any]] = {}
        self._light: set[Any] = set()
        self._traces: dict[Any, Any] = {}
        self.traceable = True

    def __call__(self, mode: Mode, *args: Any) -> Any:
        """Evaluate in `mode`."""
        with mode.context():
            if self.traceable:
                try:
                    return to_numpy(self._run(mode, args))
                except _NOT_TRACEABLE:
                    self.traceable = False
            return to_numpy(self.f(*jax.tree.map(_on_device, args)))

    def traced(self, mode: Mode, *args: Any) -> Any:
        """The function traced in `mode`: a `jax.stages.Traced`, with the jaxpr."""
        key = _key(mode, args)
        if key not in self._traces:
            with mode.context():
                self._traces[key] = jax.jit(self.f).trace(*args)
        return self._traces[key]

    def _run(self, mode: Mode, args: Any) -> Any:
        key = _key(mode, args)
        if key not in self._ready:
            self._ready[key] = self._made(mode, args)
        try:
            return self._ready[key](*args)
        except Exception:
            if key not in self._light:
                raise
        # a loop is too long for NumPy, or NumPy raises: what the program does, XLA says
        self._light.remove(key)
        self._ready[key] = compiled(self.traced(mode, *args))
        return self._ready[key](*args)

    def _made(self, mode: Mode, args: Any) -> Callable[..., Any]:
        if mode.dtype is np.float64 and self._calls_host():
            # derivatives are taken already: the rules that are left only hide callbacks
            jaxpr, shape = jax.make_jaxpr(plain(self.f), return_shape=True)(*args)
            return _flat(Interpreted(jaxpr, limited=False), shape)
        traced = self.traced(mode, *args)
        if mode.dtype is np.float64 and pays(traced.jaxpr):
            self._light.add(_key(mode, args))
            return _flat(Interpreted(traced.jaxpr), traced.out_info)
        run: Callable[..., Any] = compiled(traced)
        return run


def _key(mode: Mode, args: Any) -> Any:
    leaves, tree = jax.tree.flatten(args)
    return mode.name, tree, *(_kind(x) for x in leaves)


def _kind(x: Any) -> Any:
    where = x.sharding if isinstance(x, jax.Array) else None
    return np.shape(x), getattr(x, "dtype", type(x)), where


def _flat(run: Interpreted, like: Any) -> Callable[..., Any]:
    tree = jax.tree.structure(like)
    return lambda *args: jax.tree.unflatten(tree, run(jax.tree.leaves(args)))


_NOT_TRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)


def _on_device(x: Any) -> Any:
    return jax.device_put(x) if isinstance(x, np.ndarray) else x


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
        return np.asarray(x).astype(dtype, copy=False)


def widened(x: Any) -> Any:
    """A NumPy array in 64 (complex: 128) bits, where every smaller one fits exactly.

    What has them already is not copied: nothing of a case is written to.
    """
    x = np.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        return x.astype(np.complex128, copy=False)
    return x.astype(np.float64, copy=False)


def as_it_is(x: Any) -> Any:
    """An array as NumPy's, in 32 bits if it has them: whatever is computed of it widens it."""
    x = np.asarray(x)
    return x if x.dtype in (np.float32, np.complex64) else widened(x)


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
