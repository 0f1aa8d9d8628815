"""The table of what is benchmarked. A new op is a new row."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from fnnet import ops
from fnnet.measure import mlp
from fnnet.rules import plain

Shape = tuple[int, ...]
Function = Callable[..., Any]


def normals(key: jax.Array, shapes: Sequence[Shape]) -> list[Any]:
    """A float32 array of normal random numbers for each shape.

    Example:
        >>> [x.shape for x in normals(jax.random.key(0), [(2, 3), (3,)])]
        [(2, 3), (3,)]
    """
    keys = jax.random.split(key, len(shapes))
    return [jax.random.normal(k, s, jnp.float32) for k, s in zip(keys, shapes, strict=True)]


def shapes_in_words(shapes: Sequence[Shape]) -> str:
    """A size as people read it.

    Example:
        >>> shapes_in_words([(200, 100), (100, 50), (50,)])
        '200×100 100×50 50'
    """
    return " ".join("×".join(map(str, s)) or "()" for s in shapes)


@dataclasses.dataclass(frozen=True)
class Row:
    """One function that is benchmarked.

    Attributes:
        name: what it is called; `--op` takes the part before the comma, if there is one.
        f: the function, whose gradient is by hand.
        sizes: where it is measured; each is what `draw` is given. `--quick` takes the first.
        draw: ``(key, size) -> arguments``.
        words: a size as text.
        argnums: the arguments whose cotangents are asked for; None for all.
        peers: functions of the same arguments by others. Each entry imports its own, so that a
            package that is missing is missed only here.
        checkpoint: what `jax.checkpoint` is compared by; of the whole function if None.
        eager: whether the function is also called outside of `jit`: so for ops, not for whole nets.
    """

    name: str
    f: Function
    sizes: Sequence[Any]
    draw: Callable[[jax.Array, Any], Sequence[Any]] = normals
    words: Callable[[Any], str] = shapes_in_words
    argnums: Sequence[int] | None = None
    peers: Mapping[str, Callable[[], Function]] = dataclasses.field(default_factory=dict)
    checkpoint: Function | None = None
    eager: bool = True

    @property
    def op(self) -> str:
        """The op that the row is about."""
        return self.name.split(",")[0]


_LAYERS = 8


def layers_of(op: Function) -> Function:
    """Eight layers of an op in a row, as a scan: ``(x, *stacked parameters) -> y``.

    In straight-line code XLA merges what a backward pass computes again with the forward pass; a
    loop stores what it is told to store, as the layers of a deep net do.

    Example:
        >>> layers_of(ops.layer_norm)(jnp.ones((2, 3)), jnp.ones((8, 3))).shape
        (2, 3)
    """

    def layers(x: jax.Array, *stacked: jax.Array) -> jax.Array:
        def layer(x: jax.Array, parameters: Any) -> tuple[jax.Array, None]:
            return op(x, *parameters), None

        return jax.lax.scan(layer, x, stacked, length=_LAYERS)[0]

    return layers


def _in_layers(name: str, op: Function, sizes: Sequence[Sequence[Shape]]) -> Row:
    return Row(
        f"{name}, {_LAYERS} layers",
        layers_of(op),
        sizes,
        checkpoint=layers_of(jax.checkpoint(plain(op))),
        eager=False,
    )


def _logits_and_labels(key: jax.Array, shapes: Sequence[Shape]) -> list[Any]:
    (logits,) = shapes
    k1, k2 = jax.random.split(key)
    labels = jax.random.randint(k2, logits[:-1], 0, logits[-1])
    return [3 * jax.random.normal(k1, logits, jnp.float32), labels]


def _jax_lin() -> Function:
    return lambda x, w, b: x @ w + jnp.broadcast_to(b, (*x.shape[:-1], *b.shape))


def _optax_mse() -> Function:
    import optax

    return lambda pred, targ: jnp.mean(optax.losses.squared_error(pred, targ))


def _optax_cross_entropy() -> Function:
    import optax

    each = optax.losses.softmax_cross_entropy_with_integer_labels
    return lambda logits, labels: jnp.mean(each(logits, labels))


_NORM = [[(256, 256), (256,), (256,)], [(4096, 512), (512,), (512,)]]

ROWS = (
    Row(
        "matmul",
        ops.matmul,
        sizes=[[(200, 100), (100, 50)], [(16, 128, 256), (16, 256, 128)]],
        peers={"jax.numpy": lambda: jnp.matmul},
    ),
    Row(
        "lin",
        ops.lin,
        sizes=[[(200, 100), (100, 50), (50,)], [(256, 784), (784, 256), (256,)]],
        peers={"jax.numpy": _jax_lin},
    ),
    Row(
        "relu",
        ops.relu,
        sizes=[[(200, 50)], [(2048, 1024)]],
        peers={"jax.nn": lambda: jax.nn.relu},
    ),
    Row(
        "mse",
        ops.mse,
        sizes=[[(200, 10), (200, 10)], [(2048, 1024), (2048, 1024)]],
        peers={"optax": _optax_mse},
    ),
    Row(
        "softmax",
        ops.softmax,
        sizes=[[(256, 100)], [(2048, 1000)]],
        peers={"jax.nn": lambda: jax.nn.softmax},
    ),
    Row(
        "log_softmax",
        ops.log_softmax,
        sizes=[[(256, 100)], [(2048, 1000)]],
        peers={"jax.nn": lambda: jax.nn.log_softmax},
    ),
    Row(
        "cross_entropy",
        ops.cross_entropy,
        sizes=[[(256, 100)], [(2048, 1000)]],
        draw=_logits_and_labels,
        argnums=[0],
        peers={"optax": _optax_cross_entropy},
    ),
    Row("layer_norm", ops.layer_norm, sizes=_NORM),
    _in_layers("layer_norm", ops.layer_norm, [[(256, 256), (_LAYERS, 256), (_LAYERS, 256)]]),
    Row("rms_norm", ops.rms_norm, sizes=[size[:2] for size in _NORM]),
    _in_layers("rms_norm", ops.rms_norm, [[(256, 256), (_LAYERS, 256)]]),
    Row(
        "gelu",
        ops.gelu,
        sizes=[[(256, 256)], [(2048, 1024)]],
        peers={"jax.nn": lambda: partial(jax.nn.gelu, approximate=False)},
    ),
    _in_layers("gelu", ops.gelu, [[(256, 256)]]),
    Row(
        "silu",
        ops.silu,
        sizes=[[(256, 256)], [(2048, 1024)]],
        peers={"jax.nn": lambda: jax.nn.silu},
    ),
    _in_layers("silu", ops.silu, [[(256, 256)]]),
    Row(
        "mlp",
        mlp.loss,
        sizes=[(200, 100, 50), (256, 784, 256), (2048, 784, 1024)],
        draw=mlp.draw,
        words=mlp.in_words,
        argnums=[0],
        peers={"jax.nn": lambda: mlp.jax_loss},
        eager=False,
    ),
)
