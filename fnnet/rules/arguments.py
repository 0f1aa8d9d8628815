"""The arguments of one call of a registered function, sorted by what JAX must know of them."""

from __future__ import annotations

import inspect
import itertools
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


@jax.tree_util.register_static
class _Traced(Static):
    """Where a traced value of a static argument belongs, by its name."""


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

    A static argument that is traced (under `jax.jit`, say) is an operand too, one without a
    cotangent; so is what the rule's functions close over, which is asked only whether a derivative
    by it is wanted.

    Attributes:
        names: of the positional arguments that are not static: those with a cotangent.
        count: how many operands belong to positional arguments that are not static.
        precision: a context in which matrix products have the precision in force at the call.
    """

    def __init__(
        self,
        signature: inspect.Signature,
        bound: inspect.BoundArguments,
        static: frozenset[str],
        left_out: frozenset[str] = frozenset(),
        closed_over: Sequence[tuple[str, Any]] = (),
    ) -> None:
        self.names: list[str] = []
        self.precision = _precision_in_force()
        self._static: dict[str, Any] = {}
        self._places: list[int] = []
        positional: list[Any] = []
        options: dict[str, Any] = {}
        traced: dict[str, Any] = {}

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
                is_static = p.name in static and not _is_traced(value)
                options[p.name] = _Whole(value) if is_static else value
            elif p.kind is p.VAR_POSITIONAL:
                for i, v in enumerate(value):
                    add(f"{p.name}[{i}]", v)
            elif p.name in static and _is_traced(value):
                traced[p.name] = value
                positional.append(_Traced(p.name))
            elif p.name in static:
                self._static[p.name] = value
                positional.append(_Whole(value))
            else:
                add(p.name, value)

        others = (options, traced, [value for _, value in closed_over])
        self._leaves, self._tree = jax.tree.flatten((positional, *others))
        n_positional = len(jax.tree.leaves(positional))
        labels = [f"a keyword-only argument (`{k}`)" for k in _names_of_leaves(options)]
        labels += [f"a static argument (`{k}`)" for k in _names_of_leaves(traced)]
        named = zip(labels, self._leaves[n_positional:], strict=False)
        self._traced = [(label, x) for label, x in named if isinstance(x, jax.core.Tracer)]
        self._closed_over = [f"a closed-over value (`{name}`)" for name, _ in closed_over]
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

    def release(self) -> tuple[list[Any], list[tuple[str, Any]]]:
        """The arrays, which JAX may trace and differentiate.

        Returns:
            The operands: first those of positional arguments, among them Python floats, then those
            of options and other operands that have no cotangent. And those of options and static
            arguments that are traced, each after what it is called.
        """
        operands, self._operands = self._operands, []
        traced, self._traced = self._traced, []
        return operands, traced

    def closed_over(self, wanted: Sequence[bool] | None = None) -> str | None:
        """What is closed over though a derivative by it is wanted; None if all is well.

        Args:
            wanted: for each operand, whether a derivative by it is; all, where that is not known.
        """
        first = len(self._at) - len(self._closed_over)
        flags = itertools.repeat(True) if wanted is None else wanted[first:]
        labels = zip(self._closed_over, flags, strict=False)
        return " or ".join(label for label, is_wanted in labels if is_wanted) or None

    def rebuilt(self, operands: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        """The positional arguments and the options with these operands in their places."""
        positional, options, traced = self._rebuilt(operands)
        return [traced[a.value] if isinstance(a, _Traced) else a for a in positional], options

    def known(self, operands: Sequence[Any]) -> dict[str, Any]:
        """The static arguments and the options, by name."""
        _, options, traced = self._rebuilt(operands)
        return {**self._static, **traced, **options}

    def _rebuilt(self, operands: Sequence[Any]) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
        leaves = list(self._leaves)
        for i, operand in zip(self._at, operands, strict=True):
            leaves[i] = operand
        positional, options, traced, _ = jax.tree.unflatten(self._tree, leaves)
        options = {k: _released(v) for k, v in options.items()}
        return [_released(a) for a in positional], options, traced

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


def _is_traced(value: Any) -> bool:
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value))


def _names_of_leaves(values: dict[str, Any]) -> list[str]:
    """For every leaf of a dictionary, in JAX's order, the key it is under."""
    return [k for k in sorted(values) for _ in jax.tree.leaves(values[k])]


def _released(value: Any) -> Any:
    return value.value if isinstance(value, _Whole) else value
