"""Where windows lie on an image: what unfold, conv2d and the pools have in common.

Images are (n, h, w, c). A window covers kh by kw pixels, `dilation` apart; windows start `stride`
apart on the padded image. Pixel (i, j) of all windows together is a *plane* (n, ho, wo, c), one
strided slice of the padded image. `Windows.planes` cuts an image into planes; `Windows.sum_planes`,
its adjoint, adds planes up into an image: each is put in its place, with stride - 1 zeros between
its elements, and XLA makes one loop of all the places and sums.

That is a slice and a pad for each pixel of a window: the shortest loop where a window has few
pixels, and a program that no compiler ends with where it has hundreds. Large windows are taken
apart: a window is kh rows of kw pixels, so what is done over a window is done over the pixels of
each row (`cut` and `add` along the width), then over the rows (along the height). That is a loop of
kw turns and one of kh, whose program has one size whatever the window's, and h·kw + ho·kh numbers
for each column of the result where pixel by pixel there are ho·kh·kw.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax import lax

from fnnet.ops._options import whole as whole
from fnnet.ops._window_arguments import Ints as Ints
from fnnet.ops._window_arguments import Padding as Padding
from fnnet.ops._window_arguments import Pair as Pair
from fnnet.ops._window_arguments import pads as pads_of
from fnnet.ops._window_arguments import pair as pair
from fnnet.ops._window_arguments import require_holdable
from fnnet.ops._window_arguments import require_image as require_image
from fnnet.rules import gathered, spread

Carry = TypeVar("Carry")

# up to so many pixels of a window a program with an operation for each is the fastest
FEW = 9


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
        n, *image, c = shape
        sizes, strides, dilations = (
            pair(op, name, value)
            for name, value in (("size", size), ("stride", stride), ("dilation", dilation))
        )
        reach = [d * (k - 1) + 1 for k, d in zip(sizes, dilations, strict=True)]
        pads = pads_of(op, padding, (image[0], image[1]), strides, reach)
        room = [lo + length + hi for length, (lo, hi) in zip(image, pads, strict=True)]
        # an image without pixels has no windows, as an empty batch has no images
        of_none = [m == 0 and r > space for m, r, space in zip(image, reach, room, strict=True)]
        if any(r > space and not e for r, space, e in zip(reach, room, of_none, strict=True)):
            spaced = "" if dilations == (1, 1) else f", {reach[0]}×{reach[1]} with its dilation,"
            raise ValueError(
                f"{op}: a window of {sizes[0]}×{sizes[1]} pixels{spaced} is larger than the "
                f"image, {room[0]}×{room[1]} with its padding. Take a smaller size, "
                'or padding="SAME"'
            )
        argument = f"padding={pads}"
        if isinstance(padding, str):
            argument = f"size={sizes}" if dilations == (1, 1) else f"dilation={dilations}"
        require_holdable(op, argument, "padded images", (n, *room, c))
        counts = [
            0 if e else (space - r) // s + 1
            for space, r, s, e in zip(room, reach, strides, of_none, strict=True)
        ]
        return Windows(
            (image[0], image[1]), sizes, strides, dilations, pads, (counts[0], counts[1])
        )

    @property
    def pixels(self) -> int:
        """How many pixels a window has."""
        return self.size[0] * self.size[1]

    @property
    def none(self) -> bool:
        """Whether there is not one window: images without pixels have none."""
        return 0 in self.count

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

    def pad(self, x: jax.Array, fill: float = 0) -> jax.Array:
        """x (n, h, w, c) with its padding."""
        return pad(x, self.pads, fill) if self.padded else x

    def gathered(self, x: jax.Array) -> jax.Array:
        """x (n, h, w, ...) or (n, ho, wo, ...), to be cut over devices into wide parts at most.

        What reads windows takes its arguments and gives its results through this: of parts of the
        image with hardly a window XLA's partitioner makes errors. Those of twice the reach and a
        bit more it has cut rightly in hundreds of drawn calls, tests/ops/drawn_meshes.py.
        """
        parts = {}
        for a in (0, 1):
            k, s, pads = self.size[a], self.stride[a], self.pads[a]
            if (k, s, pads) != (1, 1, (0, 0)):  # else an axis as that of the images
                reach = max((k - 1) * self.dilation[a] + 1, s, *pads)
                parts[1 + a] = self.image[a] // (2 * reach + 4)
        return gathered(x, parts)

    def offsets(self) -> Iterator[Ints]:
        """The pixels (i, j) of a window, in row-major order."""
        return ((i, j) for i in range(self.size[0]) for j in range(self.size[1]))

    def planes(self, x: jax.Array, fill: float = 0) -> Iterator[jax.Array]:
        """x (n, h, w, c) -> for each pixel of a window the plane (n, ho, wo, c)."""
        n, c = x.shape[0], x.shape[3]
        x = self.pad(x, fill)
        (ho, wo), (sh, sw), (dh, dw) = self.count, self.stride, self.dilation
        for i, j in self.offsets():
            top, left = i * dh, j * dw
            stop = (n, top + (ho - 1) * sh + 1, left + (wo - 1) * sw + 1, c)
            yield lax.slice(x, (0, top, left, 0), stop, (1, sh, sw, 1))

    def sum_planes(self, plane: Callable[[int], jax.Array]) -> jax.Array:
        """For each pixel number of a window a plane -> the image (n, h, w, c) of their sums."""
        total = None
        for number, (i, j) in enumerate(self.offsets()):
            placed = self._placed(plane(number), i, j)
            total = placed if total is None else total + placed
        assert total is not None
        return total

    def _placed(self, plane: jax.Array, i: int, j: int) -> jax.Array:
        """The plane of pixel (i, j) of all windows where it lies on the image, zeros around it.

        What falls on padding is cut off first, so that no pad crops: XLA's partitioner ends the
        process at one that crops before and pads between, on an image cut over devices.
        """
        n, c = plane.shape[0], plane.shape[3]
        (top, bottom, *rows), (left, right, *columns) = self._on_image(0, i), self._on_image(1, j)
        if (top, left, bottom, right) != (0, 0, *self.count):
            plane = lax.slice(plane, (0, top, left, 0), (n, bottom, right, c))
        if top == bottom or left == right:
            return lax.full_like(plane, 0, shape=(n, *self.image, c))
        around = [(before, after) for before, after in (rows, columns)]
        return pad(plane, around, between=(self.stride[0] - 1, self.stride[1] - 1))

    def plane(self, x: jax.Array, offset: Ints, channels: Ints = (0, 0)) -> jax.Array:
        """The adjoint of `_placed`: one plane, of an image whose zeros around are not written down.

        `channels` of zeros are put before and after x's own.
        """
        n, c = x.shape[0], x.shape[3]
        (top, bottom, *rows), (left, right, *columns) = (
            self._on_image(side, k) for side, k in enumerate(offset)
        )
        (ho, wo), (h, w), (sh, sw) = self.count, self.image, self.stride
        if top == bottom or left == right:
            return lax.full_like(x, 0, shape=(n, ho, wo, c + sum(channels)))
        stop = (n, h - rows[1], w - columns[1], c)
        x = lax.slice(x, (0, rows[0], columns[0], 0), stop, (1, sh, sw, 1))
        around = ((0, 0), (top, ho - bottom), (left, wo - right), channels)
        return lax.pad(x, np.zeros((), x.dtype), [(*of, 0) for of in around])

    def _on_image(self, axis: int, k: int) -> tuple[int, int, int, int]:
        """Which windows have pixel k of an axis on the image, from, to; the zeros around them."""
        s, length = self.stride[axis], self.image[axis]
        begin = k * self.dilation[axis] - self.pads[axis][0]  # where the first window has it
        first = min(max(0, -(begin // s)), self.count[axis])
        last = min(self.count[axis], -((begin - length) // s))
        if first >= last:
            return first, first, length, 0
        start = begin + first * s
        return first, last, start, length - 1 - (start + (last - first - 1) * s)

    def turned_round(self, g: jax.Array) -> tuple[jax.Array, tuple[Ints, Ints]]:
        """For a sum over the windows that pixel a of the image is in: g (n, ho, wo, c), its pads.

        Window i has the pixels is - t + kd, so that a is in it where is = a + t - kd. That is a
        window on g with stride - 1 zeros between its elements, of the same size and dilation, which
        starts at a + t - (size-1)d. So g is padded with (size-1)d - t before, and after with what
        makes as many windows as the image has pixels. Windows on nothing but padding are cut off,
        so that no padding crops: see `_placed`. There may be none left.
        """
        start, stop, around = [0, 0], [0, 0], []
        for a in (0, 1):
            s, t = self.stride[a], self.pads[a][0]
            low = (self.size[a] - 1) * self.dilation[a] - t
            high = self.image[a] + t - ((self.count[a] - 1) * s + 1)
            start[a], stop[a] = max(0, -(low // s)), self.count[a] - max(0, -(high // s))
            around.append((low + start[a] * s, high if high >= 0 else high % s))
        stop = [max(of) for of in zip(start, stop, strict=True)]
        if (start, stop) != ([0, 0], [*self.count]):
            g = lax.slice(g, (0, *start, 0), (g.shape[0], *stop, g.shape[3]))
        return g, (around[0], around[1])

    def tiles(self, x: jax.Array, fill: float = 0) -> jax.Array:
        """x (n, h, w, c) -> its windows (n, ho, kh, wo, kw, c), where they lie side by side."""
        n, c, (ho, wo), (kh, kw) = x.shape[0], x.shape[3], self.count, self.size
        x = pad(x, self._around_tiles(1), fill)
        return x.reshape(n, ho, kh, wo, kw, c)

    def join_tiles(self, t: jax.Array) -> jax.Array:
        """The adjoint of `tiles`: windows (n, ho, kh, wo, kw, c) -> the image (n, h, w, c)."""
        n, ho, kh, wo, kw, c = t.shape
        return pad(t.reshape(n, ho * kh, wo * kw, c), self._around_tiles(-1))

    def _around_tiles(self, sign: int) -> list[Ints]:
        """What pads an image to whole windows, or crops it again."""
        return [
            (sign * lo, sign * (count * k - length - lo))
            for (lo, _), count, k, length in zip(
                self.pads, self.count, self.size, self.image, strict=True
            )
        ]

    def cut(self, x: jax.Array, side: int, k: jax.Array, axis: int) -> jax.Array:
        """Pixel k, known at run time, of all windows along one side, from an axis of `x`."""
        span = (self.count[side] - 1) * self.stride[side] + 1
        start = k * np.asarray(self.dilation[side], k.dtype)
        part = lax.dynamic_slice_in_dim(x, start, span, axis)
        return lax.slice_in_dim(part, 0, span, self.stride[side], axis)

    def add(
        self,
        total: jax.Array,
        plane: jax.Array,
        side: int,
        k: jax.Array,
        axis: int,
        join: Callable[[Any, Any], jax.Array] = lax.add,
    ) -> jax.Array:
        """The adjoint of `cut`: `total` with the pixels k of all windows added to an axis.

        Or joined to what is there in another way that leaves it as it is where zero comes.
        """
        between = [(0, 0, self.stride[side] - 1 if a == axis else 0) for a in range(plane.ndim)]
        plane = lax.pad(plane, np.zeros((), plane.dtype), between)
        start = k * np.asarray(self.dilation[side], k.dtype)
        there = lax.dynamic_slice_in_dim(total, start, plane.shape[axis], axis)
        return lax.dynamic_update_slice_in_dim(total, join(there, plane), start, axis)

    def room(self, side: int) -> int:
        """The length of one side of the image with its padding."""
        return self.image[side] + sum(self.pads[side])

    def crop(self, x: jax.Array, side: int, axis: int) -> jax.Array:
        """An axis of `x` without the padding of one side."""
        before, length = self.pads[side][0], self.image[side]
        return lax.slice_in_dim(x, before, before + length, 1, axis)

    def pixels_that_exist(self) -> tuple[np.ndarray, np.ndarray]:
        """How many rows and columns of each window are of the image, not of padding: (ho), (wo)."""
        rows, columns = (
            ((places >= 0) & (places < length)).sum(1)
            for places, length in zip(map(self._places, (0, 1)), self.image, strict=True)
        )
        return rows, columns

    def _places(self, axis: int) -> np.ndarray:
        """Where each window's pixels lie on one axis of the image, (count, size)."""
        starts = np.arange(self.count[axis])[:, None] * self.stride[axis] - self.pads[axis][0]
        return starts + np.arange(self.size[axis]) * self.dilation[axis]


def pad(x: jax.Array, around: Sequence[Ints], fill: float = 0, between: Ints = (0, 0)) -> jax.Array:
    """Pad the two middle axes of x (n, h, w, c) before, after and between; negative crops."""
    (top, bottom), (left, right) = around
    middle = ((top, bottom, between[0]), (left, right, between[1]))
    return lax.pad(x, np.asarray(fill, x.dtype), ((0, 0, 0), *middle, (0, 0, 0)))


def each(
    first: int, last: int, step: Callable[[jax.Array, Carry], Carry], carry: Carry, *like: Any
) -> Carry:
    """`step(k, carry)` for every k from `first` to before `last`, in one loop, on arrays `like`."""
    carry = spread(carry, *like)
    return lax.fori_loop(np.int32(first), np.int32(last), step, carry)  # type: ignore[no-any-return]
