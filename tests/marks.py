"""What runs by default, and what stands behind it.

By default every op is asked every question once, on its plainest row, and every part is run once in
this process. What asks a question again of another row, value or model, programs that train, and
the notebooks but one are `thorough`: they run with ``-m thorough``, and in `.ci/run`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

thorough = pytest.mark.thorough


def first_of(values: Iterable[Any]) -> list[Any]:
    """For `parametrize`: of these values, all but the first are `thorough`."""
    first, *others = values
    return [first, *(pytest.param(value, marks=thorough) for value in others)]
