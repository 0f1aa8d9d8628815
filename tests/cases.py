"""The one table of ops. A new op is a new row; every generic test picks it up."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from typing import Any

import pytest

from tests.case import Case as Case
from tests.rows import activations, dense, images, losses, norms, sequences

CASES = [
    *dense.ROWS,
    *losses.ROWS,
    *activations.ROWS,
    *norms.ROWS,
    *sequences.ROWS,
    *images.ROWS,
]

OP_NAMES = sorted({case.op_name for case in CASES})


def each_case(
    *,
    where: Callable[[Case], bool] = lambda case: True,
    brief: bool = False,
    long: bool = False,
) -> Any:
    """Run a test for every row, or for those `where` says.

    Rows of ops beyond the chapter's are marked `further`. Those of them that are variants where
    `brief`, and all of them where `long`, are marked `thorough`: they run only when asked for.
    """
    rows = [
        pytest.param(case, id=case.name, marks=_marks(case, long or (brief and case.variant)))
        for case in CASES
        if where(case)
    ]
    return pytest.mark.parametrize("case", rows)


def _marks(case: Case, thorough: bool) -> list[Any]:
    if case in dense.ROWS:
        return []
    return [pytest.mark.further, *([pytest.mark.thorough] if thorough else [])]


def each_op(*, where: Callable[[Case], bool] = lambda case: True, long: bool = False) -> Any:
    """Run a test for one row of every op."""
    return each_case(where=lambda case: not case.variant and where(case), long=long)


def each_case_with(
    name: str,
    values: Iterable[Any],
    *,
    long: Container[Any] = (),
    where: Callable[[Case], bool] = lambda case: True,
    brief: bool = False,
) -> Any:
    """Run a test for every row with each of `values`, its argument `name`.

    For ops beyond the chapter's, those in `long` are marked `thorough`; variants too where `brief`.
    """
    rows = [
        pytest.param(
            case,
            value,
            id=f"{case.name}-{value}",
            marks=_marks(case, value in long or (brief and case.variant)),
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
    where: Callable[[Case], bool] = lambda case: True,
) -> Any:
    """Run a test for one row of every op with each of `values`, its argument `name`."""
    return each_case_with(
        name, values, long=long, where=lambda case: not case.variant and where(case)
    )
