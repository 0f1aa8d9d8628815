"""The one table of ops. A new op is a new row; every generic test picks it up."""

from __future__ import annotations

from collections.abc import Callable
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


def each_case(*, where: Callable[[Case], bool] = lambda case: True) -> Any:
    """Run a test for every row, or for those `where` says."""
    rows = [case for case in CASES if where(case)]
    return pytest.mark.parametrize("case", rows, ids=lambda case: case.name)


def each_op(*, where: Callable[[Case], bool] = lambda case: True) -> Any:
    """Run a test for one row of every op."""
    return each_case(where=lambda case: not case.variant and where(case))
