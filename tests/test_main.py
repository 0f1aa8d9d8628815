"""`python -m fnnet`: the dispatcher."""

import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec

import pytest

from fnnet import __main__ as dispatcher
from fnnet.__main__ import COMMANDS, main


def test_help_names_every_command(capsys):
    for word in ("--help", "-h"):
        assert main([word]) == 0
        printed = capsys.readouterr()
        assert printed.err == ""
        for name, command in COMMANDS.items():
            assert name in printed.out
            assert command.summary in printed.out


def test_unknown_command_and_none(capsys):
    assert main(["laddder"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"fnnet: no command 'laddder'; there are: {', '.join(COMMANDS)}\n"
    assert main([]) == 2
    assert "usage: python -m fnnet" in capsys.readouterr().err


def test_the_other_words_and_the_exit_code_are_passed_on(monkeypatch):
    seen = []

    class Module:
        @staticmethod
        def main(argv):
            seen.append(argv)
            return 7

    monkeypatch.setattr(
        dispatcher, "import_module", lambda name: Module if name == "here" else None
    )
    monkeypatch.setitem(COMMANDS, "try", dispatcher.Command("here", "a try"))
    assert main(["try", "--size", "3"]) == 7
    assert seen == [["--size", "3"]]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_main(name):
    assert find_spec(COMMANDS[name].module)
    assert callable(import_module(COMMANDS[name].module).main)


def test_python_m_fnnet():
    run = [sys.executable, "-m", "fnnet", "nothing"]
    done = subprocess.run(run, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("fnnet: no command 'nothing'")
