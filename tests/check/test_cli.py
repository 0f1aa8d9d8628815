"""`python -m fnnet check`, and the score."""

import json
import subprocess
import sys

import jax
import pytest

import fnnet.proof
from fnnet.check import cli
from fnnet.check.selftest import score
from fnnet.check.selftest.samples import SAMPLES, op_names, samples
from fnnet.check.selftest.twin import NEAR, twin_error
from fnnet.proof import reference
from tests.planted import BUGS, RIGHT
from tests.planted.functions import lin
from tests.planted.row import changed


def test_every_op_has_samples_and_no_other_has():
    assert set(SAMPLES) == set(op_names())


@pytest.mark.parametrize("name", op_names())
def test_samples_are_calls_of_their_op_and_agree_with_its_twin(name):
    for sample in samples(name, jax.random.key(0)):
        assert twin_error(name, sample, reference) < NEAR


def test_one_op(capsys, tmp_path):
    file = tmp_path / "reports.json"
    assert cli.main(["--op", "relu", "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "relu" in printed
    assert "lin" not in printed
    (op,) = json.loads(file.read_text(encoding="utf-8"))
    (report,) = op["calls"]
    assert op["ok"]
    assert op["proof"].startswith("proved")
    assert report["verdict"] == "correct"
    assert report["twin"] < NEAR
    assert {f["check"] for f in report["findings"]} >= {"sharded by the compiler", "vmap"}


def test_a_wrong_op_fails(capsys, monkeypatch):
    monkeypatch.setattr(fnnet.ops, "lin", changed(lin, lambda d, a, g: (d[0], -d[1], d[2])))
    monkeypatch.setattr(cli, "samples", lambda name, key: samples(name, key)[:1])
    assert cli.main(["--op", "lin"]) == 1
    assert "[negated]" in capsys.readouterr().out


def test_what_the_caller_says_of_the_rules(capsys, monkeypatch):
    """Each flag of `check_vjp`'s, and what it changes."""
    monkeypatch.setattr(cli, "samples", lambda name, key: samples(name, key)[:1])

    def off(by):
        return changed(lin, lambda d, a, g: (d[0], by(d[1]) * d[1], d[2]))

    monkeypatch.setattr(fnnet.ops, "lin", off(lambda d: 1.01))
    words = ["--op", "lin", "--level", "quick"]
    monkeypatch.setattr(cli, "twin_error", lambda *a: None)
    assert cli.main(words) == 1
    assert cli.main([*words, "--tolerance", "0.005"]) == 0
    assert cli.main([*words, "--surrogate"]) == 0
    assert cli.main([*words, "--surrogate", "--strict"]) == 1
    assert "left open" in capsys.readouterr().out


@pytest.mark.parametrize("word", ["-1", "1", "nan", "some"])
def test_no_tolerance(capsys, word):
    assert cli.main([f"--tolerance={word}"]) == 2
    assert "--tolerance: must be a number from 0 to 1" in capsys.readouterr().err


def test_words_that_make_no_sense(capsys):
    assert cli.main(["--op", "lim"]) == 2
    assert "there is no op 'lim'; did you mean lin?\n  There are: " in capsys.readouterr().err
    assert cli.main(["--devices", "0"]) == 2
    assert cli.main(["--nonsense"]) == 2
    assert cli.main(["--help"]) == 0


def test_an_op_that_differs_from_its_twin_fails(capsys, monkeypatch):
    monkeypatch.setattr(fnnet.ops, "relu", lambda x: jax.numpy.abs(x))
    assert cli.main(["--op", "relu"]) == 1
    assert "wrong" in capsys.readouterr().out


def test_proofs_are_left_out_without_sympy(capsys, monkeypatch):
    for name in ("fnnet.proof.cases", "fnnet.proof.symbolic"):
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delattr(f"fnnet.proof.{name.rpartition('.')[2]}", raising=False)
    assert cli.main(["--op", "relu"]) == 0
    assert "no SymPy" in capsys.readouterr().out


def test_a_new_op_needs_samples(monkeypatch):
    monkeypatch.setattr(fnnet.ops, "double", lambda x: x + x, raising=False)
    assert "double" in op_names()
    with pytest.raises(LookupError, match="give it a line"):
        samples("double", jax.random.key(0))


def test_devices_starts_anew(tmp_path):
    """In a process of its own, which had one device."""
    file = tmp_path / "reports.json"
    words = ["check", "--op", "relu", "--devices", "2", "--json", str(file)]
    done = subprocess.run(
        [sys.executable, "-c", _ONE_DEVICE, *words],
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "2 x cpu" in done.stdout
    (report,) = json.loads(file.read_text(encoding="utf-8"))[0]["calls"]
    assert [f["verdict"] for f in report["findings"] if "sharded" in f["check"]].count("correct")


_ONE_DEVICE = """
import os, sys
os.environ["XLA_FLAGS"] = ""
from fnnet.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def test_score_table():
    chosen = [row for row in BUGS if row.name in ("lin: dw is half", "sin: forgets g")]
    (right,) = (row for row in RIGHT if row.name == "determinant of ones")
    results = [score.score(row, True) for row in chosen] + [score.score(right, False)]
    lines = score.summary(results)
    assert lines[2].split()[:5] == ["fnnet", "check", "2", "of", "2"]
    # the habit of comparing gradients of sums does not see a rule that forgets g
    (habit,) = [line for line in lines if line.startswith("allclose")]
    assert "1 of 2" in habit
    assert lines[-2] == "diagnoses right: 2 of 2; right rules undecided: 0"
    assert lines[-1].startswith("seconds a rule: ")


def test_score_without_a_checkout(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(score, "PLANTED", tmp_path / "planted")
    assert cli.main(["--score"]) == 2
    assert "Clone the repository" in capsys.readouterr().err
