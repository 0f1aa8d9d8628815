"""For every public op, the calls it is checked at: one line for an op, a tuple for each call."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnnet import ops


class Sample(NamedTuple):
    """One call of an op."""

    args: tuple[Any, ...]
    options: dict[str, Any]


@dataclasses.dataclass(frozen=True, init=False)
class F:
    """A float32 array of this shape, drawn from the normal distribution."""

    shape: tuple[int, ...]

    def __init__(self, *shape: int) -> None:
        object.__setattr__(self, "shape", shape)

    def drawn(self, key: jax.Array) -> jax.Array:
        """The array."""
        return jax.random.normal(key, self.shape, jnp.float32)


@dataclasses.dataclass(frozen=True)
class Labels:
    """Integers from 0 to `classes` - 1."""

    classes: int
    shape: tuple[int, ...]

    def drawn(self, key: jax.Array) -> jax.Array:
        """The array."""
        return jax.random.randint(key, self.shape, 0, self.classes, jnp.int32)


_IMAGE = F(8, 6, 6, 3)
_LABELS = Labels(6, (8,))
_SMOOTH = {"smoothing": 0.1, "z_loss": 0.01}
_GATES = (F(5, 8, 4), F(8, 6), F(4, 18), F(6, 18), F(18))

# a call is its arguments in order, at its end a dict if it has options
SAMPLES: dict[str, list[tuple[Any, ...]]] = {
    "attention": [
        (F(8, 6, 2, 4),) * 3,
        (F(2, 6, 4, 4), F(2, 6, 2, 4), F(2, 6, 2, 3), {"causal": True}),
    ],
    "avg_pool": [(_IMAGE, 2), (_IMAGE, (3, 2), {"stride": 1, "padding": "SAME"})],
    "batch_norm": [(F(8, 6), F(6), F(6)), (F(4, 3, 5), F(3), {"axis": 1})],
    "conv2d": [(_IMAGE, F(3, 3, 3, 4), F(4)), (_IMAGE, F(2, 3, 1, 6), {"stride": 2, "groups": 3})],
    "cross_entropy": [(F(8, 6), _LABELS), (F(8, 6), _LABELS, {**_SMOOTH, "reduction": "sum"})],
    "fold": [
        (F(8, 4, 4, 27), (8, 6, 6, 3), 3),
        (F(2, 3, 2, 12), (2, 6, 5, 2), (2, 3), {"stride": 2}),
    ],
    "gelu": [(F(8, 6),), (F(8, 6), {"approximate": True})],
    "glu_mlp": [
        (F(8, 6), F(6, 10), F(6, 10), F(10, 6)),
        (F(8, 6), F(6, 4), F(6, 4), F(4, 6), {"activation": "gelu"}),
    ],
    "group_norm": [(F(8, 5, 6), 3, F(6), F(6)), (F(8, 2, 2, 4), 1)],
    "gru": [_GATES],
    "kernel_sum": [
        (F(8, 6), F(5, 6), F(5)),
        (F(8, 6), F(5, 6), F(5), {"kernel": "laplacian", "scale": 2.0, "block": 4}),
        (F(8, 6), None, F(8), {"kernel": "rq"}),
    ],
    "layer_norm": [(F(8, 6), F(6), F(6)), (F(8, 2, 6),)],
    "lin": [(F(8, 6), F(6, 4), F(4)), (F(8, 2, 6), F(6, 4))],
    "linear_cross_entropy": [
        (F(8, 5), F(5, 6), _LABELS),
        (F(8, 5), F(5, 6), _LABELS, F(6), {**_SMOOTH, "softcap": 3.0}),
    ],
    "log_softmax": [(F(8, 6),), (F(8, 6), {"axis": 0})],
    "matmul": [(F(8, 6), F(6, 4)), (F(8, 1, 3, 6), F(2, 6, 4)), (F(8, 6), F(6))],
    "max_pool": [(_IMAGE, 2), (_IMAGE, 3, {"stride": 2, "padding": 1})],
    "mse": [(F(8, 6), F(8, 6)), (F(8, 1), F(8))],
    "norm": [(F(8, 6), {"axis": -1}), (F(8, 6), {"ord": 3, "axis": 0}), (F(8, 6), {"ord": 1})],
    "pairwise_distance": [
        (F(8, 6), F(5, 6)),
        (F(8, 6), F(5, 6), {"ord": "sq"}),
        (F(8, 6), F(5, 6), {"ord": 1}),
        (F(8, 6),),
    ],
    "relu": [(F(8, 6),)],
    "rms_norm": [(F(8, 6), F(6)), (F(8, 2, 6),)],
    "rnn": [(F(5, 8, 3), F(8, 6), F(3, 6), F(6, 6), F(6))],
    "rope": [
        (F(8, 5, 2, 4), Labels(100, (5,))),
        (F(8, 5, 2, 4), Labels(100, (8, 5)), {"interleaved": True, "base": 50.0}),
        (F(8, 5, 2, 4), F(5)),
    ],
    "silu": [(F(8, 6),)],
    "softmax": [(F(8, 6),), (F(8, 6), {"axis": 0})],
    "unfold": [(_IMAGE, 3), (_IMAGE, (2, 3), {"stride": 2, "padding": "SAME", "dilation": (1, 2)})],
}


def op_names() -> list[str]:
    """The public ops, by name: what is in `fnnet.ops` and is no pass of a rule."""
    return sorted(
        name
        for name, f in vars(ops).items()
        if callable(f) and not name.startswith("_") and not name.endswith(("_fwd", "_bwd"))
    )


def samples(op: str, key: jax.Array) -> list[Sample]:
    """The calls at which an op is checked.

    Raises:
        LookupError: if the op has no line in `SAMPLES`.
    """
    if op not in SAMPLES:
        raise LookupError(
            f"check: no arguments are known for {op}: give it a line in "
            "fnnet.check.selftest.samples"
        )
    return [_drawn(call, jax.random.fold_in(key, i)) for i, call in enumerate(SAMPLES[op])]


def _drawn(call: tuple[Any, ...], key: jax.Array) -> Sample:
    options = call[-1] if isinstance(call[-1], dict) else {}
    args = call[: len(call) - bool(options)]
    keys = jax.random.split(key, len(args))
    drawn = (x.drawn(k) if hasattr(x, "drawn") else x for x, k in zip(args, keys, strict=True))
    return Sample(tuple(drawn), dict(options))
