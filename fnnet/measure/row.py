"""`Row`: one thing that is benchmarked, and what rows are made with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

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


def small_normals(key: jax.Array, shapes: Sequence[Shape]) -> list[Any]:
    """The same a sixteenth as large, as weights are."""
    return [x / 16 for x in normals(key, shapes)]


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
        auto: what autodiff differentiates; the same forward, `plain(f)`, if None.
        checkpoint: what `jax.checkpoint` is compared by; of the whole function if None.
        tangent: whether value and tangent (`jax.jvp`) are measured, not value and gradient.
        eager: whether the function is also called outside of `jit`: so for ops, not for whole nets.
    """

    name: str
    f: Function
    sizes: Sequence[Any]
    draw: Callable[[jax.Array, Any], Sequence[Any]] = normals
    words: Callable[[Any], str] = shapes_in_words
    argnums: Sequence[int] | None = None
    peers: Mapping[str, Callable[[], Function]] = dataclasses.field(default_factory=dict)
    auto: Function | None = None
    checkpoint: Function | None = None
    tangent: bool = False
    eager: bool = True

    @property
    def op(self) -> str:
        """The op that the row is about."""
        return self.name.split(",")[0]


def with_tangent(row: Row) -> Row:
    """The row of the same function's value and tangent, whose rule is by hand."""
    return dataclasses.replace(
        row, name=f"{row.name}, value and tangent", peers={}, tangent=True, eager=False
    )


LAYERS = 8


def layers_of(op: Function) -> Function:
    """Eight layers of an op in a row, as a scan: ``(x, *stacked parameters) -> y``.

    In straight-line code XLA merges what a backward pass computes again with the forward pass; a
    loop stores what it is told to store, as the layers of a deep net do.

    Example:
        >>> layers_of(jnp.multiply)(jnp.ones((2, 3)), jnp.ones((8, 3))).shape
        (2, 3)
    """

    def layers(x: jax.Array, *stacked: jax.Array) -> jax.Array:
        def layer(x: jax.Array, parameters: Any) -> tuple[jax.Array, None]:
            return op(x, *parameters), None

        return jax.lax.scan(layer, x, stacked, length=LAYERS)[0]

    return layers


def in_layers(
    name: str,
    op: Function,
    sizes: Sequence[Sequence[Shape]],
    draw: Callable[[jax.Array, Any], Sequence[Any]] = normals,
) -> Row:
    """The row of eight layers of an op."""
    return Row(
        f"{name}, {LAYERS} layers",
        layers_of(op),
        sizes,
        draw,
        checkpoint=layers_of(jax.checkpoint(plain(op))),
        eager=False,
    )
