"""Rows of the table: unfold, fold, conv2d, max_pool, avg_pool."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P

import fnnet
from fnnet.proof import reference as twin
from tests.call import Call

_IMAGE = ("NHWC", "HWIO", "NHWC")


def _pair(n: Any) -> tuple[int, int]:
    return (n, n) if isinstance(n, int) else tuple(n)


def _pads(padding: Any) -> Any:
    return [(padding, padding)] * 2 if isinstance(padding, int) else padding


def _unfold(x: Any, size: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1) -> Any:
    """Each window of the padded image, one after another."""
    (kh, kw), (sh, sw), (dh, dw) = map(_pair, (size, stride, dilation))
    x = jnp.pad(x, [(0, 0), *_pads(padding), (0, 0)])
    n, h, w, c = x.shape
    windows = [
        [
            x[:, i : i + dh * (kh - 1) + 1 : dh, j : j + dw * (kw - 1) + 1 : dw]
            for j in range(0, w - dw * (kw - 1), sw)
        ]
        for i in range(0, h - dh * (kh - 1), sh)
    ]
    rows = [jnp.stack([w.reshape(n, kh * kw * c) for w in row], 1) for row in windows]
    return jnp.stack(rows, 1)


def _fold(p: Any, shape: Any, size: Any, stride: int = 1, padding: int = 0) -> Any:
    """Each patch put onto an empty image, and the sum of those."""
    (_, h, w, c), (kh, kw) = shape, _pair(size)
    n, ho, wo, _ = p.shape
    x = 0
    for i in range(ho):
        for j in range(wo):
            top, left = i * stride - padding, j * stride - padding
            patch = p[:, i, j].reshape(n, kh, kw * c).reshape(n, kh, kw, c)
            around = ((0, 0, 0), (top, h - top - kh, 0), (left, w - left - kw, 0), (0, 0, 0))
            x += lax.pad(patch, np.zeros((), p.dtype), around)
    return x


def _folded(f: Any) -> Callable[..., Any]:
    """`fold` as a function of patches alone: onto images that windows just cover."""
    kh, kw = _pair(f.keywords["size"])
    step, around = f.keywords.get("stride", 1), 2 * f.keywords.get("padding", 0)

    def of_patches(p: Any) -> Any:
        n, ho, wo, k = p.shape
        sides = [(count - 1) * step + side - around for count, side in ((ho, kh), (wo, kw))]
        return f(p, (n, *sides, k // (kh * kw)))

    return of_patches


def _conv2d(
    x: Any,
    w: Any,
    b: Any = None,
    stride: Any = 1,
    padding: Any = "SAME",
    dilation: Any = 1,
    groups: int = 1,
    form: str = "direct",
) -> Any:
    if form == "unfold":
        (kh, kw, c, o), (dh, dw) = w.shape, _pair(dilation)
        if isinstance(padding, str):
            reach = (dh * (kh - 1) + 1, dw * (kw - 1) + 1)
            padding = lax.padtype_to_pads(x.shape[1:3], reach, _pair(stride), padding)
        p = _unfold(x, (kh, kw), stride, padding, dilation)
        n, ho, wo, _ = p.shape
        p = p.reshape(n, ho, wo, kh * kw, groups, c)
        w = w.reshape(kh * kw, c, groups, o // groups)
        y = jnp.einsum("nijkrc,kcro->nijro", p, w).reshape(n, ho, wo, o)
        return y if b is None else y + jnp.broadcast_to(b, y.shape)
    y = lax.conv_general_dilated(
        x,
        w,
        _pair(stride),
        _pads(padding),
        rhs_dilation=_pair(dilation),
        dimension_numbers=_IMAGE,
        feature_group_count=groups,
    )
    return y if b is None else y + jnp.broadcast_to(b, y.shape)


def _max_pool(x: Any, size: Any, stride: Any = None, padding: Any = "VALID") -> Any:
    stride = size if stride is None else stride
    if not isinstance(padding, str):
        padding = [(0, 0), *_pads(padding), (0, 0)]
    window, step = (1, *_pair(size), 1), (1, *_pair(stride), 1)
    return lax.reduce_window(x, -np.inf, lax.max, window, step, padding)


def _avg_pool(
    x: Any, size: Any, stride: Any = None, padding: Any = "VALID", count_include_pad: bool = True
) -> Any:
    stride = size if stride is None else stride
    if not isinstance(padding, str):
        padding = [(0, 0), *_pads(padding), (0, 0)]
    window, step = (1, *_pair(size), 1), (1, *_pair(stride), 1)

    def total(x: Any) -> Any:
        return lax.reduce_window(x, 0.0, lax.add, window, step, padding)

    kh, kw = _pair(size)
    return total(x) / (kh * kw if count_include_pad else total(jnp.ones_like(x)))


def _of_a_layer(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f` of another layer's result, as in a net: what it keeps of that result counts as stored."""
    return lambda x: f(jnp.negative(-x))


_PADDING = "padding, which XLA's convolution leaves out, gives 0 · inf"

ROWS = [
    Call(
        "unfold",
        fnnet.unfold,
        _unfold,
        shapes=[(4, 5, 4, 2)],
        batch=[0],
        layouts=[(P("d"),)],
        big=[(8, 16, 16, 8)],
        terms=9,
        options={"size": (3, 2)},
        twin=lambda x, g: twin.unfold_vjp(x, (3, 2), g),
    ),
    Call(
        "unfold, strided, padded, dilated",
        fnnet.unfold,
        _unfold,
        shapes=[(2, 6, 5, 2)],
        batch=[0],
        big=[(8, 16, 16, 8)],
        terms=9,
        options={"size": 3, "stride": (2, 1), "padding": ((1, 2), (0, 3)), "dilation": (1, 2)},
        twin=lambda x, g: twin.unfold_vjp(
            x, 3, g, stride=(2, 1), padding=((1, 2), (0, 3)), dilation=(1, 2)
        ),
        variant=True,
    ),
    Call(
        "unfold, side by side",
        fnnet.unfold,
        _unfold,
        shapes=[(2, 5, 6, 2)],
        batch=[0],
        layouts=[(P("d"),)],
        big=[(8, 16, 16, 8)],
        terms=1,
        options={"size": 2, "stride": 2, "padding": ((0, 1), (2, 0))},
        twin=lambda x, g: twin.unfold_vjp(x, 2, g, stride=2, padding=((0, 1), (2, 0))),
        variant=True,
    ),
    Call(
        "unfold, large windows",
        fnnet.unfold,
        _unfold,
        shapes=[(2, 8, 7, 2)],
        batch=[0],
        big=[(4, 16, 16, 4)],
        terms=30,
        options={"size": (6, 5), "stride": (2, 1), "padding": ((1, 0), (0, 2))},
        twin=lambda x, g: twin.unfold_vjp(x, (6, 5), g, stride=(2, 1), padding=((1, 0), (0, 2))),
        variant=True,
    ),
    Call(
        "fold",
        fnnet.fold,
        _fold,
        adapt=_folded,
        shapes=[(4, 3, 3, 12)],
        batch=[0],
        layouts=[(P("d"),)],
        big=[(8, 14, 14, 48)],
        terms=9,
        options={"size": (3, 2)},
        twin=lambda p, g: twin.fold_vjp(p, (4, 5, 4, 2), (3, 2), g),
    ),
    Call(
        "fold, strided and padded",
        fnnet.fold,
        _fold,
        adapt=_folded,
        shapes=[(2, 3, 3, 18)],
        batch=[0],
        big=[(8, 8, 8, 72)],
        terms=9,
        options={"size": 3, "stride": 2, "padding": 1},
        twin=lambda p, g: twin.fold_vjp(p, (2, 5, 5, 2), 3, g, stride=2, padding=1),
        variant=True,
    ),
    Call(
        "fold, large windows",
        fnnet.fold,
        _fold,
        adapt=_folded,
        shapes=[(2, 2, 3, 60)],
        batch=[0],
        big=[(4, 8, 8, 120)],
        terms=30,
        options={"size": (6, 5), "stride": 2, "padding": 1},
        twin=lambda p, g: twin.fold_vjp(p, (2, 6, 7, 2), (6, 5), g, stride=2, padding=1),
        variant=True,
    ),
    Call(
        "fold, side by side",
        fnnet.fold,
        _fold,
        adapt=_folded,
        shapes=[(2, 2, 3, 8)],
        batch=[0],
        layouts=[(P("d"),)],
        big=[(8, 8, 8, 32)],
        terms=1,
        options={"size": 2, "stride": 2},
        twin=lambda p, g: twin.fold_vjp(p, (2, 4, 6, 2), 2, g, stride=2),
        variant=True,
    ),
    Call(
        "conv2d",
        fnnet.conv2d,
        _conv2d,
        shapes=[(4, 5, 4, 2), (3, 2, 2, 3), (3,)],
        batch=[0, None, None],
        big=[(8, 16, 16, 8), (3, 3, 8, 16), (16,)],
        terms=128,
        majorant=_conv2d,
        twin=twin.conv2d_vjp,
    ),
    Call(
        "conv2d by unfold",
        fnnet.conv2d,
        _conv2d,
        shapes=[(4, 5, 4, 2), (3, 2, 2, 3), (3,)],
        batch=[0, None, None],
        layouts=[(P("d"), P(), P())],
        big=[(8, 16, 16, 8), (3, 3, 8, 16), (16,)],
        terms=128,
        options={"form": "unfold"},
        majorant=_conv2d,
        twin=twin.conv2d_vjp,
        variant=True,
        excuses={
            "test_nan_and_inf": _PADDING,
        },
    ),
    *(
        Call(
            f"conv2d, {form}, {name}",
            fnnet.conv2d,
            _conv2d,
            shapes=shapes,
            batch=[0, None],
            big=[(4, 16, 16, 8), (3, 3, 8 // options.get("groups", 1), 16)],
            terms=128,
            options={"form": form, **options},
            majorant=partial(_conv2d, **options),
            twin=lambda x, w, g, options=options: twin.conv2d_vjp(x, w, None, g, **options)[:2],
            variant=True,
            excuses={} if form == "direct" else {"test_nan_and_inf": _PADDING},
        )
        for form in ("direct", "unfold")
        for name, shapes, options in (
            (
                "strided, padded, dilated",
                [(2, 6, 5, 2), (2, 3, 2, 3)],
                {"stride": (2, 1), "padding": ((1, 0), (2, 1)), "dilation": (1, 2)},
            ),
            ("grouped", [(2, 4, 4, 4), (2, 2, 2, 6)], {"groups": 2, "padding": "VALID"}),
        )
    ),
    Call(
        "max_pool",
        fnnet.max_pool,
        _max_pool,
        adapt=_of_a_layer,
        shapes=[(4, 4, 6, 2)],
        batch=[0],
        layouts=[(P("d"),), (P("d", None, None, "m"),)],
        big=[(8, 16, 16, 8)],
        terms=4,
        options={"size": 2},
        twin=lambda x, g: twin.max_pool_vjp(x, 2, g),
    ),
    Call(
        "max_pool, overlapping and padded",
        fnnet.max_pool,
        _max_pool,
        adapt=_of_a_layer,
        shapes=[(2, 5, 6, 2)],
        batch=[0],
        layouts=[(P("d"),), (P("d", None, None, "m"),)],
        big=[(8, 16, 16, 8)],
        terms=9,
        options={"size": (3, 2), "stride": (2, 1), "padding": "SAME"},
        twin=lambda x, g: twin.max_pool_vjp(x, (3, 2), g, stride=(2, 1), padding="SAME"),
        variant=True,
    ),
    Call(
        "max_pool, large windows side by side",
        fnnet.max_pool,
        _max_pool,
        adapt=_of_a_layer,
        shapes=[(2, 11, 10, 2)],
        batch=[0],
        layouts=[(P("d"),), (P("d", None, None, "m"),)],
        big=[(8, 20, 20, 8)],
        terms=4,
        options={"size": 5, "padding": ((0, 1), (2, 4))},
        twin=lambda x, g: twin.max_pool_vjp(x, 5, g, padding=((0, 1), (2, 4))),
        variant=True,
    ),
    Call(
        "max_pool, large windows that overlap",
        fnnet.max_pool,
        _max_pool,
        adapt=_of_a_layer,
        shapes=[(2, 8, 6, 2)],
        batch=[0],
        layouts=[(P("d"),), (P("d", None, None, "m"),)],
        big=[(4, 16, 16, 4)],
        terms=12,
        options={"size": (5, 4), "stride": (2, 1), "padding": "SAME"},
        twin=lambda x, g: twin.max_pool_vjp(x, (5, 4), g, stride=(2, 1), padding="SAME"),
        variant=True,
    ),
    Call(
        "avg_pool",
        fnnet.avg_pool,
        _avg_pool,
        shapes=[(4, 4, 6, 2)],
        batch=[0],
        layouts=[(P("d"),), (P("d", None, None, "m"),)],
        big=[(8, 16, 16, 8)],
        terms=8,
        options={"size": 2},
        twin=lambda x, g: twin.avg_pool_vjp(x, 2, g),
    ),
    Call(
        "avg_pool, overlapping and padded",
        fnnet.avg_pool,
        _avg_pool,
        shapes=[(2, 5, 6, 2)],
        batch=[0],
        layouts=[(P("d"),), (P("d", None, None, "m"),)],
        big=[(8, 16, 16, 8)],
        terms=16,
        options={"size": 3, "stride": (1, 2), "padding": 1, "count_include_pad": False},
        twin=lambda x, g: twin.avg_pool_vjp(
            x, 3, g, stride=(1, 2), padding=1, count_include_pad=False
        ),
        variant=True,
    ),
]
