"""JAX's primitives in NumPy, for small programs in 64 bits: compiling costs more than running.

``PRIMITIVES[name](eqn)`` gives the function of the equation's inputs, or None where NumPy has none
with the same meaning: then JAX runs the equation. Every function here gives what XLA's gives, but
for the last digits of float64; `tests/check/test_primitives.py` holds them against each other.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from fnnet.check.case.moves import MOVES, Call, Maker


def _plain(f: Call) -> Maker:
    return lambda eqn: f


def _of_floats(f: Call) -> Maker:
    """A function whose meaning NumPy and XLA share for real floats only."""
    return lambda eqn: f if eqn.invars[0].aval.dtype.kind == "f" else None


def _inexact(f: Call) -> Maker:
    return lambda eqn: f if eqn.invars[0].aval.dtype.kind in "fc" else None


def _ordered(f: Call) -> Maker:
    """A function of numbers that have an order."""
    return lambda eqn: f if eqn.invars[0].aval.dtype.kind != "c" else None


def _clamp(least: Any, x: Any, most: Any) -> Any:
    return np.minimum(np.maximum(x, least), most)


def _integer_pow(eqn: Any) -> Call | None:
    y = eqn.params["y"]
    if y < 0 and eqn.invars[0].aval.dtype.kind not in "fc":
        return None
    if y < 0:
        return lambda x: 1 / _power(x, -y)
    return lambda x: _power(x, y)


def _power(x: Any, y: int) -> Any:
    """By multiplication, as XLA does; NumPy's own is no faster."""
    result = None
    while y:
        if y & 1:
            result = x if result is None else result * x
        y >>= 1
        if y:
            x = x * x
    return np.ones_like(x) if result is None else result


def _sign(x: Any) -> Any:
    return np.where(x == 0, x, np.sign(x))


def _round(eqn: Any) -> Call | None:
    return np.round if int(eqn.params["rounding_method"]) == 1 else None


def _reduced(f: Any, initial: Call | None = None) -> Maker:
    def make(eqn: Any) -> Call | None:
        p, dtype = eqn.params, eqn.outvars[0].aval.dtype
        if p.get("out_sharding") is not None or dtype != eqn.invars[0].aval.dtype:
            return None
        axes = tuple(p["axes"])
        if f in (np.logical_and, np.logical_or) and dtype.kind != "b":
            return None
        if initial is None:
            return lambda x: f.reduce(x, axes, dtype)
        if dtype.kind not in "fi":
            return None
        return lambda x: f.reduce(x, axes, initial=initial(x.dtype))

    return make


def _least(dtype: np.dtype[Any]) -> Any:
    return -np.inf if dtype.kind == "f" else np.iinfo(dtype).min


def _most(dtype: np.dtype[Any]) -> Any:
    return np.inf if dtype.kind == "f" else np.iinfo(dtype).max


def _place(f: Any) -> Maker:
    def make(eqn: Any) -> Call | None:
        p = eqn.params
        if eqn.invars[0].aval.dtype.kind not in "fi":
            return None
        return lambda x: f(x, axis=p["axes"][0]).astype(p["index_dtype"])

    return make


def _running(f: Any) -> Maker:
    def make(eqn: Any) -> Call:
        axis = eqn.params["axis"]

        def run(x: Any) -> Any:
            x = np.flip(x, axis) if eqn.params["reverse"] else x
            out = f.accumulate(x, axis, dtype=x.dtype) if x.size else x
            return np.flip(out, axis) if eqn.params["reverse"] else out

        return run

    return make


def _sort(eqn: Any) -> Call | None:
    p = eqn.params
    if p["num_keys"] != 1 or eqn.invars[0].aval.dtype.kind not in "fiu":
        return None

    def run(*xs: Any) -> Any:
        order = np.argsort(xs[0], axis=p["dimension"], kind="stable")
        return [np.take_along_axis(x, order, p["dimension"]) for x in xs]

    return run


def _dot(eqn: Any) -> Call | None:
    p = eqn.params
    (left, right), (left_batch, right_batch) = p["dimension_numbers"]
    if p.get("out_sharding") is not None:
        return None
    if any(v.aval.dtype != eqn.outvars[0].aval.dtype for v in eqn.invars):
        return None

    def run(a: Any, b: Any) -> Any:
        a_free = [k for k in range(a.ndim) if k not in (*left, *left_batch)]
        b_free = [k for k in range(b.ndim) if k not in (*right, *right_batch)]
        batch = tuple(a.shape[k] for k in left_batch)
        m, n = tuple(a.shape[k] for k in a_free), tuple(b.shape[k] for k in b_free)
        k = int(np.prod([a.shape[i] for i in left], dtype=int))
        x = a.transpose([*left_batch, *a_free, *left]).reshape(
            *batch, int(np.prod(m, dtype=int)), k
        )
        y = b.transpose([*right_batch, *right, *b_free]).reshape(
            *batch, k, int(np.prod(n, dtype=int))
        )
        return np.matmul(x, y).reshape((*batch, *m, *n))

    return run


def _complex(real: Any, imaginary: Any) -> Any:
    out = np.empty(np.shape(real), np.complex128 if real.dtype == np.float64 else np.complex64)
    out.real, out.imag = real, imaginary
    return out


def _divide(eqn: Any) -> Call | None:
    return operator.truediv if eqn.outvars[0].aval.dtype.kind in "fc" else None


PRIMITIVES: dict[str, Maker] = {
    **MOVES,
    "abs": _plain(abs),
    "add": _plain(operator.add),
    "add_any": _plain(operator.add),
    "and": _plain(np.bitwise_and),
    "argmax": _place(np.argmax),
    "argmin": _place(np.argmin),
    "atan2": _of_floats(np.arctan2),
    "cbrt": _of_floats(np.cbrt),
    "ceil": _of_floats(np.ceil),
    "clamp": _ordered(_clamp),
    "complex": _plain(_complex),
    "conj": _plain(np.conj),
    "copy": _plain(np.array),
    "copy_p": _plain(np.array),
    "cos": _inexact(np.cos),
    "cosh": _inexact(np.cosh),
    "cumsum": _running(np.add),
    "cumprod": _running(np.multiply),
    "div": _divide,
    "dot_general": _dot,
    "empty2": lambda eqn: lambda: np.zeros((), eqn.params["dtype"]),
    "eq": _plain(operator.eq),
    "exp": _inexact(np.exp),
    "exp2": _of_floats(np.exp2),
    "expm1": _of_floats(np.expm1),
    "floor": _of_floats(np.floor),
    "ge": _ordered(operator.ge),
    "gt": _ordered(operator.gt),
    "imag": _plain(np.imag),
    "integer_pow": _integer_pow,
    "is_finite": _plain(np.isfinite),
    "le": _ordered(operator.le),
    "log": _inexact(np.log),
    "log1p": _of_floats(np.log1p),
    "logistic": _of_floats(lambda x: 1 / (1 + np.exp(-x))),
    "lt": _ordered(operator.lt),
    "max": _ordered(np.maximum),
    "min": _ordered(np.minimum),
    "mul": _plain(np.multiply),
    "ne": _plain(operator.ne),
    "neg": _plain(operator.neg),
    "not": _plain(np.invert),
    "optimization_barrier": _plain(lambda *xs: xs),
    "or": _plain(np.bitwise_or),
    "pow": lambda eqn: np.power if all(v.aval.dtype == np.float64 for v in eqn.invars) else None,
    "real": _plain(np.real),
    "reduce_and": _reduced(np.logical_and),
    "reduce_max": _reduced(np.maximum, _least),
    "reduce_min": _reduced(np.minimum, _most),
    "reduce_or": _reduced(np.logical_or),
    "reduce_prod": _reduced(np.multiply),
    "reduce_sum": _reduced(np.add),
    "rem": _of_floats(np.fmod),
    "round": _round,
    "rsqrt": _of_floats(lambda x: 1 / np.sqrt(x)),
    "sign": _of_floats(_sign),
    "sin": _inexact(np.sin),
    "sinh": _inexact(np.sinh),
    "sort": _sort,
    "sqrt": _of_floats(np.sqrt),
    "square": _plain(lambda x: x * x),
    "gathered": _plain(lambda x: x),
    "stop_gradient": _plain(lambda x: x),
    "sub": _plain(operator.sub),
    "tan": _of_floats(np.tan),
    "tanh": _of_floats(np.tanh),
    "xor": _plain(np.bitwise_xor),
}
