"""What every public op asks of its arguments, with one wording for what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnnet.rules.arguments import is_array


def describe(x: Any) -> str:
    """A short name for what came: dtype and shape of an array, else the type.

    Example:
        >>> describe(jnp.ones((2, 3))), describe([1, 2])
        ('float32[2,3]', 'a list')
    """
    if isinstance(x, jax.ShapeDtypeStruct):
        return f"{x!r}, which holds no numbers"
    if hasattr(x, "dtype") and hasattr(x, "shape"):
        return f"{x.dtype}[{','.join(map(str, x.shape))}]"
    if isinstance(x, (bool, int, float, complex, str)) or x is None:
        return f"{x!r}, a {type(x).__name__}"
    return f"a {type(x).__name__}"


def is_array_or_number(x: Any) -> bool:
    """Whether JAX takes `x` for an array: one of its own, of NumPy's numbers, a Python number."""
    return is_array(x) or isinstance(x, (bool, int, float, complex))


def floats(
    op: str, *, complex_too: bool = False, optional: Sequence[str] = (), **arrays: Any
) -> list[Any]:
    """The arguments as arrays; TypeError unless of floating point (or complex) dtype.

    Args:
        op: the op's name.
        complex_too: whether complex arrays will do.
        optional: the names of those that may be None, and then are None in the result.
        arrays: by argument name; Python numbers are taken for scalars.
    """
    given = {k: x for k, x in arrays.items() if x is not None or k not in optional}
    require_floats(op, complex_too=complex_too, **given)
    return [None if x is None else jnp.asarray(x) for x in arrays.values()]


def shapes(*arrays: jax.Array | None) -> list[Any]:
    """Their shapes, None for None."""
    return [None if x is None else x.shape for x in arrays]


def require_floats(op: str, *, complex_too: bool = False, **arrays: Any) -> None:
    """Raise TypeError unless every array is of floating point (or complex) dtype."""
    kind = jnp.inexact if complex_too else jnp.floating
    wanted = "floating point or complex numbers" if complex_too else "real floating point numbers"
    for name, x in arrays.items():
        if not is_array_or_number(x):
            raise TypeError(
                f"{op}: {name} must be an array of {wanted}; got {describe(x)}. "
                "Convert it with jnp.asarray"
            )
        if not jnp.issubdtype(jnp.result_type(x), kind):
            remedy = (
                "Take its real part or magnitude first"
                if jnp.issubdtype(jnp.result_type(x), jnp.complexfloating)
                else "Convert it, for instance with .astype(jnp.float32)"
            )
            raise TypeError(
                f"{op}: {name} must be an array of {wanted}; got {describe(x)}. {remedy}"
            )


def require_axis(op: str, axis: Any, **arrays: Any) -> None:
    """Raise unless `axis` is a whole number that counts an axis of the array.

    Example:
        >>> require_axis("softmax", 2, z=jnp.ones((3, 4)))
        Traceback (most recent call last):
        ValueError: softmax: axis must be from -2 to 1 for z of shape (3, 4); got 2
    """
    for name, x in arrays.items():
        ndim = jnp.ndim(x)
        if not isinstance(axis, (int, np.integer)) or isinstance(axis, bool):
            raise TypeError(f"{op}: axis must be one whole number; got {describe(axis)}")
        if not -ndim <= axis < ndim:
            wanted = f"from {-ndim} to {ndim - 1}" if ndim else "absent: there is none"
            raise ValueError(
                f"{op}: axis must be {wanted} for {name} of shape {jnp.shape(x)}; got {axis}"
            )


def require_recurrent(op: str, x: Any, h0: Any, wx: Any, wh: Any, b: Any, *, gates: int) -> None:
    """Raise unless the shapes of a recurrent layer fit; its weights have `gates` blocks."""
    columns = "n_h" if gates == 1 else f"{gates} n_h"
    if len(x) < 2:
        raise ValueError(
            f"{op}: x must have shape (T, ..., n_in), time first; got shape {x}. "
            "One sequence of single numbers is x[:, None]"
        )
    if not h0 or h0[:-1] != x[1:-1]:
        raise ValueError(
            f"{op}: h0 must have shape (..., n_h) with the batch axes {x[1:-1]} of x, which has "
            f"shape {x} (time first); got shape {h0}"
        )
    n = h0[-1]
    for name, shape, wanted, words in (
        ("wx", wx, (x[-1], gates * n), f"(n_in, {columns})"),
        ("wh", wh, (n, gates * n), f"(n_h, {columns})"),
        ("b", b, (gates * n,), f"({columns},)"),
    ):
        if shape != wanted:
            remedy = "; it seems transposed" if len(wanted) == 2 and shape == wanted[::-1] else ""
            raise ValueError(
                f"{op}: {name} must have shape {words} = {wanted} for x of shape {x} and h0 of "
                f"shape {h0}; got shape {shape}{remedy}"
            )
