"""What a check is doing is told on a terminal, after a while, and nowhere else."""

import io
import sys

import pytest

import fnnet
from fnnet.check import check_vjp
from fnnet.check.report import progress
from tests.planted.functions import lin_args


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE", -1.0)
    monkeypatch.setattr(progress, "EVERY", 0.001)


def test_on_a_terminal(impatient, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    check_vjp(fnnet.lin, lin_args(4, 3, 2))
    written = terminal.getvalue()
    assert "\rfnnet check: lin: " in written
    assert "vmap, scan, checkpoint (" in written or "second order (" in written
    assert "\n" not in written
    # in the end the line is blank, and the cursor at its start
    *_, before, last, end = written.split("\r")
    assert last == " " * len(before.rstrip()) + " " * (len(before) - len(before.rstrip()))
    assert end == ""
    assert all(len(part) <= 79 for part in written.split("\r"))


def test_not_on_a_file(impatient, monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    check_vjp(fnnet.lin, lin_args(4, 3, 2))
    assert file.getvalue() == ""


def test_where_there_is_no_standard_error(impatient, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert check_vjp(fnnet.lin, lin_args(4, 3, 2)).ok


def test_not_before_it_takes_long(monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE", 3600.0)
    monkeypatch.setattr(progress, "EVERY", 0.001)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    check_vjp(fnnet.lin, lin_args(4, 3, 2))
    assert terminal.getvalue() == ""


def test_a_check_that_raises_leaves_no_line(impatient, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)

    def broken(x):
        raise RuntimeError("of the user's own")

    with pytest.raises(RuntimeError, match="own"):
        check_vjp(broken, (1.0,))
    assert not terminal.getvalue().strip("\r ")
