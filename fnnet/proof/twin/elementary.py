"""The functions that numbers and symbols compute differently, and nothing else.

The twins add, multiply, index and contract NumPy arrays; arrays of floats and arrays of SymPy
expressions (dtype object) do that alike. Only the functions below need to know which of the two
they hold. They look it up in a table: NumPy's functions, unless `calculating_with(table)` is in
force. So one text serves as a numerical oracle and as the subject of a proof.

Constants are written so that both readings are exact: `x / 2` and not `0.5 * x`, `sqrt(2)` from
here and not `2 ** 0.5`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import reduce
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]  # of floats, or of SymPy expressions
Scalar: TypeAlias = Any  # a float, or one SymPy expression
Table: TypeAlias = Mapping[str, Callable[..., Any]]

NUMPY: Table = {
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "tanh": np.tanh,
    "cos": np.cos,
    "sin": np.sin,
    "erfc": np.vectorize(math.erfc, otypes=[float]),
    "greater": np.greater,
    "maximum": np.maximum,
    "pi": lambda: math.pi,
}
_table: ContextVar[Table] = ContextVar("table", default=NUMPY)


@contextmanager
def calculating_with(table: Table) -> Iterator[None]:
    """Let the functions of this module be those of `table` inside the `with` block."""
    token = _table.set(table)
    try:
        yield
    finally:
        _table.reset(token)


def exp(x: Any) -> Any:
    """The exponential function, elementwise."""
    return _table.get()["exp"](x)


def log(x: Any) -> Any:
    """Natural logarithm, elementwise."""
    return _table.get()["log"](x)


def sqrt(x: Any) -> Any:
    """Square root, elementwise."""
    return _table.get()["sqrt"](x)


def tanh(x: Any) -> Any:
    """Hyperbolic tangent, elementwise; its slope is 1 - tanh^2."""
    return _table.get()["tanh"](x)


def cos(x: Any) -> Any:
    """Cosine, elementwise; its slope is -sin."""
    return _table.get()["cos"](x)


def sin(x: Any) -> Any:
    """Sine, elementwise; its slope is cos."""
    return _table.get()["sin"](x)


def erfc(x: Any) -> Any:
    """One minus erf, without the cancellation; its slope at x is -2/sqrt(pi) exp(-x^2)."""
    return _table.get()["erfc"](x)


def greater(x: Any, y: Any) -> Any:
    """X > y, elementwise: booleans. Symbols are compared where the proof stands."""
    return _table.get()["greater"](x, y)


def maximum(x: Any, y: Any) -> Any:
    """The greater of two, elementwise."""
    return _table.get()["maximum"](x, y)


def pi() -> Scalar:
    """The number pi: a float, or the symbol."""
    return _table.get()["pi"]()


def absolute(x: Any) -> Any:
    """|x|, elementwise."""
    return maximum(x, -x)


def largest(z: Array) -> Array:
    """The greatest entry along the last axis, which is kept with length 1."""
    return np.asarray(reduce(maximum, np.moveaxis(z, -1, 0)))[..., None]


def sum_to(x: Array, shape: tuple[int, ...]) -> Array:
    """Add up the axes along which `shape` was broadcast to x's shape.

    Broadcasting copies one entry to many places. A copied entry's cotangent is the sum of its
    copies' cotangents: this is the transpose of broadcasting.
    """
    x = x.sum(axis=tuple(range(x.ndim - len(shape))))
    copied = tuple(axis for axis, n in enumerate(shape) if n == 1 and x.shape[axis] != 1)
    return np.asarray(x.sum(axis=copied, keepdims=True))
