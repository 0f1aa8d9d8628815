"""SIGINT and SIGTERM: the run finishes its epoch, saves, says how to go on; and goes on."""

import os
import signal
import subprocess
import sys
import time

import checkpoints
import pytest

from tests.marks import first_of, thorough

from .conftest import EXAMPLES
from .programs import cached, ended, lines, parameters, program

FLAGS = "--data digits --hidden 8 --batch-size 256 --epochs 60 --save-every 100"


@thorough
def test_sigint_and_sigterm_then_resume(tmp_path):
    """Between checkpoints, so that the one written is the signal's."""
    env = cached(tmp_path / "cache")
    ended(program("mnist.py", *FLAGS.split(), "--workdir", "whole", cwd=tmp_path, **env))
    before, resume = 0, []
    for signum, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        process = program(
            "mnist.py", *FLAGS.split(), *resume, "--workdir", "cut", cwd=tmp_path, **env
        )
        next(line for line in process.stdout if line.startswith("epoch "))
        process.send_signal(signum)
        _, error = ended(process, code)
        notice, last = error.splitlines()
        assert notice == (
            "mnist.py: ending after this epoch, to save; SIGINT once more ends at once"
        )
        (step,) = checkpoints.steps(tmp_path / "cut/checkpoints")[-1:]
        done = step // 5
        assert last == (
            f"mnist.py: {signal.Signals(signum).name}: ended after epoch {done} of 60, which is "
            "saved: the same command with --resume goes on"
        )
        assert before < done < 60
        assert [line["epoch"] for line in lines(tmp_path / "cut")] == [*range(1, done + 1)]
        before, resume = done, ["--resume"]
    ended(program("mnist.py", *FLAGS.split(), "--resume", "--workdir", "cut", cwd=tmp_path, **env))
    assert parameters(tmp_path / "cut") == parameters(tmp_path / "whole")
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")


def listening(body: str) -> subprocess.Popen[str]:
    """A program whose main thread is busy outside of Python: in one call for 30 s."""
    code = f"""if True:
        import signal, sys, threading, time
        sys.path.insert(0, {str(EXAMPLES)!r})
        from signals import Signals
        with Signals("noted", "ended") as signals:
            print("go", flush=True)
            {body}
        print(signals.received)"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    assert process.stdout.readline() == "go\n"
    return process


# one call, as of a compiled program: other threads run, and no handler, for minutes
BUSY = "__import__('hashlib').pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)"


def test_a_second_sigint_ends_at_once():
    process = listening(BUSY)
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "noted\n"
    assert process.poll() is None
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    assert time.monotonic() - began < 5
    assert process.communicate()[1] == "ended\n"


@pytest.mark.parametrize("script", first_of(["mnist.py", "char_lm.py"]))
def test_sigint_while_it_still_imports(script, tmp_path):
    """One line; for Python itself the first tenth of a second."""
    (tmp_path / "jax.py").write_text('print("go", flush=True); import time; time.sleep(60)')
    paths = os.pathsep.join([str(tmp_path), str(EXAMPLES.parent)])
    process = program(script, cwd=tmp_path, PYTHONPATH=paths)
    assert process.stdout.readline() == "go\n"
    process.send_signal(signal.SIGINT)
    assert ended(process, 130) == ("", f"\n{script}: interrupted\n")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted(signum):
    process = listening("time.sleep(0.5); signals.received or time.sleep(30)")
    process.send_signal(signum)
    out, error = process.communicate(timeout=20)
    assert (process.returncode, out, error) == (0, f"{int(signum)}\n", "noted\n")


def test_a_signal_while_another_has_the_wakeup_socket():
    """As orbax's event loop has it for moments: the handler notes it."""
    process = listening("signal.set_wakeup_fd(-1); time.sleep(0.5)")
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate(timeout=20)
    assert (process.returncode, out, error) == (0, "15\n", "")


def test_all_is_as_before():
    from signals import ENDING, Signals

    before = [signal.getsignal(signum) for signum in ENDING]
    with Signals("") as signals:
        assert [signal.getsignal(signum) for signum in ENDING] != before
        os.kill(os.getpid(), signal.SIGTERM)
    assert signals.received == signal.SIGTERM
    assert [signal.getsignal(signum) for signum in ENDING] == before
    assert signal.set_wakeup_fd(-1) == -1
