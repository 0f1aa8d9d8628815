"""The one table of ops. A new op is a new row; every generic test picks it up."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from typing import Any

import pytest

from tests.call import Call as Call
from tests.rows import activations, dense, geometry, images, losses, norms, sequences

CASES = [
    *dense.ROWS,
    *losses.ROWS,
    *activations.ROWS,
    *norms.ROWS,
    *geometry.ROWS,
    *sequences.ROWS,
    *images.ROWS,
]

OP_NAMES = sorted({case.op_name for case in CASES})


def each_case(
    *,
    where: Callable[[Call], bool] = lambda case: True,
    long: bool = False,
) -> Any:
    """Run a test for every row, or for those `where` says.

    One row of every op runs by default: its variants are marked `thorough`, and where `long` all
    rows but that of `lin`. Rows of ops beyond the chapter's are marked `further`.
    """
    rows = [
        pytest.param(case, id=case.name, marks=_marks(case, long)) for case in CASES if where(case)
    ]
    return pytest.mark.parametrize("case", rows)


def _marks(case: Call, long: bool) -> list[Any]:
    further = case not in dense.ROWS
    thorough = case.variant or (long and case.op_name != "lin")
    return [
        mark
        for mark, on in ((pytest.mark.further, further), (pytest.mark.thorough, thorough))
        if on
    ]


def each_op(*, where: Callable[[Call], bool] = lambda case: True, long: bool = False) -> Any:
    """Run a test for one row of every op."""
    return each_case(where=lambda case: not case.variant and where(case), long=long)


def each_case_with(
    name: str,
    values: Iterable[Any],
    *,
    long: Container[Any] = (),
    where: Callable[[Call], bool] = lambda case: True,
) -> Any:
    """Run a test for every row with each of `values`, its argument `name`.

    As `each_case`; with the values in `long` only `lin` runs by default.
    """
    rows = [
        pytest.param(
            case,
            value,
            id=f"{case.name}-{value}",
            marks=_marks(case, value in long),
        )
        for case in CASES
        if where(case)
        for value in values
    ]
    return pytest.mark.parametrize(("case", name), rows)


def each_op_with(
    name: str,
    values: Iterable[Any],
    *,
    long: Container[Any] = (),
    where: Callable[[Call], bool] = lambda case: True,
) -> Any:
    """Run a test for one row of every op with each of `values`, its argument `name`."""
    return each_case_with(
        name, values, long=long, where=lambda case: not case.variant and where(case)
    )
