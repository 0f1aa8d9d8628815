"""The sums of a convolutional layer's two forms, which `_conv.py` derives.

Direct : by XLA's convolutions
Unfold : by patches and matrix products

Each has `to_y`, from x and w; `to_x`, from w and g; `to_w`, from x and g. Letters and shapes are
those of `_conv.py`: x (n, h, w, c_in), w (kh, kw, c_in / groups, c_out), y, g (n, ho, wo, c_out).
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import NamedSharding

from fnnet.ops._patches import patches, sum_patches
from fnnet.ops._windows import Windows
from fnnet.rules import Precision, accumulator, by_devices, contract, gathered

_IMAGE = ("NHWC", "HWIO", "NHWC")
_TO_X = ("NHWC", "HWOI", "NHWC")
_TO_W = ("CHWN", "IHWO", "HWNC")  # images as channels, channels as images


@dataclasses.dataclass(frozen=True)
class Direct:
    """By XLA's convolutions; results are in the wide dtype."""

    windows: Windows
    groups: int
    precision: Precision

    def to_y(self, x: jax.Array, w: jax.Array, out: NamedSharding | None) -> jax.Array:
        """x, w -> y."""
        y = lax.conv_general_dilated(
            self.windows.gathered(x),
            _whole_pixels(w),
            self.windows.stride,
            self.windows.pads,
            rhs_dilation=self.windows.dilation,
            dimension_numbers=_IMAGE,
            feature_group_count=self.groups,
            precision=self.precision,
            preferred_element_type=accumulator(x, w),
            out_sharding=out,
        )
        return self.windows.gathered(y)

    def to_x(self, w: jax.Array, g: jax.Array) -> jax.Array:
        """w, g -> dx."""
        windows, groups, w = self.windows, self.groups, _whole_pixels(w)
        g = whole = windows.gathered(g)
        g, pads = windows.turned_round(g)
        if not all(g.shape[1:3]):
            return lax.full_like(g, 0, shape=(g.shape[0], *windows.image, w.shape[2] * groups))
        for a in (0, 1):
            doubled = windows.size[a] == windows.stride[a] == 2 and windows.dilation[a] == 1
            if doubled and pads[a] == (0, 0) and windows.size[1 - a] > g.shape[2 - a]:
                # XLA (in JAX 0.10.2 and 0.12.0.1) takes such an axis for groups, and exchanges
                # image and kernel along the other axis alone, which aborts the process
                return Unfold(windows, groups, self.precision).to_x(w, whole)
        kh, kw, c, o = w.shape
        if groups > 1:  # c and o are exchanged within each group
            w = w.reshape(kh, kw, c, groups, o // groups)
            w = w.swapaxes(2, 3).reshape(kh, kw, groups * c, o // groups)
        dx = lax.conv_general_dilated(
            g,
            lax.rev(w, (0, 1)),
            (1, 1),
            pads,
            lhs_dilation=windows.stride,
            rhs_dilation=windows.dilation,
            dimension_numbers=_TO_X,
            feature_group_count=groups,
            precision=self.precision,
            preferred_element_type=accumulator(g),
        )
        return windows.gathered(dx)

    def to_w(self, x: jax.Array, g: jax.Array) -> jax.Array:
        """x, g -> dw."""
        x, g = self.windows.gathered(x), self.windows.gathered(g)
        if self.groups == 1:
            return _whole_pixels(self._to_w(x, g))
        return by_devices(self._to_w, self._to_w_by_pixels, x, g)

    def _to_w(self, x: jax.Array, g: jax.Array) -> jax.Array:
        windows = self.windows
        pads, stop = [], []
        for a in (0, 1):
            before = windows.pads[a][0]
            spread = (windows.count[a] - 1) * windows.stride[a] + 1
            reach = (windows.size[a] - 1) * windows.dilation[a] + 1
            # no pixel further than the last one that the last window sees
            after = spread + reach - 1 - before - windows.image[a]
            pads.append((before, max(after, 0)))
            stop.append(windows.image[a] + min(after, 0))
        if tuple(stop) != windows.image:
            if min(stop) <= 0:  # no window sees a pixel
                shape = (*windows.size, x.shape[3] // self.groups, g.shape[3])
                return lax.full_like(x, 0, shape=shape)
            x = x[:, : stop[0], : stop[1]]
        return lax.conv_general_dilated(
            x,
            g,
            windows.dilation,
            pads,
            rhs_dilation=windows.stride,
            dimension_numbers=_TO_W,
            batch_group_count=self.groups,
            precision=self.precision,
            preferred_element_type=accumulator(g),
        )

    def _to_w_by_pixels(self, x: jax.Array, g: jax.Array) -> jax.Array:
        """Pixel by pixel, by matrix products of each group's channels.

        Of images cut over one axis of a mesh XLA adds up the convolution's groups over the other
        axes too (in JAX 0.10.2 and 0.12.0.1): dw would be as many times itself.
        """
        windows, (kh, kw), r = self.windows, self.windows.size, self.groups
        x, c, o = windows.pad(x), x.shape[3] // r, g.shape[3] // r
        g = g.reshape(*g.shape[:3], r, o)

        def pixel(k: jax.Array) -> jax.Array:
            rows = windows.cut(x, 0, k // np.int32(kw), 1)
            plane = windows.cut(rows, 1, k % np.int32(kw), 2)
            plane = plane.reshape(*plane.shape[:3], r, c)
            return contract(
                "nijrc,nijro->cro", plane, g, dtype=accumulator(g), precision=self.precision
            )

        dw: jax.Array = lax.map(pixel, lax.iota(np.int32, kh * kw))
        return dw.reshape(kh, kw, c, r * o)


def _whole_pixels(w: jax.Array) -> jax.Array:
    """A kernel of which no device holds a part of the pixels: of such XLA has wrong numbers."""
    return gathered(w, {0: 1, 1: 1})


@dataclasses.dataclass(frozen=True)
class Unfold:
    """By patches and matrix products: w is a matrix (K, c_out).

    With `apart` pixels and channels are two axes: no axis made of both could be cut over devices by
    channels.
    """

    windows: Windows
    groups: int
    precision: Precision
    apart: bool = False

    def to_y(self, x: jax.Array, w: jax.Array, dtype: Any) -> jax.Array:
        """x, w -> y, in this dtype."""
        p, k, (_, _, c, o), groups = self._patches(x), self.windows.pixels, w.shape, self.groups
        product = partial(contract, dtype=dtype, precision=self.precision)
        if groups == 1 and self.apart:
            return product("nijkc,kco->nijo", p, w.reshape(k, c, o))
        if groups == 1:
            return product("nijk,ko->nijo", p, w.reshape(k * c, o))
        n, ho, wo = p.shape[:3]
        p, w = p.reshape(n, ho, wo, k, groups, c), w.reshape(k, c, groups, o // groups)
        return product("nijkrc,kcro->nijro", p, w).reshape(n, ho, wo, o)

    def to_x(self, w: jax.Array, g: jax.Array) -> jax.Array:
        """w, g -> dx, in the wide dtype."""
        k, (n, ho, wo, _), (_, _, c, o) = self.windows.pixels, g.shape, w.shape
        groups, apart = self.groups, self.apart
        product = partial(contract, dtype=accumulator(g), precision=self.precision)
        if groups == 1 and apart:
            dp = product("nijo,kco->nijkc", g, w.reshape(k, c, o))
        elif groups == 1:
            dp = product("nijo,ko->nijk", g, w.reshape(k * c, o))
        else:
            g, w = g.reshape(n, ho, wo, groups, o // groups), w.reshape(k, c, groups, o // groups)
            dp = product("nijro,kcro->nijkrc", g, w)
            dp = dp.reshape(n, ho, wo, *((k, groups * c) if apart else (k * groups * c,)))
        return sum_patches(dp, self.windows)

    def to_w(self, x: jax.Array, g: jax.Array) -> jax.Array:
        """x, g -> dw, in the wide dtype."""
        p, k, (n, ho, wo, o), groups = self._patches(x), self.windows.pixels, g.shape, self.groups
        c, wide = x.shape[3] // groups, accumulator(g)
        product = partial(contract, dtype=wide, precision=self.precision)
        if groups == 1 and self.apart:
            dw = product("nijkc,nijo->kco", p, g)
        elif groups == 1 and g.dtype == wide:
            # (gᵀ p)ᵀ, as autodiff has it: XLA for CPUs holds less than for pᵀ g
            positions = ((0, 1, 2), (0, 1, 2)), ((), ())
            dw = lax.dot_general(g, p, positions, precision=self.precision).T
        elif groups == 1:
            dw = product("nijk,nijo->ko", p, g)
        else:
            p, g = p.reshape(n, ho, wo, k, groups, c), g.reshape(n, ho, wo, groups, o // groups)
            dw = product("nijkrc,nijro->kcro", p, g)
        return dw.reshape(*self.windows.size, c, o)

    def _patches(self, x: jax.Array) -> jax.Array:
        return patches(x, self.windows, apart=self.apart)
