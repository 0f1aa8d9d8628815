"""For every public op, arguments to check it at. A new op is picked up; a row makes it telling."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fnnet import ops

# op -> the shapes of its float arguments, or a function of a key that makes them all;
# several ways to call an op are several rows
Row = tuple[tuple[int, ...], ...] | Callable[[jax.Array], tuple[Any, ...]]


def _labelled(*shapes: tuple[int, ...], classes: int) -> Callable[[jax.Array], tuple[Any, ...]]:
    """Float arguments of these shapes, then integer labels, one for each row."""

    def make(key: jax.Array) -> tuple[Any, ...]:
        keys = jax.random.split(key, len(shapes) + 1)
        floats = [jax.random.normal(k, s, jnp.float32) for k, s in zip(keys, shapes, strict=False)]
        labels = jax.random.randint(keys[-1], shapes[0][:-1], 0, classes, jnp.int32)
        return (*floats, labels)

    return make


def _then(row: tuple[tuple[int, ...], ...], *rest: Any) -> Callable[[jax.Array], tuple[Any, ...]]:
    """Float arguments of the shapes `row`, then `rest` as it is."""
    return lambda key: (*_normal(row, key), *rest)


SAMPLES: dict[str, tuple[Row, ...]] = {
    "matmul": (((8, 6), (6, 4)), ((8, 1, 3, 6), (2, 6, 4)), ((8, 6), (6,))),
    "lin": (((8, 6), (6, 4), (4,)), ((8, 2, 6), (6, 4))),
    "relu": (((8, 6),),),
    "mse": (((8, 6), (8, 6)), ((8, 1), (8,))),
    "softmax": (((8, 6),),),
    "log_softmax": (((8, 6),),),
    "cross_entropy": (_labelled((8, 6), classes=6),),
    "linear_cross_entropy": (_labelled((8, 5), (5, 6), classes=6),),
    "unfold": (_then(((2, 6, 6, 3),), 3),),
    "fold": (_then(((2, 4, 4, 27),), (2, 6, 6, 3), 3),),
    "conv2d": (((2, 6, 6, 3), (3, 3, 3, 4), (4,)),),
    "max_pool": (_then(((2, 6, 6, 3),), 2),),
    "avg_pool": (_then(((2, 6, 6, 3),), 2),),
    "layer_norm": (((8, 6), (6,), (6,)),),
    "rms_norm": (((8, 6), (6,)),),
    "norm": (((8, 6),),),
    "gelu": (((8, 6),),),
    "silu": (((8, 6),),),
    "glu_mlp": (((8, 6), (6, 10), (6, 10), (10, 6)),),
    "rnn": (((5, 4, 3), (4, 6), (3, 6), (6, 6), (6,)),),
    "attention": (((2, 6, 2, 4), (2, 6, 2, 4), (2, 6, 2, 4)),),
}


def op_names() -> list[str]:
    """The public ops, by name: what is in `fnnet.ops` and is no pass of a rule."""
    return sorted(
        name
        for name, f in vars(ops).items()
        if callable(f) and not name.startswith("_") and not name.endswith(("_fwd", "_bwd"))
    )


def samples(op: str, key: jax.Array) -> list[tuple[Any, ...]]:
    """The arguments at which an op is checked.

    An op without a row is tried with as many arrays as it has parameters without a default, of
    shapes that elementwise functions, normalisations and products of two matrices take.

    Raises:
        LookupError: if no arguments are known and none of those tried will do.
    """
    if op in SAMPLES:
        return [row(key) if callable(row) else _normal(row, key) for row in SAMPLES[op]]
    f = getattr(ops, op)
    n = sum(p.default is p.empty for p in inspect.signature(f).parameters.values())
    for shapes in (((8, 6),) * n, ((8, 6), *[(6,)] * (n - 1)), ((8, 6), *[(6, 4)] * (n - 1))):
        args = _normal(shapes, key)
        try:
            jax.eval_shape(f, *args)
        except Exception:
            continue
        return [args]
    raise LookupError(
        f"check: no arguments are known for {op}; give it a row in fnnet.check.samples"
    )


def _normal(shapes: tuple[tuple[int, ...], ...], key: jax.Array) -> tuple[Any, ...]:
    keys = jax.random.split(key, max(len(shapes), 1))
    return tuple(jax.random.normal(k, s, jnp.float32) for k, s in zip(keys, shapes, strict=False))
