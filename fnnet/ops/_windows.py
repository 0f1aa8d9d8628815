"""Where windows lie on an image: what unfold, conv2d and the pools have in common.

Images are (n, h, w, c). A window covers kh by kw pixels, `dilation` apart; windows start `stride`
apart on the padded image. Pixel (i, j) of all windows together is a *plane* (n, ho, wo, c), one
strided slice of the padded image. `Windows.planes` cuts an image into planes; `Windows.sum_planes`,
its adjoint, adds planes up into an image: each is padded, with stride - 1 zeros between its
elements, and XLA makes one loop of all the pads and sums.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnnet.ops._checks import describe
from fnnet.ops._options import whole as whole
from fnnet.rules import accumulator

Pair: TypeAlias = int | Sequence[int]
Padding: TypeAlias = str | int | Sequence[Sequence[int]]
Ints: TypeAlias = tuple[int, int]

# up to so many pixels of a window a sum of padded planes costs less than their concatenation, which
# XLA for CPUs writes twice
_FEW = 9


@dataclasses.dataclass(frozen=True)
class Windows:
    """Where the windows of one op lie; pairs are of height and width.

    Attributes:
        image: the height and width of the image.
        size: pixels of a window.
        stride: from one window to the next.
        dilation: from one pixel of a window to the next.
        pads: pixels of padding before and after each axis.
        count: how many windows there are.
    """

    image: Ints
    size: Ints
    stride: Ints
    dilation: Ints
    pads: tuple[Ints, Ints]
    count: Ints

    @staticmethod
    def of(
        op: str,
        shape: Sequence[int],
        size: Any,
        stride: Any = 1,
        padding: Any = "VALID",
        dilation: Any = 1,
    ) -> Windows:
        """The windows on images of `shape` (n, h, w, c), from the arguments of the op.

        Raises:
            TypeError: for a size that is no whole number.
            ValueError: for sizes that cannot be.

        Example:
            >>> Windows.of("max_pool", (1, 5, 4, 3), 2, stride=2, padding="SAME").count
            (3, 2)
        """
        image = (shape[1], shape[2])
        sizes, strides, dilations = (
            pair(op, name, value)
            for name, value in (("size", size), ("stride", stride), ("dilation", dilation))
        )
        reach = [d * (k - 1) + 1 for k, d in zip(sizes, dilations, strict=True)]
        pads = _pads(op, padding, image, strides, reach)
        room = [lo + length + hi for length, (lo, hi) in zip(image, pads, strict=True)]
        if any(r > space for r, space in zip(reach, room, strict=True)):
            spaced = "" if dilations == (1, 1) else f", {reach[0]}×{reach[1]} with its dilation,"
            raise ValueError(
                f"{op}: a window of {sizes[0]}×{sizes[1]} pixels{spaced} is larger than the "
                f"image, {room[0]}×{room[1]} with its padding. Take a smaller size, "
                'or padding="SAME"'
            )
        counts = [(space - r) // s + 1 for space, r, s in zip(room, reach, strides, strict=True)]
        return Windows(image, sizes, strides, dilations, pads, (counts[0], counts[1]))

    @property
    def pixels(self) -> int:
        """How many pixels a window has."""
        return self.size[0] * self.size[1]

    @property
    def tiled(self) -> bool:
        """Whether the windows lie side by side, so that no pixel is in two of them."""
        return self.size == self.stride and all(
            d == 1 or k == 1 for k, d in zip(self.size, self.dilation, strict=True)
        )

    @property
    def padded(self) -> bool:
        """Whether there is any padding."""
        return self.pads != ((0, 0), (0, 0))

    def offsets(self) -> Iterator[Ints]:
        """The pixels (i, j) of a window, in row-major order."""
        return ((i, j) for i in range(self.size[0]) for j in range(self.size[1]))

    def planes(self, x: jax.Array, fill: float = 0) -> Iterator[jax.Array]:
        """x (n, h, w, c) -> for each pixel of a window the plane (n, ho, wo, c)."""
        n, c = x.shape[0], x.shape[3]
        if self.padded:
            x = pad(x, self.pads, fill)
        (ho, wo), (sh, sw), (dh, dw) = self.count, self.stride, self.dilation
        for i, j in self.offsets():
            top, left = i * dh, j * dw
            stop = (n, top + (ho - 1) * sh + 1, left + (wo - 1) * sw + 1, c)
            yield lax.slice(x, (0, top, left, 0), stop, (1, sh, sw, 1))

    def sum_planes(self, plane: Callable[[int], jax.Array]) -> jax.Array:
        """For each pixel number of a window a plane -> the image (n, h, w, c) of their sums."""
        total = None
        for number, (i, j) in enumerate(self.offsets()):
            placed = pad(
                plane(number),
                (self.around(0, i), self.around(1, j)),
                between=(self.stride[0] - 1, self.stride[1] - 1),
            )
            total = placed if total is None else total + placed
        assert total is not None
        return total

    def around(self, axis: int, k: int) -> Ints:
        """The padding that puts plane k in its place on one axis; negative padding crops."""
        before = k * self.dilation[axis] - self.pads[axis][0]
        covered = (self.count[axis] - 1) * self.stride[axis] + 1
        return before, self.image[axis] - before - covered

    def tiles(self, x: jax.Array, fill: float = 0) -> jax.Array:
        """x (n, h, w, c) -> its windows (n, ho, kh, wo, kw, c), where they lie side by side."""
        around = [
            (lo, count * k - length - lo)
            for (lo, _), count, k, length in zip(
                self.pads, self.count, self.size, self.image, strict=True
            )
        ]
        n, c, (ho, wo), (kh, kw) = x.shape[0], x.shape[3], self.count, self.size
        # an axis at a time, as on a mesh of explicit axes JAX reshapes no two
        x = pad(x, around, fill).reshape(n, ho, kh, wo * kw, c)
        return x.reshape(n, ho, kh, wo, kw, c)

    def join_tiles(self, t: jax.Array) -> jax.Array:
        """The adjoint of `tiles`: windows (n, ho, kh, wo, kw, c) -> the image (n, h, w, c)."""
        n, ho, kh, wo, kw, c = t.shape
        x = t.reshape(n, ho, kh, wo * kw, c).reshape(n, ho * kh, wo * kw, c)
        around = [
            (-lo, length + lo - count * k)
            for (lo, _), count, k, length in zip(
                self.pads, self.count, self.size, self.image, strict=True
            )
        ]
        return pad(x, around)

    def pixels_that_exist(self) -> np.ndarray:
        """How many pixels of each window (ho, wo) are of the image, not of its padding."""
        rows, columns = (
            ((places >= 0) & (places < length)).sum(1)
            for places, length in zip(map(self._places, (0, 1)), self.image, strict=True)
        )
        return np.outer(rows, columns)

    def _places(self, axis: int) -> np.ndarray:
        """Where each window's pixels lie on one axis of the image, (count, size)."""
        starts = np.arange(self.count[axis])[:, None] * self.stride[axis] - self.pads[axis][0]
        return starts + np.arange(self.size[axis]) * self.dilation[axis]


def pad(x: jax.Array, around: Sequence[Ints], fill: float = 0, between: Ints = (0, 0)) -> jax.Array:
    """Pad the two middle axes of x (n, h, w, c) before, after and between; negative crops."""
    (top, bottom), (left, right) = around
    middle = ((top, bottom, between[0]), (left, right, between[1]))
    return lax.pad(x, np.asarray(fill, x.dtype), ((0, 0, 0), *middle, (0, 0, 0)))


def require_image(
    op: str, shape: Sequence[int], name: str = "x", axes: str = "(n, h, w, c)"
) -> None:
    """Raise ValueError unless the shape of an array has four axes."""
    if len(shape) != 4:
        single = name == "x" and len(shape) == 3
        remedy = ". Pass a single image as x[None]" if single else ""
        raise ValueError(f"{op}: {name} must have four axes {axes}; got shape {shape}{remedy}")


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


def _pads(
    op: str, padding: Any, image: Ints, stride: Ints, reach: Sequence[int]
) -> tuple[Ints, Ints]:
    wanted = '"SAME", "VALID", a whole number, or two pairs (before, after), of height and width'
    if padding == "VALID":
        return (0, 0), (0, 0)
    if padding == "SAME":
        top, left = (_same(*of) for of in zip(image, stride, reach, strict=True))
        return top, left
    if isinstance(padding, str):
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


def patches(x: jax.Array, windows: Windows) -> jax.Array:
    """x (n, h, w, c) -> p (n, ho, wo, kh*kw*c), each row a window flattened."""
    n, c, (ho, wo) = x.shape[0], x.shape[3], windows.count
    if windows.tiled:
        t = windows.tiles(x).transpose(0, 1, 3, 2, 4, 5)
        return t.reshape(n, ho, wo, windows.pixels * c)
    return jnp.concatenate(list(windows.planes(x)), -1)


def patches_in_one_loop(x: jax.Array, windows: Windows) -> jax.Array:
    """As `patches`, by pads and a sum where that is one loop: without a copy of every plane."""
    if windows.tiled or windows.pixels > _FEW:
        return patches(x, windows)
    if windows.stride == (1, 1):  # each plane by its own crop; else all from one padded image
        around = (
            [(-before, -after) for before, after in (windows.around(0, i), windows.around(1, j))]
            for i, j in windows.offsets()
        )
        planes = iter([pad(x, crop) for crop in around])
    else:
        planes = windows.planes(x)
    c, total = x.shape[3], None
    for k, plane in enumerate(planes):
        place = (k * c, (windows.pixels - 1 - k) * c, 0)
        placed = lax.pad(plane, np.zeros((), x.dtype), (*((0, 0, 0),) * 3, place))
        total = placed if total is None else total + placed
    assert total is not None
    return total


def sum_patches(p: jax.Array, windows: Windows) -> jax.Array:
    """p (n, ho, wo, kh*kw*c) -> the image (n, h, w, c) of their sums: the adjoint of `patches`."""
    n, ho, wo, k = p.shape
    (kh, kw), c = windows.size, k // windows.pixels
    if windows.tiled:
        return windows.join_tiles(p.reshape(n, ho, wo, kh, kw, c).transpose(0, 1, 3, 2, 4, 5))
    wide = accumulator(p)
    image = windows.sum_planes(lambda k: p[..., k * c : (k + 1) * c].astype(wide))
    return image.astype(p.dtype)
