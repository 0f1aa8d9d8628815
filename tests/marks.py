"""What runs by default, and what stands behind it.

By default every op is asked every question once, on its plainest row, and every part is run once in
this process. What asks a question again of another row, value or model, programs that train, and
the notebooks but one are `thorough`: they run with ``-m thorough``, and in `.ci/run`.

A test of several parameters need say nothing: by default each value of each of them occurs once.
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


def each_value_once(items: Iterable[pytest.Item]) -> None:
    """Mark as `thorough` what has, of a test's parameters, only values that came before.

    The table's tests (of a `case`) are marked by `tests/cases.py` instead.
    """
    seen: set[Any] = set()
    for item in items:
        params = getattr(getattr(item, "callspec", None), "params", {"case": None})
        if "case" in params or item.get_closest_marker("thorough"):
            continue
        values = set()
        for mark in item.iter_markers("parametrize"):
            names = mark.args[0].split(",") if isinstance(mark.args[0], str) else mark.args[0]
            these = {name.strip(): params[name.strip()] for name in names}
            values.add((item.nodeid.partition("[")[0], repr(these)))
        if values <= seen:
            item.add_marker(thorough)
        seen |= values
