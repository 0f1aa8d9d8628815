"""What an option may be: one table of kinds, asked at every public op's door.

A kind is a function ``(op, name, value) -> value``: it returns the value in the one form the op is
compiled with (a NumPy number as a Python number, a list as a tuple), or raises an error that names
the op and the option, what was wanted, what came, and what to do. `compiled` takes a kind for each
option, so that no op writes such checks itself.

    FLAG               True or False
    number(...)        a real number, of a range; also an array of no axes, traced or not
    whole_number(...)  a whole number, of a range
    choice(...)        one of some strings
    AXIS, AXES         an axis; several of them, or None for all
    PRECISION          of matrix products, as JAX has it
    OUT_SHARDING       of a result, on meshes of explicit axes, as `jnp.matmul` has it
    STATIC             any other value known when the op is compiled, in one form: sizes and padding
                       of windows, say, which `_window_arguments.py` reads
"""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from fnnet.ops._checks import describe

Kind: TypeAlias = Callable[[str, str, Any], Any]
Number: TypeAlias = float | jax.Array

# no size, axis or class is as large; and a compiler counts no further
MOST = 2**31 - 1


def in_dtype(value: Number, dtype: Any) -> Number:
    """A number option to compute with: an array in this dtype; a Python number as it is."""
    return value.astype(dtype) if isinstance(value, jax.Array) else value


def known(op: str, name: str, value: Any) -> None:
    """Raise TypeError for a traced value, which no program can be chosen by."""
    if isinstance(value, jax.core.Tracer):
        raise TypeError(
            f"{op}: {name} must be known when the op is compiled; got {describe(value)}, traced. "
            "Give a Python value: under jax.jit, name the argument it comes from in static_argnames"
        )


def number(
    least: float = -math.inf,
    most: float = math.inf,
    *,
    above: bool = False,
    or_none: str = "",
) -> Kind:
    """The kind of a real number from `least` to `most`, or an array of no axes that holds one.

    Args:
        least: the least number there is.
        most: the greatest.
        above: whether `least` itself is refused.
        or_none: what None means, where it may be given.
    """
    wanted = "a number"
    if most < math.inf:
        wanted += f" from {least:g} to {most:g}"
    elif least > -math.inf:
        wanted += " above 0" if above else f" of at least {least:g}"
    wanted += f", or None for {or_none}" if or_none else ""

    def kind(op: str, name: str, value: Any) -> Any:
        if value is None and or_none:
            return None
        if hasattr(value, "__jax_array__") and not isinstance(value, jax.Array):
            value = value.__jax_array__()
        if isinstance(value, jax.Array):
            return _scalar(op, name, value, wanted)
        if isinstance(value, np.ndarray) and value.ndim == 0:
            value = value[()]
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, (numbers.Real, np.number)):
            raise TypeError(f"{op}: {name} must be {wanted}; got {describe(value)}")
        if isinstance(value, np.complexfloating):
            raise TypeError(f"{op}: {name} must be {wanted}; got {describe(value)}")
        x = float(value)
        fits = (least < x if above else least <= x) and x <= most
        if not fits or math.isinf(x):
            remedy = ""
            if math.isinf(x):
                remedy = f". For {or_none} give None" if or_none else ". It must be finite"
            raise ValueError(f"{op}: {name} must be {wanted}; got {value}{remedy}")
        return x

    return kind


def _scalar(op: str, name: str, value: jax.Array, wanted: str) -> jax.Array:
    if value.ndim:
        raise ValueError(
            f"{op}: {name} must be {wanted}, one for the whole call; got {describe(value)}. For "
            "several, use jax.vmap"
        )
    real = jnp.issubdtype(value.dtype, jnp.floating) or jnp.issubdtype(value.dtype, jnp.integer)
    if not real:
        raise TypeError(f"{op}: {name} must be {wanted}; got {describe(value)}")
    return value


def whole(op: str, name: str, value: Any, least: int = 1, most: int = MOST) -> int:
    """`value` as an int from `least` to `most`.

    Example:
        >>> whole("conv2d", "groups", 2.0)
        Traceback (most recent call last):
        TypeError: conv2d: groups must be a whole number; got 2.0, a float
    """
    known(op, name, value)
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        n = operator.index(value)
    except TypeError:
        raise TypeError(f"{op}: {name} must be a whole number; got {describe(value)}") from None
    if n < least:
        crop = ". To crop, slice x" if name == "padding" else ""
        raise ValueError(f"{op}: {name} must be at least {least}; got {n}{crop}")
    if n > most:
        raise ValueError(f"{op}: {name} must be at most {most}; got {n}")
    return n


def whole_number(least: int = -MOST, *, or_none: str = "") -> Kind:
    """The kind of a whole number of at least `least`; None, where it means something, too."""

    def kind(op: str, name: str, value: Any) -> int | None:
        if value is None and or_none:
            return None
        try:
            return whole(op, name, value, least)
        except (TypeError, ValueError) as e:
            if not or_none:
                raise
            raise type(e)(f"{e}. None is for {or_none}") from None

    return kind


def choice(*names: str) -> Kind:
    """The kind of one of these strings."""
    wanted = ", ".join(f'"{n}"' for n in names[:-1]) + f' or "{names[-1]}"'

    def kind(op: str, name: str, value: Any) -> str:
        if isinstance(value, str) and value in names:
            return str(value)
        known(op, name, value)
        error = ValueError if isinstance(value, str) else TypeError
        got = repr(value) if isinstance(value, str) else describe(value)
        raise error(f"{op}: {name} must be {wanted}; got {got}")

    return kind


def flag(remedy: str = "") -> Kind:
    """The kind of True or False; `remedy` is added to what is said of anything else."""

    def kind(op: str, name: str, value: Any) -> bool:
        if isinstance(value, (bool, np.bool_)):
            return bool(value)
        known(op, name, value)
        more = f". {remedy}" if remedy else ""
        raise TypeError(f"{op}: {name} must be True or False; got {describe(value)}{more}")

    return kind


FLAG: Kind = flag()


def static(op: str, name: str, value: Any) -> Any:
    """Any value that is known: lists as tuples, NumPy's whole numbers as Python's."""
    if isinstance(value, (list, tuple)):
        return tuple(static(op, name, v) for v in value)
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, np.str_):
        return str(value)
    known(op, name, value)
    try:
        hash(value)
    except TypeError:
        raise TypeError(
            f"{op}: {name} must be a Python number, string or tuple; got {describe(value)}"
        ) from None
    return value


STATIC: Kind = static


def AXIS(op: str, name: str, value: Any) -> int:
    """One axis, counted from the front or, if negative, from the back."""
    known(op, name, value)
    try:
        return whole(op, name, value, -MOST)
    except TypeError:
        raise TypeError(f"{op}: {name} must be one whole number; got {describe(value)}") from None


def AXES(op: str, name: str, value: Any) -> int | tuple[int, ...] | None:
    """An axis, several, or None for all."""
    if value is None:
        return None
    if isinstance(value, (list, tuple)):
        return tuple(AXIS(op, name, v) for v in value)
    return AXIS(op, name, value)


def PRECISION(op: str, name: str, value: Any) -> Any:
    """Of matrix products, as in `jnp.einsum`; None is the one in force."""
    known(op, name, value)
    pair = isinstance(value, (list, tuple)) and len(value) == 2
    if value is None or (pair and all(_is_precision(v) for v in value)):
        return tuple(value) if pair else None
    if _is_precision(value) or _is_preset(value):
        return value
    error = ValueError if isinstance(value, str) else TypeError
    raise error(
        f'{op}: {name} must be a jax.lax.Precision, its name ("default", "high" or '
        '"highest"), a pair of them, a jax.lax.DotAlgorithmPreset, or None for the one in force; '
        f"got {describe(value)}"
    )


def OUT_SHARDING(op: str, name: str, value: Any) -> Any:
    """Of the result, as in `jnp.matmul`; None where it follows from the arguments'."""
    if value is None or isinstance(value, (jax.sharding.PartitionSpec, jax.NamedSharding)):
        return value
    known(op, name, value)
    raise TypeError(
        f"{op}: {name} must be a jax.P (PartitionSpec), a jax.NamedSharding, or None; "
        f"got {describe(value)}"
    )


def _is_precision(value: Any) -> bool:
    if not isinstance(value, (str, jax.lax.Precision)):
        return False
    try:
        jax.lax.Precision(value)
    except ValueError:
        return False
    return True


def _is_preset(value: Any) -> bool:
    if isinstance(value, (jax.lax.DotAlgorithmPreset, jax.lax.DotAlgorithm)):
        return True
    return isinstance(value, str) and value in jax.lax.DotAlgorithmPreset.__members__
