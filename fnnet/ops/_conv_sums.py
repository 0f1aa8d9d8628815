"""The sums of a convolutional layer's two forms, which `_conv.py` derives.

direct : to_y, to_x, to_w, by XLA's convolutions
unfold : unfold_to_y, unfold_to_x, unfold_to_w, by patches and matrix products

The letters are those of `_conv.py`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
from jax import lax
from jax.sharding import NamedSharding

from fnnet.ops._patches import patches, sum_patches
from fnnet.ops._windows import Windows
from fnnet.rules import accumulator, contract

_IMAGE = ("NHWC", "HWIO", "NHWC")
_TO_X = ("NHWC", "HWOI", "NHWC")
_TO_W = ("CHWN", "IHWO", "HWNC")  # images as channels, channels as images


def to_y(
    x: jax.Array,
    w: jax.Array,
    windows: Windows,
    groups: int,
    precision: Any,
    out: NamedSharding | None,
) -> jax.Array:
    """x (n, h, w, c_in), w -> y (n, ho, wo, c_out), in the wide dtype."""
    return lax.conv_general_dilated(
        x,
        w,
        windows.stride,
        windows.pads,
        rhs_dilation=windows.dilation,
        dimension_numbers=_IMAGE,
        feature_group_count=groups,
        precision=precision,
        preferred_element_type=accumulator(x, w),
        out_sharding=out,
    )


def to_x(w: jax.Array, g: jax.Array, windows: Windows, groups: int, precision: Any) -> jax.Array:
    """w, g (n, ho, wo, c_out) -> dx."""
    whole = g
    g, pads = windows.turned_round(g)
    if not all(g.shape[1:3]):
        return lax.full_like(g, 0, shape=(g.shape[0], *windows.image, w.shape[2] * groups))
    for a in (0, 1):
        doubled = windows.size[a] == windows.stride[a] == 2 and windows.dilation[a] == 1
        if doubled and pads[a] == (0, 0) and windows.size[1 - a] > g.shape[2 - a]:
            # XLA (in JAX 0.10.2 and 0.12.0.1) takes such an axis for groups, and exchanges image
            # and kernel along the other axis alone, which aborts the process
            return unfold_to_x(w, whole, windows, groups, precision)
    kh, kw, c, o = w.shape
    if groups > 1:  # c and o are exchanged within each group
        w = w.reshape(kh, kw, c, groups, o // groups)
        w = w.swapaxes(2, 3).reshape(kh, kw, groups * c, o // groups)
    return lax.conv_general_dilated(
        g,
        lax.rev(w, (0, 1)),
        (1, 1),
        pads,
        lhs_dilation=windows.stride,
        rhs_dilation=windows.dilation,
        dimension_numbers=_TO_X,
        feature_group_count=groups,
        precision=precision,
        preferred_element_type=accumulator(g),
    )


def to_w(x: jax.Array, g: jax.Array, windows: Windows, groups: int, precision: Any) -> jax.Array:
    """x, g -> dw."""
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
            return lax.full_like(x, 0, shape=(*windows.size, x.shape[3] // groups, g.shape[3]))
        x = x[:, : stop[0], : stop[1]]
    return lax.conv_general_dilated(
        x,
        g,
        windows.dilation,
        pads,
        rhs_dilation=windows.stride,
        dimension_numbers=_TO_W,
        batch_group_count=groups,
        precision=precision,
        preferred_element_type=accumulator(g),
    )


def unfold_to_y(
    x: jax.Array,
    w: jax.Array,
    windows: Windows,
    groups: int,
    precision: Any,
    *,
    dtype: Any,
    apart: bool = False,
) -> jax.Array:
    """x, w -> y, where w (kh, kw, c_in/groups, c_out) is a matrix (K, c_out).

    With `apart`, here and below, pixels and channels are two axes: no axis made of both could be
    cut over devices by channels.
    """
    p, k, (_, _, c, o) = patches(x, windows, apart=apart), windows.pixels, w.shape
    product = partial(contract, dtype=dtype, precision=precision)
    if groups == 1 and apart:
        return product("nijkc,kco->nijo", p, w.reshape(k, c, o))
    if groups == 1:
        return product("nijk,ko->nijo", p, w.reshape(k * c, o))
    n, ho, wo = p.shape[:3]
    p, w = p.reshape(n, ho, wo, k, groups, c), w.reshape(k, c, groups, o // groups)
    return product("nijkrc,kcro->nijro", p, w).reshape(n, ho, wo, o)


def unfold_to_x(
    w: jax.Array,
    g: jax.Array,
    windows: Windows,
    groups: int,
    precision: Any,
    *,
    apart: bool = False,
) -> jax.Array:
    """w, g -> dx."""
    k, (n, ho, wo, _), (_, _, c, o) = windows.pixels, g.shape, w.shape
    product = partial(contract, dtype=accumulator(g), precision=precision)
    if groups == 1 and apart:
        dp = product("nijo,kco->nijkc", g, w.reshape(k, c, o))
    elif groups == 1:
        dp = product("nijo,ko->nijk", g, w.reshape(k * c, o))
    else:
        g, w = g.reshape(n, ho, wo, groups, o // groups), w.reshape(k, c, groups, o // groups)
        dp = product("nijro,kcro->nijkrc", g, w)
        dp = dp.reshape(n, ho, wo, *((k, groups * c) if apart else (k * groups * c,)))
    return sum_patches(dp, windows)


def unfold_to_w(
    x: jax.Array,
    g: jax.Array,
    windows: Windows,
    groups: int,
    precision: Any,
    *,
    apart: bool = False,
) -> jax.Array:
    """x, g -> dw."""
    p, k, (n, ho, wo, o) = patches(x, windows, apart=apart), windows.pixels, g.shape
    c, wide = x.shape[3] // groups, accumulator(g)
    product = partial(contract, dtype=wide, precision=precision)
    if groups == 1 and apart:
        dw = product("nijkc,nijo->kco", p, g)
    elif groups == 1 and g.dtype == wide:
        # (gᵀ p)ᵀ, as autodiff has it: XLA for CPUs holds less than for pᵀ g
        positions = ((0, 1, 2), (0, 1, 2)), ((), ())
        dw = lax.dot_general(g, p, positions, precision=precision).T
    elif groups == 1:
        dw = product("nijk,nijo->ko", p, g)
    else:
        p, g = p.reshape(n, ho, wo, k, groups, c), g.reshape(n, ho, wo, groups, o // groups)
        dw = product("nijkrc,nijro->kcro", p, g)
    return dw.reshape(*windows.size, c, o)
