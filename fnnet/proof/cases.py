"""What is proved: for every op, the small shapes, the options, and where its rule has branches.

`Sym(2, 3)` is an array of 2 x 3 independent symbols, `Sym()` one symbol; anything else stands as it
is. Positional arguments and options have the names of the op's own; options such as eps, scale or
smoothing are symbols too, so a proof holds for all their values.

Where a twin compares numbers (relu's x > 0, max-pool's winner, the greatest logit) a proof holds on
one side of the comparison. `signs` names arguments of which every pattern of signs is proved,
`orders` those of which every strict order of the entries is; together they cover all but the kinks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sympy import Integer, Rational

from fnnet.proof.twin.images import unfold


@dataclass(frozen=True, init=False)
class Sym:
    """An array of independent symbols of this shape."""

    shape: tuple[int, ...]

    def __init__(self, *shape: int) -> None:
        object.__setattr__(self, "shape", shape)


@dataclass(frozen=True)
class Instance:
    """One call of an op: its arguments in order, its options, and the branches to go through.

    `learned` names options that are arrays of no axes, not numbers: those have a cotangent.
    """

    arguments: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    signs: tuple[str, ...] = ()
    orders: tuple[str, ...] = ()
    learned: tuple[str, ...] = ()


def _case(
    signs: str = "",
    orders: str = "",
    learned: str = "",
    options: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> Instance:
    names = (tuple(words.split()) for words in (signs, orders, learned))
    return Instance(arguments, options or {}, *names)


def _matmul() -> list[Instance]:
    return [
        _case(a=Sym(2, 3), b=Sym(3, 2)),
        _case(a=Sym(1, 2), b=Sym(2, 1)),
        _case(a=Sym(2, 2, 2), b=Sym(2, 2, 1)),  # a batch
        _case(a=Sym(2, 1, 1, 2), b=Sym(3, 2, 2)),  # batch axes that broadcast both ways
        _case(a=Sym(3), b=Sym(3)),
        _case(a=Sym(2, 3), b=Sym(3)),
        _case(a=Sym(3), b=Sym(2, 3, 2)),
    ]


def _lin() -> list[Instance]:
    return [
        _case(x=Sym(2, 2), w=Sym(2, 2), b=Sym(2)),
        _case(x=Sym(3, 2), w=Sym(2, 3), b=None),
        _case(x=Sym(3), w=Sym(3, 2), b=Sym(2)),
        _case(x=Sym(2, 2, 3), w=Sym(3, 1), b=Sym(1)),
    ]


def _relu() -> list[Instance]:
    return [_case("x", x=Sym(*shape)) for shape in [(2,), (3,), (2, 2), (2, 1, 2)]]


def _mse() -> list[Instance]:
    shapes = [((2,), (2,)), ((3, 1), (3,)), ((2, 2), (2, 2)), ((2, 2, 1), (2, 2)), ((), ())]
    return [_case(pred=Sym(*pred), targ=Sym(*targ)) for pred, targ in shapes]


def _softmax() -> list[Instance]:
    return [
        _case(orders="z", z=Sym(2)),
        _case(orders="z", z=Sym(3)),
        _case(orders="z", z=Sym(1, 3)),
        _case(z=Sym(2, 3)),
        _case(z=Sym(3, 2), options={"axis": 0}),
        _case(z=Sym(2, 2, 2), options={"axis": 1}),
    ]


def _cross_entropy() -> list[Instance]:
    def integer(labels: Any, *logits: int, **options: Any) -> Instance:
        return _case(logits=Sym(*logits), labels=np.array(labels), options=options)

    smooth = {"smoothing": Sym(), "z_loss": Sym()}
    return [
        _case(orders="logits", logits=Sym(3), labels=np.array(1)),
        integer([0, 2], 2, 3),
        integer([[0, 1]], 1, 2, 2),
        integer([1, 0], 2, 2, **smooth, reduction="sum"),
        integer([1, 0], 2, 2, **smooth, reduction="none"),
        integer([1, 0, 1], 3, 2, weights=Sym(3)),
        integer([1, 0], 2, 2, **smooth, weights=Sym(2), reduction="none"),
        integer([[1], [0]], 2, 1, 2, weights=Sym(1), reduction="sum"),  # weights that broadcast
        integer([1, -100, 0], 3, 2, **smooth, ignore_index=-100),
        integer([1, -100, 0], 3, 2, weights=Sym(3), ignore_index=-100),
        integer([1, 1, 0], 3, 2, **smooth, class_weights=Sym(2)),
        integer([1, -100, 1], 3, 2, weights=Sym(3), class_weights=Sym(2), ignore_index=-100),
        integer([-1, -1], 2, 2, **smooth, ignore_index=-1),  # nothing counts
        _case(logits=Sym(2, 2), labels=Sym(2, 2)),
        _case(logits=Sym(3), labels=Sym(3), options={**smooth, "reduction": "sum"}),
        _case(logits=Sym(2, 2), labels=Sym(2, 2), options={**smooth, "weights": Sym(2)}),
    ]


def _linear_cross_entropy() -> list[Instance]:
    def case(*, b: Sym | None, labels: Any, n: int = 2, **options: Any) -> Instance:
        return _case(x=Sym(n, 1), w=Sym(1, 2), labels=labels, b=b, options=options)

    integers = np.array([1, 0])
    return [
        case(b=Sym(2), labels=integers),
        _case(x=Sym(1, 2), w=Sym(2, 3), labels=np.array([2]), b=None),
        case(b=None, labels=integers, softcap=Sym()),
        case(b=Sym(2), labels=integers, softcap=Sym(), smoothing=Sym(), z_loss=Sym()),
        case(b=Sym(2), labels=integers, weights=Sym(2), reduction="none"),
        case(b=None, labels=np.array([1, -1]), ignore_index=-1, reduction="sum"),
        case(b=None, labels=integers, class_weights=Sym(2)),
        case(b=Sym(2), labels=Sym(1, 2), n=1, smoothing=Sym()),
        _case(x=Sym(1, 2, 1), w=Sym(1, 2), labels=np.array([[1, 0]]), b=Sym(2)),
    ]


_WINDOWS: list[tuple[tuple[int, ...], Any, dict[str, Any]]] = [  # image, size, options
    ((1, 2, 2, 1), 2, {}),
    ((1, 2, 3, 1), (1, 2), {}),
    ((2, 2, 2, 2), (2, 1), {}),
    ((1, 3, 3, 1), 2, {"stride": 2, "padding": "SAME"}),
    ((1, 3, 2, 1), 2, {"padding": 1}),
    ((1, 2, 3, 1), (1, 2), {"padding": ((0, 1), (2, 0)), "stride": (2, 1)}),
    ((1, 4, 3, 1), 2, {"dilation": (3, 2)}),
    ((1, 3, 3, 2), (2, 2), {"dilation": 2, "padding": "SAME"}),
]


def _unfold() -> list[Instance]:
    return [_case(x=Sym(*image), size=size, options=o) for image, size, o in _WINDOWS]


def _fold() -> list[Instance]:
    return [
        _case(p=Sym(*unfold(np.zeros(image), size, **o).shape), shape=image, size=size, options=o)
        for image, size, o in _WINDOWS
    ]


def _conv2d() -> list[Instance]:
    def case(x: Any, w: Any, b: int | None = None, **options: Any) -> Instance:
        return _case(x=Sym(*x), w=Sym(*w), b=b and Sym(b), options=options)

    return [
        case((1, 2, 2, 1), (2, 2, 1, 1), padding="VALID"),
        case((1, 3, 3, 1), (2, 2, 1, 1), 1, padding="VALID"),
        case((1, 2, 3, 1), (2, 2, 1, 2), 2),
        case((2, 2, 2, 2), (1, 2, 2, 1), 1),
        case((1, 3, 3, 1), (3, 2, 1, 1), stride=2),
        case((1, 3, 3, 1), (2, 2, 1, 1), dilation=2, padding="VALID"),
        case((1, 2, 2, 4), (1, 2, 2, 2), 2, groups=2),
        case((1, 2, 2, 2), (2, 1, 1, 4), groups=2, padding=((1, 0), (0, 2)), stride=(1, 2)),
    ]


def _max_pool() -> list[Instance]:
    def case(size: Any, *image: int, **options: Any) -> Instance:
        return _case(orders="x", x=Sym(*image), size=size, options=options)

    return [
        case(2, 1, 2, 2, 1),
        case((1, 2), 1, 1, 4, 1, stride=1),  # windows that overlap
        case((1, 2), 2, 1, 2, 1),
        case(1, 1, 1, 2, 2),
        case(2, 1, 2, 2, 1, stride=1, padding="SAME"),
        case(2, 1, 1, 3, 1, padding=((0, 1), (1, 0))),
    ]


def _avg_pool() -> list[Instance]:
    cases = [(image, size, o) for image, size, o in _WINDOWS if "dilation" not in o]
    return [
        _case(x=Sym(*image), size=size, options={**o, **counted})
        for image, size, o in cases
        for counted in ({}, {"count_include_pad": False})
    ]


def _layer_norm() -> list[Instance]:
    eps = {"eps": Sym()}
    return [
        _case(x=Sym(2), scale=None, shift=None, options=eps),
        _case(x=Sym(3), scale=Sym(3), shift=Sym(3), options=eps),
        _case(x=Sym(2, 2), scale=Sym(2), shift=Sym(2), options=eps),
        _case(x=Sym(1, 2, 2), scale=Sym(2), shift=None, options=eps),
        _case(x=Sym(1, 3), scale=None, shift=Sym(3), options=eps),
    ]


def _rms_norm() -> list[Instance]:
    eps = {"eps": Sym()}
    return [
        _case(x=Sym(2), scale=None, options=eps),
        _case(x=Sym(3), scale=Sym(3), options=eps),
        _case(x=Sym(2, 2), scale=Sym(2), options=eps),
        _case(x=Sym(1, 2, 2), scale=None, options=eps),
    ]


def _batch_norm() -> list[Instance]:
    def case(*x: int, c: int | None = None, axis: int = -1) -> Instance:
        parameter = c and Sym(c)
        options = {"eps": Sym(), "axis": axis}
        return _case(x=Sym(*x), scale=parameter, shift=parameter, options=options)

    return [
        case(2, 1, c=1),
        case(3, 1),
        case(2, 2, c=2),
        case(2, 2, 1, c=2, axis=1),
        case(1, 2, 2, c=1, axis=0),
    ]


def _group_norm() -> list[Instance]:
    def case(*x: int, groups: int, c: int | None = None) -> Instance:
        parameter = c and Sym(c)
        options = {"eps": Sym()}
        return _case(x=Sym(*x), groups=groups, scale=parameter, shift=parameter, options=options)

    return [
        case(1, 4, groups=2, c=4),
        case(2, 2, groups=1, c=2),
        case(1, 2, 2, groups=2, c=2),
        case(1, 3, 1, groups=1),
    ]


def _norm() -> list[Instance]:
    def case(*x: int, signs: str = "", **options: Any) -> Instance:
        return _case(signs, x=Sym(*x), options=options)

    return [
        case(2),
        case(3, signs="x", ord=1),
        case(2, signs="x", ord=Sym()),  # any p
        case(3, signs="x", ord=Integer(3)),
        case(2, 2, signs="x", ord=Rational(3, 2), axis=0),
        case(2, 2),
        case(2, 3, axis=1),
        case(2, 2, 2, axis=(0, 2), keepdims=True),
        case(2, 2, signs="x", ord=1, axis=-1, keepdims=True),
        case(3, signs="x", ord=math.inf),
        case(2, 1, 2, signs="x", ord=math.inf, axis=(0, 2)),
    ]


def _pairwise_distance() -> list[Instance]:
    def case(p: Any, q: Any = None, orders: str = "", **options: Any) -> Instance:
        return _case(orders=orders, p=Sym(*p), q=q and Sym(*q), options=options)

    return [
        case((2, 2), (1, 2)),
        case((1, 3), (2, 3), ord="sq"),
        case((2, 1, 2), (2, 2, 2)),
        case((3, 2)),  # of p and p: 0 on the diagonal
        case((2, 2), ord="sq"),
        case((3, 1), orders="p", ord=1),
        case((2, 2), orders="p", ord=1),
        case((2, 2), (1, 2), orders="p q", ord=1),
    ]


def _kernel_sum() -> list[Instance]:
    def case(p: Any, q: Any = None, w: Any = None, learned: str = "", **options: Any) -> Instance:
        return _case(
            p=Sym(*p), q=q and Sym(*q), weights=w and Sym(*w), options=options, learned=learned
        )

    return [
        case((1, 2), (2, 2), (2,)),
        case((2, 1), (2, 1), scale=Sym()),
        case((2, 1, 1), (2, 2, 1), (2, 2), scale=Sym(), learned="scale"),
        case((2, 2), None, (2,), scale=Sym(), learned="scale"),  # of p and p: 0 on the diagonal
        case((1, 2), (2, 2), (2,), kernel="laplacian", scale=Sym(), learned="scale"),
        case((2, 1), None, (2,), kernel="laplacian"),
        case((1, 2), (2, 2), (2,), kernel="rq", scale=Sym(), learned="scale"),
        case((2, 1), None, kernel="rq"),
    ]


def _gelu() -> list[Instance]:
    return [
        _case(x=Sym(*shape), options={"approximate": approximate})
        for shape in [(1,), (3,), (2, 1, 2)]
        for approximate in (False, True)
    ]


def _silu() -> list[Instance]:
    return [_case("x", x=Sym(*shape)) for shape in [(1,), (3,), (2, 1, 2)]]


def _glu_mlp() -> list[Instance]:
    def case(x: Any, f: int, signs: str = "", **options: Any) -> Instance:
        d = x[-1]
        return _case(
            signs, options=options, x=Sym(*x), w_gate=Sym(d, f), w_up=Sym(d, f), w_down=Sym(f, 2)
        )

    return [
        case((1, 1), 1),
        case((2, 2), 2),
        case((2, 1, 1), 2),
        case((2, 1), 1, activation="gelu"),
        case((2, 1), 1, activation="gelu_tanh"),
        case((2, 1), 2, "x w_gate", activation="relu"),
    ]


def _rnn() -> list[Instance]:
    return [
        _case(x=Sym(t, n, i), h0=Sym(n, h), wx=Sym(i, h), wh=Sym(h, h), b=Sym(h))
        for t, n, i, h in [(1, 1, 1, 1), (2, 1, 1, 1), (3, 1, 1, 1), (2, 2, 1, 1), (2, 1, 2, 2)]
    ]


def _gru() -> list[Instance]:
    return [
        _case(x=Sym(t, n, 1), h0=Sym(n, h), wx=Sym(1, 3 * h), wh=Sym(h, 3 * h), b=Sym(3 * h))
        for t, n, h in [(1, 1, 1), (1, 2, 1), (1, 1, 2), (2, 1, 1)]
    ]


def _attention() -> list[Instance]:
    def case(q: Any, k: Any, v: int = 1, learned: str = "", **options: Any) -> Instance:
        return _case(q=Sym(*q), k=Sym(*k), v=Sym(*k[:-1], v), options=options, learned=learned)

    mask = np.array([[True, True, False], [False, False, False]])
    return [
        case((1, 1, 1, 1), (1, 2, 1, 1)),
        case((1, 1, 1, 1), (1, 2, 1, 1), scale=Sym()),
        case((1, 2, 1, 2), (1, 2, 1, 2), v=2),
        case((1, 2, 1, 1), (1, 3, 1, 1)),
        case((1, 2, 1, 1), (1, 2, 1, 1), causal=True),
        case((1, 2, 1, 1), (1, 3, 1, 1), mask=mask),  # the second query sees nothing
        case((1, 1, 2, 1), (1, 2, 1, 1)),  # two heads share keys and values
        case((2, 2, 2, 1), (2, 2, 2, 1), causal=True),
        case((2, 1, 1), (2, 1, 1), causal=True, scale=Sym(), learned="scale"),  # no batch
        case((1, 2, 1, 2, 1), (1, 2, 2, 1, 1), scale=Sym(), learned="scale"),
    ]


def _rope() -> list[Instance]:
    def case(*x: int, positions: Any, **options: Any) -> Instance:
        return _case(x=Sym(*x), positions=positions, options=options)

    return [
        case(2, 1, 2, positions=Sym(2)),
        case(2, 2, 4, positions=np.array([0, 3]), base=Sym()),
        case(2, 1, 4, positions=Sym(2), base=Sym(), interleaved=True),
        case(2, 2, 1, 2, positions=Sym(1, 2), interleaved=True),  # positions that broadcast
        case(2, 2, 1, 2, positions=Sym(2, 1)),
    ]


CASES = {
    "matmul": _matmul,
    "lin": _lin,
    "relu": _relu,
    "mse": _mse,
    "softmax": _softmax,
    "log_softmax": _softmax,
    "cross_entropy": _cross_entropy,
    "linear_cross_entropy": _linear_cross_entropy,
    "unfold": _unfold,
    "fold": _fold,
    "conv2d": _conv2d,
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "batch_norm": _batch_norm,
    "group_norm": _group_norm,
    "norm": _norm,
    "pairwise_distance": _pairwise_distance,
    "kernel_sum": _kernel_sum,
    "gelu": _gelu,
    "silu": _silu,
    "glu_mlp": _glu_mlp,
    "rnn": _rnn,
    "gru": _gru,
    "attention": _attention,
    "rope": _rope,
}
