"""`Call`: one row of the table of ops, and what a test that leaves it out says."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import pytest
from jax.sharding import PartitionSpec as P

import fnnet
from tests.compare import normal

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Call:
    """One way to call one op.

    Attributes:
        name: of the row.
        function: the public op.
        plain: the same, as anyone would write it in jax.numpy, without custom rules.
        shapes: of the arguments.
        batch: for each argument, the axis along which it is cut over devices, or None.
        layouts: for each argument, its PartitionSpec on a mesh of axes "d" (2) and "m" (2).
        big: shapes at which memory is compared.
        terms: how many numbers are added up into one number of a result, at `shapes`.
        rounded: how many units of rounding of the largest number come from results on the way that
            are themselves rounded to float16 or bfloat16 (states, pre-activations).
        complex_too: whether complex arrays are accepted.
        scalar: whether the result is one number for the whole batch.
        kinks: arguments at which the derivative is a choice, and the derivative chosen.
        majorant: a function that bounds the sizes of the terms added up, at absolute arguments; by
            default the largest number of each result is taken.
        twin: the NumPy twin's vjp.
        options: keyword arguments of the function, and of `plain`.
        adapt: makes of a function of the op's arguments one of float arrays alone, where the op
            takes others too (labels, masks).
        poisoned: the arguments in which NaN and inf are tried, by default all.
        recomputed: how many products more than autodiff the program has, as the backward pass
            makes some of the forward again.
        excuses: why a test leaves this row out, by the test's name; or one cell of a test, by
            "name: cell" (see `excuse`). The test prints it.
        variant: a further row of an op: it skips the tests that take long and that one row of the
            op goes through (see `each_op`).
    """

    name: str
    function: Callable[..., Any]
    plain_function: Callable[..., Any]
    shapes: Sequence[Shape]
    batch: Sequence[int | None]
    big: Sequence[Shape]
    terms: int
    layouts: Sequence[Sequence[P]] = ()
    rounded: int = 0
    complex_too: bool = False
    scalar: bool = False
    kinks: Sequence[tuple[Sequence[float], Sequence[float]]] = ()
    majorant: Callable[..., Any] | None = None
    twin: Callable[..., Any] | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    adapt: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda f: f
    poisoned: Sequence[int] | None = None
    recomputed: int = 0
    excuses: dict[str, str] = dataclasses.field(default_factory=dict)
    variant: bool = False

    def excuse(self, test: str) -> None:
        """Skip, and say why, where the row has an excuse for this test, or this cell of it.

        A whole test's is asked for before the test runs, by `tests/ops/conftest.py`.
        """
        if test in self.excuses:
            pytest.skip(self.excuses[test])

    def args(self, key: jax.Array, dtype: Any = "float64", big: bool = False) -> list[jax.Array]:
        """Random arguments."""
        return normal(key, self.big if big else self.shapes, dtype)

    @functools.cached_property
    def op(self) -> Callable[..., Any]:
        return self._of(self.function)

    @functools.cached_property
    def plain(self) -> Callable[..., Any]:
        return self._of(self.plain_function)

    @property
    def op_name(self) -> str:
        return self.function.__name__

    @property
    def fwd(self) -> Callable[..., Any]:
        return self._of(getattr(fnnet.ops, f"{self.op_name}_fwd"))

    @property
    def bwd(self) -> Callable[..., Any]:
        return getattr(fnnet.ops, f"{self.op_name}_bwd")  # type: ignore[no-any-return]

    def _of(self, f: Callable[..., Any]) -> Callable[..., Any]:
        f = functools.partial(f, **self.options) if self.options else f
        return self.adapt(f)
