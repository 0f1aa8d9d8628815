"""--distributed: two processes, gloo between them, and the losses of one."""

import re
import signal
import socket
import subprocess
from pathlib import Path

import char_lm
import checkpoints
import mnist
import numpy as np
import pytest

from tests.marks import thorough

from .programs import cached, ended, lines, parameters, program

# epochs enough that a slow test still interrupts
SMALL = "--data digits --hidden 16 --smoke --epochs 20 --batch-size 64 --save-every 1"
FLAGS = [*SMALL.split()]


def two(tmp_path: Path, script: str, *args: str, **env: str) -> list[subprocess.Popen[str]]:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{s.getsockname()[1]}"
    join = ["--distributed", "--coordinator", coordinator, "--num-processes", "2"]
    return [
        program(script, *args, *join, "--process-id", str(i), cwd=tmp_path, **env) for i in (0, 1)
    ]


@thorough
def test_two_processes_are_one(tmp_path):
    """Interrupted, then resumed on a mesh over both: losses, files and words as of one process."""
    env = cached(tmp_path / "cache")
    ended(program("mnist.py", *FLAGS, "--workdir", "one", cwd=tmp_path, **env))

    both = two(tmp_path, "mnist.py", *FLAGS, "--workdir", "two", **env)
    next(line for line in both[0].stdout if line.startswith("epoch "))
    both[1].send_signal(signal.SIGINT)  # one hears it, both end
    (_, error), (out, _) = (ended(process, 130) for process in both)
    assert "--resume goes on" in error
    assert "epoch " not in out

    steps = checkpoints.steps(tmp_path / "two/checkpoints")
    env = cached(tmp_path / "cache", devices=2)
    mesh = ["--mesh", "data=2,model=2"]
    both = two(tmp_path, "mnist.py", *FLAGS, *mesh, "--resume", "--workdir", "two", **env)
    (out, error), (silent, _) = (ended(process) for process in both)
    assert error == ""
    assert f"resume            after step {steps[-1]} of 160" in out
    assert "mesh              data=2,model=2: each mini-batch in 2 parts; 4 of 4 leaves" in out
    assert "accuracy" in out
    assert not re.search("epoch|resume|mesh|accuracy", silent)  # gloo's own lines are another thing

    one, many = lines(tmp_path / "one"), lines(tmp_path / "two")
    assert [line["epoch"] for line in many] == [*range(1, 21)]
    for a, b in zip(one, many, strict=True):
        np.testing.assert_allclose(b["train_loss"], a["train_loss"], rtol=1e-4)
        np.testing.assert_allclose(b["test_loss"], a["test_loss"], rtol=1e-4)
    a, b = parameters(tmp_path / "one"), parameters(tmp_path / "two")
    assert a.keys() == b.keys()
    for name in a:
        a_, b_ = np.frombuffer(a[name], np.float32), np.frombuffer(b[name], np.float32)
        np.testing.assert_allclose(b_, a_, rtol=1e-3, atol=1e-5)
    assert checkpoints.find(tmp_path / "two/checkpoints").checkpoint.step == 160


WRONG = {
    "--coordinator 127.0.0.1:1": "--coordinator goes with --distributed",
    "--process-id 0": "--process-id goes with --distributed",
    "--distributed --num-processes 2": "--num-processes also needs --coordinator and --process-id",
    "--distributed --coordinator a:1 --num-processes 2 --process-id 2": "2: want 0 to 1",
    "--distributed --num-processes 0": "'0' is not a whole number, 1 or more",
}


@pytest.mark.parametrize("script", [mnist, char_lm])
@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_flags(script, wrong, capsys):
    with pytest.raises(SystemExit) as stop:
        script.main(wrong.split())
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert WRONG[wrong] in error


@thorough
def test_nobody_to_join(tmp_path):
    """JAX finds no cluster here: one line says what to give."""
    _, error = ended(program("mnist.py", "--smoke", "--distributed", cwd=tmp_path), 2)
    assert re.match("mnist.py: error: --distributed: .*Want --coordinator HOST:PORT", error)
    assert error.count("\n") == 1
