"""`python -m fnnet`: the dispatcher, and what its commands do alike."""

import json
import os
import re
import signal
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec

import pytest

import fnnet
from fnnet import __main__ as dispatcher
from fnnet import _terminal
from fnnet.__main__ import COMMANDS, main
from fnnet.check import cli


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
    known = ", ".join(COMMANDS)
    assert printed.err == (
        f"fnnet: no command 'laddder'; did you mean ladder? There are: {known}\n"
    )
    assert main(["--jsn"]) == 2
    assert f"no command '--jsn'; there are: {known}\n" in capsys.readouterr().err
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


def program(*words, **environment):
    """The command in a process of its own, as a user starts it."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("XLA_", "JAX_", "PYTHON"))}
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-m", "fnnet", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env={**clean, "PYTHONPATH": paths, "JAX_PLATFORMS": "cpu", **environment},
    )


ROOT = os.path.dirname(os.path.dirname(os.path.abspath(fnnet.__file__)))
# nothing can be written to such a home; nor can such an output print a letter beyond ASCII
BARE = {
    "HOME": os.devnull,
    "LC_ALL": "C",
    "PYTHONIOENCODING": "ascii",
    "TZ": "Asia/Kathmandu",
    "COLUMNS": "80",
}


@pytest.mark.parametrize(
    "words",
    [
        "nothing",
        "--version",
        "check --op relu --json -",
        "ladder --size 2 --budget 0.001 --json -",
        "bench --op mse --quick --json -",
        "prove --op mse",
    ],
)
def test_a_process_with_a_bare_environment(words):
    """No home, no Unicode, 80 columns; and where figures go to standard output they are alone."""
    words = words.split()
    process = program(*words, **BARE)
    out, error = process.communicate(timeout=300)
    assert process.returncode == (2 if words == ["nothing"] else 0), error
    people = out
    if "--json" in words:
        people = error
        assert json.loads(out)
    elif words == ["nothing"]:
        people = error
        assert error.startswith("fnnet: no command 'nothing'; there are: check, ")
    elif words == ["--version"]:
        assert out.startswith(f"fnnet {fnnet.__version__} (JAX ")
    assert people.isascii()
    assert max(map(len, people.splitlines())) <= 80


@pytest.mark.parametrize("words", [[], ["prove"]], ids=["importing", "at work"])
def test_ctrl_c_is_one_line(words, tmp_path):
    slow = 'print("op ", flush=True); import time; time.sleep(60)'
    (tmp_path / "jax.py").write_text(slow)
    before = {} if words else {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    process = program(*words or ["check"], **BARE, **before)
    assert process.stdout.readline().startswith("op ")
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.strip() == f"fnnet{' ' + words[0] if words else ''}: interrupted"


def test_nobody_reads_on():
    process = program("prove", **BARE)
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == _terminal.BROKEN_PIPE
    assert process.stderr.read() == ""
    process.stderr.close()


def test_there_is_no_device():
    process = program("ladder", "--size", "2", JAX_PLATFORMS="cuda", HOME=os.devnull)
    out, error = process.communicate(timeout=60)
    assert (process.returncode, out, error.count("\n")) == (2, "", 1)
    assert error.startswith("fnnet ladder: JAX finds no device: ")


@pytest.mark.parametrize("name", ["check", "bench", "prove"])
def test_help_and_errors_list_the_ops(name, capsys, monkeypatch):
    """By name, and folded; with the nearest name."""
    monkeypatch.setenv("COLUMNS", "80")
    for words, code in ((["--help"], 0), (["--op", "soft_max"], 2)):
        try:
            got = main([name, *words])
        except SystemExit as e:
            got = e.code
        assert got == code
        text = "".join(capsys.readouterr())
        for op in ("matmul", "linear_cross_entropy", "gru", "softmax"):
            assert re.search(rf"\b{op}\b", text)
        assert max(map(len, text.splitlines())) <= 80
    assert f"fnnet {name}: --op: there is no op 'soft_max'; did you mean softmax?\n  There" in text


def test_files_are_looked_at_before_work(tmp_path, monkeypatch):
    fault = _terminal.file_fault
    file = tmp_path / "there.json"
    file.write_text("")
    assert [fault(x) for x in ("-", file, tmp_path / "new.json", "new.json")] == [""] * 4
    assert fault(tmp_path) == f"{tmp_path}: this is a directory"
    assert fault("") == "the file's name is empty"
    assert fault(file / "x.json") == f"{file / 'x.json'}: there is no directory {file}"
    assert "there is no directory" in fault(tmp_path / ("n" * 300) / "x.json")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert fault(file) == f"{file}: it cannot be written over"
    assert fault(tmp_path / "new.json") == f"{tmp_path}: it cannot be written to"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("check --only foo", "--only goes with --score"),
        ("check --score --op lin", "--op does not go with --score"),
        ("check --score --verbose", "--verbose does not go with --score"),
        ("check --score --only nosuch", "--only nosuch: no planted row's name"),
        ("check --devices 0", "--devices must be at least 1, got 0"),
        ("check --op relu --json nowhere/a.json", "there is no directory nowhere"),
        ("check --op relu --json .", "this is a directory"),
        ("check --jso x", "unrecognized arguments: --jso"),
        ("bench --json - --plot -", "standard output is one file"),
        ("bench --op epoch --plot x.png", "name an op beside epoch"),
        ("bench --json nowhere/a.json", "there is no directory nowhere"),
        ("ladder --json - --plot -", "standard output is one file"),
        ("ladder --plot nowhere/a.png", "there is no directory nowhere"),
    ],
)
def test_words_that_make_no_sense_together(words, message, capsys, monkeypatch):
    """One line, before any work."""
    monkeypatch.setenv(cli._STARTED, "8")  # --score would start anew
    try:
        code = main(words.split())
    except SystemExit as e:
        code = e.code
    printed = capsys.readouterr()
    assert (code, printed.out, printed.err.count("\n")) == (2, "", 1)
    assert message in printed.err
    assert printed.err.startswith(f"fnnet {words.split()[0]}: ")


def test_a_picture_to_standard_output(capfdbinary, monkeypatch):
    pytest.importorskip("matplotlib")
    with _terminal.picture("-") as file:
        file.write(b"PNG")
    assert capfdbinary.readouterr().out == b"PNG"
    with _terminal.picture("x.png") as file:
        assert file == "x.png"


def test_proofs_need_sympy():
    code = (
        "import sys; sys.modules['sympy'] = None; from fnnet.__main__ import main; "
        "sys.exit(main(['prove']))"
    )
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, capture_output=True, encoding="utf-8", timeout=120, cwd=ROOT)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == ("fnnet prove: fnnet.proof.symbolic needs SymPy: pip install sympy\n")
