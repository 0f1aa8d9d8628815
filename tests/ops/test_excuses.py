"""An excuse that nobody asks for any more would go unnoticed."""

import pathlib
import re

import pytest

from tests.cases import CASES

TEXTS = [p.read_text(encoding="utf-8") for p in pathlib.Path(__file__).parent.glob("test_*.py")]
TESTS = {name for text in TEXTS for name in re.findall(r"^def (test_\w+)\(", text, re.M)}


def test_every_excuse_is_from_a_test_that_there_is():
    for case in CASES:
        for test, reason in case.excuses.items():
            assert test.split(": ")[0] in TESTS, f"{case.name}: {test}"
            assert reason


def test_the_reason_is_what_the_test_that_skips_says():
    case = next(case for case in CASES if "test_huge_and_tiny" in case.excuses)
    with pytest.raises(pytest.skip.Exception, match=case.excuses["test_huge_and_tiny"]):
        case.excuse("test_huge_and_tiny")
    case.excuse("test_value_and_every_cotangent_against_autodiff")  # has none
