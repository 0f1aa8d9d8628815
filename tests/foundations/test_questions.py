"""The list of questions is complete, in order, and every answer is there."""

import re
from pathlib import Path

from tests.foundations.questions import QUESTIONS

HERE = Path(__file__).parent


def test_every_question_has_its_answer_and_every_answer_its_question():
    found = {
        (file.name, test)
        for file in HERE.glob("test_questions_*.py")
        for test in re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert {(q.file, q.test) for q in QUESTIONS} == found
    assert len(QUESTIONS) == len(found)


ROWS = [
    *(f"A{i}" for i in range(1, 12)),
    *("B3", "C1", "C5", "C6", "C8", "C9"),
    *(f"E{i}" for i in range(1, 6)),
    "G3",
]


def test_every_row_of_the_foundations_has_its_tests():
    names = " ".join(file.read_text(encoding="utf-8") for file in HERE.glob("test_*.py"))
    for row in ROWS:
        assert f"def test_{row}_" in names, row


def test_numbers_are_in_order_and_in_the_tests_names():
    assert [q.number for q in QUESTIONS] == [
        *(f"Q{i}" for i in range(1, 41)),
        *(f"F{i}" for i in range(1, 5)),
    ]
    for q in QUESTIONS:
        number = f"Q{int(q.number[1:]):02}" if q.number[0] == "Q" else q.number
        assert q.test.startswith(f"test_{number}_"), q
        assert q.title
