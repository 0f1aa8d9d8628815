"""The arguments of one call of a registered function, sorted by what JAX must know of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import jax
import numpy as np


@jax.tree_util.register_static
class Static:
    """A value carried in a pytree as structure: it has no leaves, and no cotangent."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and bool(self.value == other.value)

    def __hash__(self) -> int:
        return hash(self.value)


@jax.tree_util.register_static
class _Whole(Static):
    """A static argument, whole: a caller's own `Static` is his, and is not unwrapped."""


def is_array(leaf: Any) -> bool:
    """Whether a leaf is an array: of JAX, traced or not, or of NumPy, or a NumPy scalar.

    NumPy's strings, objects and dates are not: JAX has no arrays of them.
    """
    if isinstance(leaf, (np.ndarray, np.generic)):
        return leaf.dtype.kind not in "OSUMmT"
    return isinstance(leaf, jax.Array)


class Arguments:
    """A call's arguments, taken apart into operands (arrays) and the rest.

    The operands are given out once, by `release`: they belong to one trace, and what is kept for
    the backward pass outlives it.

    Attributes:
        names: of the positional arguments that are not static: those with a cotangent.
        static: the values of the static positional arguments, by name.
        count: how many operands belong to positional arguments.
        precision: a context in which matrix products have the precision in force at the call.
    """

    def __init__(
        self,
        signature: inspect.Signature,
        bound: inspect.BoundArguments,
        static: frozenset[str],
        left_out: frozenset[str] = frozenset(),
    ) -> None:
        self.names: list[str] = []
        self.precision = _precision_in_force()
        self.static: dict[str, Any] = {}
        self._places: list[int] = []
        positional: list[Any] = []
        options: dict[str, Any] = {}

        def add(name: str, value: Any) -> None:
            self.names.append(name)
            self._places.append(len(positional))
            positional.append(value)

        for p in signature.parameters.values():
            value = bound.arguments[p.name]
            if p.name in left_out:
                continue
            if p.kind is p.VAR_KEYWORD:
                options |= value
            elif p.kind is p.KEYWORD_ONLY:
                options[p.name] = _Whole(value) if p.name in static else value
            elif p.kind is p.VAR_POSITIONAL:
                for i, v in enumerate(value):
                    add(f"{p.name}[{i}]", v)
            elif p.name in static:
                self.static[p.name] = value
                positional.append(_Whole(value))
            else:
                add(p.name, value)

        self._leaves, self._tree = jax.tree.flatten((positional, options))
        n_positional = len(jax.tree.leaves(positional))
        # a Python float may be a parameter; as an option it is a number to compute with
        self._at = [
            i
            for i, leaf in enumerate(self._leaves)
            if is_array(leaf) or (i < n_positional and type(leaf) in (float, complex))
        ]
        self._operands = [self._leaves[i] for i in self._at]
        for i in self._at:
            self._leaves[i] = None
        self.count = sum(i < n_positional for i in self._at)

    def release(self) -> list[Any]:
        """The arrays, which JAX may trace and differentiate.

        First those of positional arguments, among them Python floats, then those of options.
        """
        operands, self._operands = self._operands, []
        return operands

    def rebuilt(self, operands: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        """The positional arguments and the options with these operands in their places."""
        leaves = list(self._leaves)
        for i, operand in zip(self._at, operands, strict=True):
            leaves[i] = operand
        positional, options = jax.tree.unflatten(self._tree, leaves)
        return [_released(a) for a in positional], {k: _released(v) for k, v in options.items()}

    def with_cotangent(self, operands: Sequence[Any]) -> list[Any]:
        """The arguments that have a cotangent, with these operands in their places."""
        positional, _ = self.rebuilt(operands)
        return [positional[i] for i in self._places]


def _precision_in_force() -> Callable[[], AbstractContextManager[None]]:
    """`jax.default_matmul_precision` as it is set here and now.

    Autodiff's backward products have the precision that was set for the forward's, wherever they
    are traced; where none was set, the one in force around themselves.
    """
    precision = jax.config.values["jax_default_matmul_precision"]
    return partial(jax.default_matmul_precision, precision) if precision else nullcontext


def _released(value: Any) -> Any:
    return value.value if isinstance(value, _Whole) else value
