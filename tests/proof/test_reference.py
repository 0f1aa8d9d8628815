"""The NumPy twins against JAX's own derivatives of plain formulas, in float64, elementwise."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fnnet.proof import reference
from tests.compare import assert_close

PROOF = Path(reference.__file__).parent


# The formulas: jax.numpy and lax alone, nothing of fnnet.


def along_rows(v: Any, like: Any) -> Any:
    return jnp.broadcast_to(v, like.shape)


def lin(x: Any, w: Any, b: Any = None) -> Any:
    y = x @ w
    return y if b is None else y + along_rows(b, y)


def mse(pred: Any, targ: Any) -> Any:
    return jnp.mean((pred.reshape(targ.shape) - targ) ** 2)


def cross_entropy(
    logits: Any,
    labels: Any,
    *,
    smoothing: float = 0.0,
    z_loss: float = 0.0,
    weights: Any = None,
    class_weights: Any = None,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Any:
    v = logits.shape[-1]
    of_class = 1 if class_weights is None else class_weights[jnp.clip(labels, 0, v - 1)]
    if labels.ndim < logits.ndim:
        keep = jnp.ones(labels.shape) if ignore_index is None else labels != ignore_index
        labels = jax.nn.one_hot(labels, v, dtype=logits.dtype)
    else:
        keep = jnp.ones(logits.shape[:-1])
    q = (1 - smoothing) * labels + smoothing / v
    lse = jax.nn.logsumexp(logits, axis=-1)
    loss = -jnp.sum(q * jax.nn.log_softmax(logits), axis=-1) + z_loss * lse**2
    w = keep.astype(logits.dtype) * of_class
    if weights is not None:
        w = w * jnp.broadcast_to(weights, w.shape)
    if reduction == "none":
        return w * loss
    return jnp.sum(w * loss) / (jnp.sum(w) if reduction == "mean" else 1)


def linear_cross_entropy(
    x: Any, w: Any, labels: Any, b: Any = None, *, softcap: float | None = None, **options: Any
) -> Any:
    z = lin(x, w, b)
    return cross_entropy(
        z if softcap is None else softcap * jnp.tanh(z / softcap), labels, **options
    )


def pair(n: Any) -> tuple[int, int]:
    return (n, n) if isinstance(n, int) else tuple(n)


def pads(padding: Any) -> Any:
    return [(padding, padding)] * 2 if isinstance(padding, int) else padding


def unfold(x: Any, size: Any, *, stride: Any = 1, padding: Any = "VALID", dilation: Any = 1) -> Any:
    c = x.shape[3]
    p = lax.conv_general_dilated_patches(
        x,
        pair(size),
        pair(stride),
        pads(padding),
        rhs_dilation=pair(dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    # lax has the channel first among the last axis, fnnet has it last
    p = p.reshape(*p.shape[:3], c, -1)
    return jnp.swapaxes(p, 3, 4).reshape(*p.shape[:3], -1)


def fold(p: Any, shape: Any, size: Any, **options: Any) -> Any:
    return jax.linear_transpose(
        lambda x: unfold(x, size, **options), jax.ShapeDtypeStruct(shape, p.dtype)
    )(p)[0]


def conv2d(
    x: Any,
    w: Any,
    b: Any = None,
    *,
    stride: Any = 1,
    padding: Any = "SAME",
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    y = lax.conv_general_dilated(
        x,
        w,
        pair(stride),
        pads(padding),
        rhs_dilation=pair(dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    return y if b is None else y + along_rows(b, y)


def windows(
    x: Any, start: float, op: Any, size: Any, stride: Any = None, padding: Any = "VALID"
) -> Any:
    step = pair(size if stride is None else stride)
    around = padding if isinstance(padding, str) else [(0, 0), *pads(padding), (0, 0)]
    return lax.reduce_window(x, start, op, (1, *pair(size), 1), (1, *step, 1), around)


def max_pool(x: Any, size: Any, **options: Any) -> Any:
    return windows(x, -jnp.inf, lax.max, size, **options)


def avg_pool(x: Any, size: Any, *, count_include_pad: bool = True, **options: Any) -> Any:
    ones = jnp.ones_like(x)
    count = (
        pair(size)[0] * pair(size)[1]
        if count_include_pad
        else windows(ones, 0.0, lax.add, size, **options)
    )
    return windows(x, 0.0, lax.add, size, **options) / count


def layer_norm(x: Any, scale: Any = None, shift: Any = None, *, eps: float = 1e-5) -> Any:
    c = x - jnp.mean(x, axis=-1, keepdims=True)
    y = c / jnp.sqrt(jnp.var(x, axis=-1, keepdims=True) + eps)
    y = y if scale is None else y * along_rows(scale, y)
    return y if shift is None else y + along_rows(shift, y)


def rms_norm(x: Any, scale: Any = None, *, eps: float = 1e-6) -> Any:
    y = x * lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + eps)
    return y if scale is None else y * along_rows(scale, y)


def batch_norm(
    x: Any, scale: Any = None, shift: Any = None, *, axis: int = -1, eps: float = 1e-5
) -> Any:
    others = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
    c = x - jnp.mean(x, axis=others, keepdims=True)
    y = jnp.moveaxis(c / jnp.sqrt(jnp.var(x, axis=others, keepdims=True) + eps), axis, -1)
    y = y if scale is None else y * along_rows(scale, y)
    return jnp.moveaxis(y if shift is None else y + along_rows(shift, y), -1, axis)


def group_norm(
    x: Any, groups: int, scale: Any = None, shift: Any = None, *, eps: float = 1e-5
) -> Any:
    z = x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
    c = z - jnp.mean(z, axis=(1, 3), keepdims=True)
    y = (c / jnp.sqrt(jnp.var(z, axis=(1, 3), keepdims=True) + eps)).reshape(x.shape)
    y = y if scale is None else y * along_rows(scale, y)
    return y if shift is None else y + along_rows(shift, y)


def norm(x: Any, ord: Any = 2, axis: Any = None, *, keepdims: bool = False) -> Any:
    if ord == np.inf:
        return jnp.max(jnp.abs(x), axis=axis, keepdims=keepdims)
    return jnp.sum(jnp.abs(x) ** ord, axis=axis, keepdims=keepdims) ** (1 / ord)


def pairwise_distance(p: Any, q: Any = None, *, ord: Any = 2) -> Any:
    x = p[..., :, None, :] - (p if q is None else q)[..., None, :, :]
    if ord == 1:
        return jnp.sum(x * jnp.sign(x), axis=-1)
    squares = jnp.sum(x**2, axis=-1)
    if ord == "sq":
        return squares
    return jnp.where(squares == 0, 0.0, jnp.sqrt(jnp.where(squares == 0, 1.0, squares)))


def kernel_sum(
    p: Any, q: Any = None, w: Any = None, *, kernel: str = "gaussian", scale: Any = 1.0
) -> Any:
    r = pairwise_distance(p, q) / scale
    f = {
        "gaussian": jnp.exp(-(r**2) / 2),
        "laplacian": jnp.exp(-r),
        "rq": 1 / (1 + r**2 / 2),
    }[kernel]
    return jnp.sum(f if w is None else f * along_rows(w[..., None, :], f), axis=-1)


def glu_mlp(x: Any, w_gate: Any, w_up: Any, w_down: Any, *, activation: str = "silu") -> Any:
    act = {
        "silu": jax.nn.silu,
        "gelu": lambda a: jax.nn.gelu(a, approximate=False),
        "gelu_tanh": jax.nn.gelu,
        "relu": jax.nn.relu,
    }[activation]
    return (act(x @ w_gate) * (x @ w_up)) @ w_down


def rnn(x: Any, h0: Any, wx: Any, wh: Any, b: Any) -> Any:
    def step(h: Any, x_t: Any) -> Any:
        h = jnp.tanh(x_t @ wx + h @ wh + along_rows(b, h))
        return h, h

    return lax.scan(step, h0, x)[1]


def gru(x: Any, h0: Any, wx: Any, wh: Any, b: Any) -> Any:
    n = h0.shape[-1]

    def step(h: Any, x_t: Any) -> Any:
        a, u = x_t @ wx + along_rows(b, x_t @ wx), h @ wh
        r = jax.nn.sigmoid((a + u)[..., :n])
        z = jax.nn.sigmoid((a + u)[..., n : 2 * n])
        new = jnp.tanh(a[..., 2 * n :] + r * u[..., 2 * n :])
        h = z * h + (1 - z) * new
        return h, h

    return lax.scan(step, h0, x)[1]


def attention(
    q: Any, k: Any, v: Any, *, causal: bool = False, mask: Any = None, scale: Any = None
) -> Any:
    group, (t, s) = q.shape[-2] // k.shape[-2], (q.shape[-3], k.shape[-3])
    k, v = jnp.repeat(k, group, axis=-2), jnp.repeat(v, group, axis=-2)
    z = jnp.einsum("...thd,...shd->...hts", q, k)
    z = z * (q.shape[-1] ** -0.5 if scale is None else scale)
    seen = jnp.ones((t, s), bool) if mask is None else mask
    if causal:
        seen = jnp.broadcast_to(seen, z.shape) & jnp.broadcast_to(
            jnp.tril(jnp.ones((t, s), bool)), z.shape
        )
    seen = jnp.broadcast_to(seen, z.shape)
    some = jnp.any(seen, axis=-1, keepdims=True)
    p = jax.nn.softmax(jnp.where(seen | ~some, z, -jnp.inf))
    return jnp.einsum("...hts,...shd->...thd", jnp.where(some, p, 0.0), v)


def rope(x: Any, positions: Any, *, base: float = 10000.0, interleaved: bool = False) -> Any:
    """By complex numbers."""
    half = x.shape[-1] // 2
    at = jnp.broadcast_to(positions, x.shape[:-2]).astype(float)
    angles = jnp.einsum("...t,i->...ti", at, base ** (-jnp.arange(half) / half))[..., None, :]
    if interleaved:
        pairs = x.reshape(*x.shape[:-1], half, 2)
    else:
        pairs = jnp.moveaxis(x.reshape(*x.shape[:-1], 2, half), -2, -1)
    z = lax.complex(pairs[..., 0], pairs[..., 1]) * lax.complex(jnp.cos(angles), jnp.sin(angles))
    return jnp.stack([z.real, z.imag], -1 if interleaved else -2).reshape(x.shape)


FORMULAS: dict[str, Any] = {
    "matmul": jnp.matmul,
    "lin": lin,
    "relu": jax.nn.relu,
    "mse": mse,
    "softmax": jax.nn.softmax,
    "log_softmax": jax.nn.log_softmax,
    "cross_entropy": cross_entropy,
    "linear_cross_entropy": linear_cross_entropy,
    "unfold": unfold,
    "fold": fold,
    "conv2d": conv2d,
    "max_pool": max_pool,
    "avg_pool": avg_pool,
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "batch_norm": batch_norm,
    "group_norm": group_norm,
    "norm": norm,
    "pairwise_distance": pairwise_distance,
    "kernel_sum": kernel_sum,
    "gelu": lambda x, *, approximate=False: jax.nn.gelu(x, approximate=approximate),
    "silu": jax.nn.silu,
    "glu_mlp": glu_mlp,
    "rnn": rnn,
    "gru": gru,
    "attention": attention,
    "rope": rope,
}


class A(tuple[int, ...]):
    """The shape of an array to draw; any other value is an argument as it stands."""

    def __new__(cls, *shape: int) -> A:
        return super().__new__(cls, shape)


SAME, POOLS = (
    {"padding": "SAME"},
    [
        (A(2, 4, 6, 3), 2, {}),
        (A(1, 5, 7, 2), 2, {}),
        (A(1, 5, 5, 2), 3, {"stride": 2}),
        (A(2, 6, 5, 1), (3, 2), {"stride": 1}),
        (A(1, 5, 6, 2), (2, 3), {"stride": (1, 2), "padding": "SAME"}),
        (A(1, 5, 6, 2), 3, {"stride": 2, "padding": 1}),
        (A(1, 4, 4, 1), 2, {"stride": 1, "padding": ((0, 1), (1, 0))}),
    ],
)
PATCHES = [
    (A(1, 4, 4, 1), 2, {}),
    (A(2, 5, 6, 3), (3, 2), {"stride": (2, 1)}),
    (A(1, 5, 5, 2), 3, {"padding": "SAME", "stride": 2}),
    (A(1, 4, 6, 2), 2, {"padding": ((1, 0), (2, 1))}),
    (A(1, 6, 7, 2), (2, 3), {"dilation": (2, 3), "padding": 1}),
    (A(1, 6, 6, 1), 2, {"stride": 3}),  # pixels that no window covers
]
SMOOTH = {"smoothing": 0.1, "z_loss": 1e-2}
LABELS = np.array([2, 0, 4, 1, 1, 3])
SOME = np.array([2, -100, 4, -100, 1, 3])
MASK = np.array([[True, False, True, True], [False] * 4, [True, True, False, False]])

ROWS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("matmul", (A(3, 4), A(4, 5)), {}),
    ("matmul", (A(2, 3, 4), A(2, 4, 5)), {}),
    ("matmul", (A(2, 1, 3, 4), A(2, 5, 4, 1)), {}),
    ("matmul", (A(4), A(4)), {}),
    ("matmul", (A(3, 4), A(4)), {}),
    ("matmul", (A(4), A(2, 4, 3)), {}),
    ("lin", (A(6, 4), A(4, 3), A(3)), {}),
    ("lin", (A(6, 4), A(4, 3), None), {}),
    ("lin", (A(4), A(4, 3), A(3)), {}),
    ("lin", (A(2, 3, 4), A(4, 1), A(1)), {}),
    ("relu", (A(7),), {}),
    ("relu", (A(2, 3, 4),), {}),
    ("relu", (A(),), {}),
    ("mse", (A(6), A(6)), {}),
    ("mse", (A(6, 1), A(6)), {}),
    ("mse", (A(2, 3, 1), A(2, 3)), {}),
    ("mse", (A(3, 1), A(3, 1)), {}),
    ("softmax", (A(5),), {}),
    ("softmax", (A(3, 5),), {}),
    ("softmax", (A(3, 5, 2),), {"axis": 1}),
    ("log_softmax", (A(3, 5),), {}),
    ("log_softmax", (A(3, 5, 2),), {"axis": 0}),
    *(
        ("cross_entropy", (A(6, 5), labels), {**options, "reduction": reduction})
        for labels in (LABELS, "distributions")
        for options in ({}, SMOOTH, {"weights": A(6)}, {**SMOOTH, "weights": A(6)})
        for reduction in ("mean", "sum", "none")
    ),
    ("cross_entropy", (A(5), np.array(3)), SMOOTH),
    ("cross_entropy", (A(6, 5), LABELS), {"weights": A(1), "reduction": "sum"}),
    ("cross_entropy", (A(2, 3, 5), LABELS.reshape(2, 3)), {"weights": A(3)}),
    *(
        ("cross_entropy", (A(6, 5), SOME), {**o, "ignore_index": -100, "reduction": reduction})
        for o in ({}, {**SMOOTH, "weights": A(6)})
        for reduction in ("mean", "sum", "none")
    ),
    ("cross_entropy", (A(6, 5), LABELS), {"class_weights": A(5)}),
    (
        "cross_entropy",
        (A(2, 3, 5), SOME.reshape(2, 3)),
        {**SMOOTH, "weights": A(3), "class_weights": A(5), "ignore_index": -100},
    ),
    ("linear_cross_entropy", (A(6, 3), A(3, 5), LABELS, None), {}),
    ("linear_cross_entropy", (A(6, 3), A(3, 5), LABELS, A(5)), {"softcap": 1.5, **SMOOTH}),
    (
        "linear_cross_entropy",
        (A(2, 3, 4), A(4, 5), SOME.reshape(2, 3), A(5)),
        {"ignore_index": -100, "weights": A(2, 3), "reduction": "sum"},
    ),
    ("linear_cross_entropy", (A(6, 3), A(3, 5), "distributions", A(5)), {"reduction": "none"}),
    *(("unfold", (image, size), o) for image, size, o in PATCHES),
    *(("fold", (image, size), o) for image, size, o in PATCHES),
    ("conv2d", (A(2, 5, 6, 3), A(3, 2, 3, 4), A(4)), {}),
    ("conv2d", (A(2, 5, 6, 3), A(3, 2, 3, 4), None), {"padding": "VALID"}),
    ("conv2d", (A(1, 6, 5, 2), A(2, 3, 2, 3), A(3)), {"stride": (2, 3)}),
    ("conv2d", (A(1, 7, 7, 1), A(3, 3, 1, 2), A(2)), {"dilation": 2, "padding": 1}),
    ("conv2d", (A(1, 5, 5, 4), A(3, 3, 2, 6), A(6)), {"groups": 2, "stride": 2}),
    ("conv2d", (A(1, 5, 4, 3), A(2, 2, 1, 3), None), {"groups": 3, "padding": ((0, 2), (1, 0))}),
    *(("max_pool", (image, size), o) for image, size, o in POOLS),
    *(("avg_pool", (image, size), o) for image, size, o in POOLS),
    *(("avg_pool", (image, size), {**o, "count_include_pad": False}) for image, size, o in POOLS),
    ("layer_norm", (A(4, 6), A(6), A(6)), {}),
    ("layer_norm", (A(2, 3, 5), None, A(5)), {"eps": 1e-2}),
    ("layer_norm", (A(6), A(6), None), {}),
    ("rms_norm", (A(4, 6), A(6)), {}),
    ("rms_norm", (A(2, 3, 5), None), {"eps": 1e-2}),
    ("batch_norm", (A(6, 4), A(4), A(4)), {}),
    ("batch_norm", (A(2, 3, 5), A(3), None), {"axis": 1, "eps": 1e-2}),
    ("batch_norm", (A(2, 3, 2, 4), None, A(4)), {}),
    ("group_norm", (A(3, 6), 3, A(6), A(6)), {}),
    ("group_norm", (A(2, 3, 2, 4), 2, A(4), None), {"eps": 1e-2}),
    ("group_norm", (A(2, 5, 3), 1, None, A(3)), {}),
    *(
        ("norm", (A(2, 3, 4),), {"ord": ord, "axis": axis, "keepdims": keepdims})
        for ord in (1, 2, 3, 1.5, np.inf)
        for axis, keepdims in ((None, False), (1, False), ((0, -1), True))
    ),
    *(
        ("pairwise_distance", (p, q), {"ord": ord})
        for ord in (1, 2, "sq")
        for p, q in ((A(4, 3), A(5, 3)), (A(2, 4, 3), A(2, 1, 3)), (A(4, 2), None))
    ),
    *(
        ("kernel_sum", arguments, {"kernel": kernel, "scale": scale})
        for kernel in ("gaussian", "laplacian", "rq")
        for arguments, scale in (
            ((A(4, 3), A(5, 3), A(5)), 1.7),
            ((A(2, 4, 3), A(2, 1, 3), A(2, 1)), 1.0),
            ((A(4, 2), None, A(4)), 2.0),
            ((A(4, 2), A(3, 2), None), A()),
        )
    ),
    ("gelu", (A(50),), {}),
    ("gelu", (A(2, 3, 4),), {"approximate": True}),
    ("silu", (A(50),), {}),
    *(
        ("glu_mlp", (A(2, 5, 3), A(3, 4), A(3, 4), A(4, 6)), {"activation": activation})
        for activation in ("silu", "gelu", "gelu_tanh", "relu")
    ),
    ("rnn", (A(5, 2, 3), A(2, 4), A(3, 4), A(4, 4), A(4)), {}),
    ("rnn", (A(1, 1, 2), A(1, 1), A(2, 1), A(1, 1), A(1)), {}),
    ("gru", (A(5, 2, 3), A(2, 4), A(3, 12), A(4, 12), A(12)), {}),
    ("gru", (A(1, 1, 2), A(1, 1), A(2, 3), A(1, 3), A(3)), {}),
    ("attention", (A(2, 3, 2, 4), A(2, 5, 2, 4), A(2, 5, 2, 3)), {}),
    ("attention", (A(1, 4, 2, 3), A(1, 4, 2, 3), A(1, 4, 2, 3)), {"causal": True, "scale": 0.7}),
    ("attention", (A(1, 3, 4, 2), A(1, 4, 2, 2), A(1, 4, 2, 3)), {"mask": MASK}),
    ("attention", (A(1, 3, 6, 2), A(1, 4, 1, 2), A(1, 4, 1, 3)), {"mask": MASK, "causal": True}),
    ("attention", (A(1, 5, 1, 2), A(1, 3, 1, 2), A(1, 3, 1, 2)), {"causal": True}),
    ("attention", (A(3, 2, 2), A(4, 1, 2), A(4, 1, 3)), {"mask": MASK}),
    ("attention", (A(2, 3, 3, 2, 2), A(2, 3, 4, 2, 2), A(2, 3, 4, 2, 1)), {"scale": A()}),
    ("rope", (A(5, 2, 6), np.arange(5)), {}),
    ("rope", (A(2, 3, 2, 8), np.array([[0, 7, 2], [1, 9, 9]])), {"base": 50.0}),
    ("rope", (A(2, 3, 2, 4), A(2, 1)), {"interleaved": True}),
    ("rope", (A(2, 3, 1, 4), A(3)), {"base": 3.0}),
]


def draw(value: Any, random: np.random.Generator) -> Any:
    return random.normal(size=value) if isinstance(value, A) else value


def arguments(op: str, args: tuple[Any, ...], random: np.random.Generator) -> list[Any]:
    if op == "fold":  # patches of the image's shape, then the shape itself
        image, size = args[0], args[1]
        return [image, tuple(image), size]
    drawn = [draw(a, random) for a in args]
    if "distributions" in [a for a in args if isinstance(a, str)]:
        q = random.random((6, 5))
        drawn[[isinstance(a, str) for a in args].index(True)] = q / q.sum(axis=-1, keepdims=True)
    return drawn


def is_float(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.float64


@pytest.mark.parametrize(
    ("op", "args", "options"), ROWS, ids=[f"{i}-{row[0]}" for i, row in enumerate(ROWS)]
)
def test_forward_vjp_and_jvp_are_jaxs(op: str, args: Any, options: Any) -> None:
    random = np.random.default_rng(len(str((op, args, options))))
    drawn = arguments(op, args, random)
    options = {name: draw(value, random) for name, value in options.items()}
    if "weights" in options:
        options["weights"] = np.abs(options["weights"])
    if op == "fold":
        patches = jax.eval_shape(lambda x: unfold(x, drawn[2], **options), jnp.zeros(drawn[1]))
        drawn[0] = random.normal(size=patches.shape)

    places = [i for i, a in enumerate(drawn) if is_float(a)]
    extra = [name for name, value in options.items() if is_float(value)]

    def formula(*arrays: Any) -> Any:
        call, keyword = list(drawn), dict(options)
        for i, a in zip(places, arrays, strict=False):
            call[i] = a
        keyword.update(zip(extra, arrays[len(places) :], strict=True))
        return FORMULAS[op](*call, **keyword)

    primals = [drawn[i] for i in places] + [options[name] for name in extra]
    g = random.normal(size=jax.eval_shape(formula, *primals).shape)

    @jax.jit  # one compilation instead of one for every small operation
    def value_and_vjp(primals: Any, g: Any, dots: Any) -> Any:
        out, pull = jax.vjp(formula, *primals)
        return out, pull(g), jax.jvp(formula, primals, dots)[1]

    dots = [random.normal(size=x.shape) for x in primals]
    want, want_cotangents, want_tangent = value_and_vjp(primals, g, dots)
    assert_close(getattr(reference, op)(*drawn, **options), want)
    got = getattr(reference, f"{op}_vjp")(*drawn, g, **options)
    assert isinstance(got, tuple)
    # the tuple has a place, with None in it, for labels and for absent arrays
    slots = [a for a in drawn if not isinstance(a, int | tuple)] + [options[name] for name in extra]
    assert [d is None for d in got] == [not is_float(a) for a in slots]
    assert_close(tuple(d for d in got if d is not None), want_cotangents)
    if jvp := getattr(reference, f"{op}_jvp", None):
        its = iter(dots)
        moves = [next(its) if is_float(a) else None for a in slots[: len(slots) - len(extra)]]
        of_options = {f"d{name}": dot for name, dot in zip(extra, its, strict=True)}
        assert_close(jvp(*drawn, *moves, **options, **of_options), want_tangent)


def test_every_op_has_a_formula_and_rows() -> None:
    assert set(reference.OPS) == set(FORMULAS) == {row[0] for row in ROWS}
    assert all(f"{op}_vjp" in reference.__all__ for op in reference.OPS)


# What the derivative does not settle: the values chosen at kinks, ties, empty and masked rows.


def test_kinks_have_the_values_chosen() -> None:
    x, g = np.array([-1.0, 0.0, 2.0]), np.array([3.0, 5.0, 7.0])
    assert reference.relu_vjp(x, g)[0].tolist() == [0, 0, 7]
    assert reference.norm_vjp(x, 1.0, ord=1)[0].tolist() == [-1, 0, 1]
    for ord in (1, 2, 3, 1.5, np.inf):
        assert reference.norm_vjp(np.zeros((2, 3)), 4.0, ord=ord)[0].tolist() == [[0] * 3] * 2
    row = reference.norm_vjp(np.array([[0.0, 0.0], [3.0, 4.0]]), np.ones(2), axis=1)[0]
    np.testing.assert_allclose(row, [[0, 0], [0.6, 0.8]], rtol=1e-15)


def test_of_equal_pixels_the_first_wins() -> None:
    x = np.array([[1.0, 5.0, 5.0], [5.0, 2.0, 5.0]]).reshape(1, 2, 3, 1)
    g = np.array([[10.0, 100.0]]).reshape(1, 1, 2, 1)
    (dx,) = reference.max_pool_vjp(x, 2, g, stride=1)
    assert dx[0, :, :, 0].tolist() == [[0, 110, 0], [0, 0, 0]]
    pull = jax.vjp(lambda x: max_pool(x, 2, stride=1), jnp.asarray(x))[1]
    assert_close(dx, pull(jnp.asarray(g))[0])


def test_padding_never_wins_a_pool() -> None:
    x = -np.ones((1, 2, 2, 1))
    assert (reference.max_pool(x, 2, stride=1, padding=1) == -1).all()


def test_a_query_that_sees_nothing_gives_zeros() -> None:
    random = np.random.default_rng(0)
    q, k, v, g = (random.normal(size=(1, 3, 2, 4)) for _ in range(4))
    mask = np.array([[True, True, True], [False, False, False], [True, False, True]])
    out = reference.attention(q, k, v, mask=mask)
    dq, dk, dv = reference.attention_vjp(q, k, v, g, mask=mask)
    assert (out[:, 1] == 0).all()
    assert (dq[:, 1] == 0).all()
    assert all(np.abs(d).max() > 0.01 for d in (out, dq, dk, dv))


def test_no_rows_give_nothing_and_zero_gradients() -> None:
    x, w, b = np.zeros((0, 3)), np.ones((3, 2)), np.ones(2)
    assert reference.lin(x, w, b).shape == (0, 2)
    dx, dw, db = reference.lin_vjp(x, w, b, np.zeros((0, 2)))
    assert (dx.shape, dw.tolist(), db.tolist()) == ((0, 3), [[0, 0]] * 3, [0, 0])
    assert reference.mse(np.zeros((0, 1)), np.zeros(0)) == 0
    assert reference.mse_vjp(np.zeros((0, 1)), np.zeros(0), 1.0)[0].shape == (0, 1)
    labels = np.zeros(0, int)
    assert reference.cross_entropy(x, labels) == 0
    assert reference.cross_entropy_vjp(x, labels, 1.0)[0].shape == (0, 3)
    ignored = np.array([7, 7])
    z = np.array([[np.nan, 1.0, 1.0], [1.0, 1.0, 1.0]])  # not even a NaN comes through
    assert reference.cross_entropy(z, ignored, ignore_index=7) == 0
    assert (reference.cross_entropy_vjp(z, ignored, 1.0, ignore_index=7)[0] == 0).all()


def test_extreme_logits_neither_overflow_nor_give_nan() -> None:
    z = np.array([[1000.0, 0.0, -1000.0], [-np.inf, 0.0, 0.0]])
    np.testing.assert_allclose(reference.softmax(z), [[1, 0, 0], [0, 0.5, 0.5]], atol=1e-300)
    labels = np.array([2, 1])
    np.testing.assert_allclose(
        reference.cross_entropy(z, labels, reduction="none"), [2000, np.log(2)]
    )
    (dz, _) = reference.cross_entropy_vjp(z, labels, np.ones(2), reduction="none")
    np.testing.assert_allclose(dz, [[1, 0, -1], [0, -0.5, 0.5]], atol=1e-300)
    x = np.array([-800.0, 800.0])
    for f in (reference.silu, reference.gelu):
        np.testing.assert_allclose(f(x), [0, 800], atol=1e-300)
    for vjp in (reference.silu_vjp, reference.gelu_vjp):
        np.testing.assert_allclose(vjp(x, np.ones(2))[0], [0, 1], atol=1e-300)


def test_fold_is_the_adjoint_of_unfold() -> None:
    random = np.random.default_rng(1)
    x = random.integers(-9, 9, (2, 5, 6, 3)).astype(float)  # whole numbers: sums are exact
    options: dict[str, Any] = {"stride": (2, 1), "padding": "SAME", "dilation": (1, 2)}
    p = reference.unfold(x, (3, 2), **options)
    y = random.integers(-9, 9, p.shape).astype(float)
    assert (p * y).sum() == (x * reference.fold(y, x.shape, (3, 2), **options)).sum() != 0


def test_figures_of_the_chapter() -> None:
    assert reference.norm(np.arange(24.0).reshape(2, 3, 4)) == pytest.approx(65.7571, abs=5e-5)
    y = reference.conv2d(
        np.arange(9.0).reshape(1, 3, 3, 1), np.arange(4.0).reshape(2, 2, 1, 1), padding="VALID"
    )
    assert y[0, :, :, 0].tolist() == [[19, 25], [37, 43]]


def test_shapes_that_would_broadcast_silently_are_refused() -> None:
    for pred, targ in [((3,), (3, 1)), ((3, 1, 1), (3,)), ((3, 2), (3,)), ((1,), (3,))]:
        with pytest.raises(ValueError, match="mse: pred must have targ's shape"):
            reference.mse(np.zeros(pred), np.zeros(targ))
    with pytest.raises(ValueError, match="2 groups do not fit"):
        reference.conv2d(np.zeros((1, 3, 3, 3)), np.zeros((2, 2, 3, 4)), groups=2)


# It stands alone.


def test_sources_import_numpy_and_the_standard_library_only() -> None:
    for path in [PROOF / "reference.py", *(PROOF / "twin").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [str(node.module)]
            for name in names:
                own = name.startswith("fnnet.proof.twin.") or name.startswith("twin.")
                digits = path.name == "reference.py" and name == "sklearn.datasets"  # in main()
                top = name.split(".")[0]
                assert own or digits or top == "numpy" or top in sys.stdlib_module_names, (
                    f"{path.name} imports {name}"
                )


def test_as_a_script_it_trains_without_jax() -> None:
    code = (
        "import runpy, sys\n"
        "sys.argv = ['reference.py', '--seed', '1']\n"
        f"sys.path.insert(0, {str(PROOF)!r})\n"  # what Python does for a script
        f"path = {str(PROOF / 'reference.py')!r}\n"
        "import reference\n"
        "heavy = {'jax', 'scipy', 'sympy', 'sklearn', 'fnnet'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "try:\n"
        "    runpy.run_path(path, run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0\n"
        "assert not {'jax', 'fnnet'} & set(sys.modules)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    accuracy = float(ran.stdout.split("test accuracy ")[1].split("%")[0])
    assert 95 <= accuracy <= 100
