"""What a layer is: a pair of pure functions."""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

Params = Any  # a pytree of arrays


class Init(Protocol):
    """What draws a layer's parameters: `(key, dtype=float32) -> params`."""

    def __call__(self, key: Array, /, dtype: DTypeLike = ...) -> Params:
        """Draw them, by one key."""
        ...


class Layer(NamedTuple):
    """A layer: two pure functions.

    Attributes:
        init: `(key, dtype=float32) -> params`.
        apply: `(params, x) -> y`.
    """

    init: Init
    apply: Callable[[Params, Array], Array]


def no_params(key: Array, dtype: DTypeLike = jnp.float32) -> tuple[()]:
    """The parameters of a layer that has none."""
    return ()


def size_of(layer: str, name: str, n: int) -> int:
    """The argument as a whole number, 1 or more.

    Raises:
        TypeError: it is no whole number.
        ValueError: it is less than 1.
    """
    try:
        size = operator.index(n)
    except TypeError:
        raise TypeError(f"{layer}: {name} must be a whole number, got {n!r}") from None
    if size < 1:
        raise ValueError(f"{layer}: {name} must be at least 1, got {size}")
    return size
