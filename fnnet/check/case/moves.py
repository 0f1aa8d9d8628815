"""JAX's primitives that move numbers about, in NumPy: nothing is rounded here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Call = Callable[..., Any]
Maker = Callable[[Any], Call | None]


def _convert(eqn: Any) -> Call | None:
    to, before = np.dtype(eqn.params["new_dtype"]), eqn.invars[0].aval.dtype
    if before.kind in "fc" and to.kind in "iu":
        return None  # NumPy wraps, or worse, what XLA cuts off
    real = before.kind == "c" and to.kind != "c"
    return lambda x: (x.real if real else x).astype(to)


def _broadcast(eqn: Any) -> Call | None:
    shape, where = eqn.params["shape"], eqn.params["broadcast_dimensions"]
    if len(eqn.invars) > 1:
        return None

    def run(x: Any) -> Any:
        if len(where) == len(shape):
            return np.broadcast_to(x, shape)
        wide = [1] * len(shape)
        for axis, size in zip(where, x.shape, strict=True):
            wide[axis] = size
        return np.broadcast_to(x.reshape(wide), shape)

    return run


def _reshape(eqn: Any) -> Call | None:
    p = eqn.params
    if p.get("dimensions") is not None or len(eqn.invars) > 1:
        return None
    return lambda x: x.reshape(p["new_sizes"])


def _squeeze(eqn: Any) -> Call:
    return lambda x: np.squeeze(x, tuple(eqn.params["dimensions"]))


def _transpose(eqn: Any) -> Call:
    return lambda x: x.transpose(eqn.params["permutation"])


def _reverse(eqn: Any) -> Call:
    return lambda x: np.flip(x, tuple(eqn.params["dimensions"]))


def _concatenate(eqn: Any) -> Call:
    return lambda *xs: np.concatenate(xs, eqn.params["dimension"])


def _slice(eqn: Any) -> Call:
    p = eqn.params
    steps = p["strides"] or (1,) * len(p["start_indices"])
    cut = tuple(
        slice(a, b, s)
        for a, b, s in zip(p["start_indices"], p["limit_indices"], steps, strict=True)
    )
    return lambda x: x[cut]


def _starts(x: Any, sizes: Any, starts: Any) -> tuple[slice, ...]:
    """A block of an array, moved inside of it as XLA moves it."""
    found = [
        min(max(int(s), 0), full - n) for s, n, full in zip(starts, sizes, x.shape, strict=True)
    ]
    return tuple(slice(s, s + n) for s, n in zip(found, sizes, strict=True))


def _dynamic_slice(eqn: Any) -> Call:
    sizes = eqn.params["slice_sizes"]
    return lambda x, *starts: x[_starts(x, sizes, starts[: x.ndim])]


def _dynamic_update_slice(eqn: Any) -> Call:
    def run(x: Any, update: Any, *starts: Any) -> Any:
        out = np.array(x)
        out[_starts(x, update.shape, starts)] = update
        return out

    return run


def _pad(eqn: Any) -> Call:
    config = eqn.params["padding_config"]

    def run(x: Any, value: Any) -> Any:
        sizes = [
            max(n + (n - 1) * inner, 0) for n, (_, _, inner) in zip(x.shape, config, strict=True)
        ]
        full = np.full(
            [n + max(lo, 0) + max(hi, 0) for n, (lo, hi, _) in zip(sizes, config, strict=True)],
            value,
            x.dtype,
        )
        at = tuple(
            slice(max(lo, 0), max(lo, 0) + n, inner + 1)
            for n, (lo, _, inner) in zip(sizes, config, strict=True)
        )
        full[at] = x
        kept = tuple(
            slice(max(-lo, 0), n - max(-hi, 0))
            for n, (lo, hi, _) in zip(full.shape, config, strict=True)
        )
        return full[kept]

    return run


def _iota(eqn: Any) -> Call | None:
    p = eqn.params
    if eqn.invars:
        return None
    shape, axis = p["shape"], p["dimension"]
    line = np.arange(shape[axis]).astype(p["dtype"])
    wide = [-1 if k == axis else 1 for k in range(len(shape))]
    return lambda: np.broadcast_to(line.reshape(wide), shape)


def _select(eqn: Any) -> Call | None:
    if len(eqn.invars) != 3 or eqn.invars[0].aval.dtype != bool:
        return None
    return lambda which, no, yes: np.where(which, yes, no)


MOVES: dict[str, Maker] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "convert_element_type": _convert,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "iota": _iota,
    "pad": _pad,
    "reshape": _reshape,
    "rev": _reverse,
    "select_n": _select,
    "slice": _slice,
    "squeeze": _squeeze,
    "transpose": _transpose,
}
