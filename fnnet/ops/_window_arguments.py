"""What the ops on images ask of their arguments: sizes, strides, padding, and that they fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

from jax import export

from fnnet.ops._checks import describe
from fnnet.ops._options import MOST, known, whole

Pair: TypeAlias = int | Sequence[int]
Padding: TypeAlias = str | int | Sequence[Sequence[int]]
Ints: TypeAlias = tuple[int, int]

# No memory holds an array of so many numbers, and a compiler that counts its bytes in 64 bits ends
# the process when they are too many. What is smaller and does not fit is an ordinary error.
_MOST_NUMBERS = 2**40


def require_image(
    op: str, shape: Sequence[int], name: str = "x", axes: str = "(n, h, w, c)"
) -> None:
    """Raise ValueError unless the shape of an array has four axes."""
    if len(shape) != 4:
        single = name == "x" and len(shape) == 3
        remedy = ". Pass a single image as x[None]" if single else ""
        raise ValueError(f"{op}: {name} must have four axes {axes}; got shape {shape}{remedy}")


def require_holdable(op: str, argument: str, what: str, shape: Sequence[Any]) -> None:
    """Raise ValueError for an array that no memory holds.

    Args:
        op: the op's name.
        argument: which argument makes the array that large, with its value.
        what: the array, in words.
        shape: its shape; a number of images that is a variable, in jax.export, is not counted.

    Example:
        >>> require_holdable("fold", "shape=...", "images", (1, 2**30, 2**30, 1))
        Traceback (most recent call last):
        ValueError: fold: shape=... makes images of shape (1, 1073741824, 1073741824, 1), which no \
memory holds. Take a smaller shape
    """
    lengths = [1 if export.is_symbolic_dim(n) else max(n, 1) for n in shape]
    if math.prod(lengths) > _MOST_NUMBERS or max(lengths) > MOST:
        raise ValueError(
            f"{op}: {argument} makes {what} of shape {tuple(shape)}, which no memory holds. "
            f"Take a smaller {argument.partition('=')[0]}"
        )


def pair(op: str, name: str, value: Any, least: int = 1) -> Ints:
    """An int, or a pair of them, as a pair.

    Example:
        >>> pair("conv2d", "stride", 2), pair("conv2d", "stride", (1, 2))
        ((2, 2), (1, 2))
    """
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(
                f"{op}: {name} must be a whole number or a pair of them, of height and width; "
                f"got {len(value)} numbers"
            )
        return whole(op, name, value[0], least), whole(op, name, value[1], least)
    if isinstance(value, str) or value is None:
        raise TypeError(
            f"{op}: {name} must be a whole number or a pair of them; got {describe(value)}"
        )
    n = whole(op, name, value, least)
    return n, n


def pads(
    op: str, padding: Any, image: Ints, stride: Ints, reach: Sequence[int]
) -> tuple[Ints, Ints]:
    """The pixels of padding before and after each axis, for windows that cover `reach` pixels."""
    wanted = '"SAME", "VALID", a whole number, or two pairs (before, after), of height and width'
    known(op, "padding", padding)
    if isinstance(padding, str):
        if padding == "VALID":
            return (0, 0), (0, 0)
        if padding == "SAME":
            top, left = (_same(*of) for of in zip(image, stride, reach, strict=True))
            return top, left
        raise ValueError(f"{op}: padding must be {wanted}; got {padding!r}")
    if isinstance(padding, (tuple, list)):
        if len(padding) != 2 or not all(isinstance(p, (tuple, list)) for p in padding):
            remedy = ""
            if len(padding) == 2 and all(isinstance(p, int) for p in padding):
                remedy = f". For {padding[0]} pixels above and below, {padding[1]} left and right: "
                remedy += f"{((padding[0],) * 2, (padding[1],) * 2)}"
            raise ValueError(f"{op}: padding must be {wanted}; got {padding!r}{remedy}")
        return pair(op, "padding", padding[0], 0), pair(op, "padding", padding[1], 0)
    if padding is None:
        raise TypeError(f"{op}: padding must be {wanted}; got None")
    n = whole(op, "padding", padding, 0)
    return (n, n), (n, n)


def _same(length: int, stride: int, reach: int) -> Ints:
    """One window for every step; an odd pixel of padding goes to the end."""
    total = max((-(-length // stride) - 1) * stride + reach - length, 0)
    return total // 2, total - total // 2
