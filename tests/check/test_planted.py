"""Every planted bug is caught and named; no right rule is accused.

By default: one bug of each diagnosis, and one right rule in so many, which is asked every question.
The others are `thorough`; the right rules among them are asked the first-order questions, which
compile little (``python -m fnnet check --score`` asks them all).
"""

import pytest

from fnnet.check import check_vjp, verify
from fnnet.check.questions import differences, kinks, linearity, reverse, value
from tests.marks import thorough
from tests.planted import BUGS, RIGHT

ASKED_ALL = 10  # one in so many
KINDS = {row.name for row in RIGHT if row.build.__module__.endswith("right_kinds")}

# the first of each
DEFAULT = list({code: row for row in reversed(BUGS) for code in row.codes}.values())


def test_there_are_enough_of_them():
    assert {c for row in DEFAULT for c in row.codes} == {c for row in BUGS for c in row.codes}
    assert len(BUGS) >= 100
    assert len(RIGHT) >= 40
    assert len({row.name for row in [*BUGS, *RIGHT]}) == len(BUGS) + len(RIGHT)


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, id=row.name, marks=[] if row in DEFAULT else thorough) for row in BUGS],
)
def test_bug_is_caught_and_named(row):
    f, args, *options = row.build()
    report = check_vjp(f, args, **(options[0] if options else {}), stop_early=True)
    # what shows in other dtypes than the arguments' alone is a caution
    told = report.wrong or (report.cautions if report.strict else ())
    assert told, f"{report}"
    assert not report.ok
    assert told[0].diagnosis in row.codes, f"{report}"
    assert str(told[0].detail)


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(i, id=row.name, marks=thorough if i % ASKED_ALL else [])
        for i, row in enumerate(RIGHT)
    ],
)
def test_right_rule_is_not_accused(number, monkeypatch):
    f, args, *options = RIGHT[number].build()
    if number % ASKED_ALL and RIGHT[number].name not in KINDS:
        questions = (value, linearity, reverse, differences, kinks)
        monkeypatch.setitem(verify.LEVELS, "full", questions)
    report = check_vjp(f, args, **(options[0] if options else {}))
    assert report.verdict != "wrong", f"{report}"
    assert report.ok
    # a question that fails for the checker's own reasons says nothing about the rule
    assert not [f for f in report.findings if "could not be asked" in str(f.detail)], f"{report}"
