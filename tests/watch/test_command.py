"""`fnnet watch`: a program is run as it is, and its rules are reported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fnnet.watch import cli

RULES = Path(__file__).parent / "rules.py"


@pytest.fixture
def script(tmp_path):
    def written(call):
        file = tmp_path / "program.py"
        file.write_text(
            f"import sys\nimport jax, jax.numpy as jnp\n{RULES.read_text(encoding='utf-8')}\n"
            f"print('the words are', sys.argv[1:])\n{call}\n",
            encoding="utf-8",
        )
        return str(file)

    return written


def test_a_wrong_rule(script, capsys, tmp_path):
    file = tmp_path / "verdicts.json"
    program = script("jax.jit(jax.grad(lambda x: wrong(x).sum()))(jnp.ones(3))")
    assert cli.main(["--json", str(file), program, "--json", "own"]) == 1
    said = capsys.readouterr().out
    assert "the words are ['--json', 'own']" in said
    assert "program.py" in said
    assert "scaled" in said
    (rule,) = json.loads(file.read_text(encoding="utf-8"))["rules"]
    assert (rule["rule"], rule["verdict"]) == ("wrong", "wrong")


@pytest.mark.parametrize(
    ("call", "code", "words"),
    [
        ("right(jnp.ones(3))", 0, "rules met: 1 (1 correct)"),
        ("right(jnp.ones(3)); sys.exit(7)", 7, "rules met: 1 (1 correct)"),
        ("wrong(jnp.ones(3)); sys.exit(7)", 1, "rules met: 1 (1 wrong)"),
        ("pass", 0, "no hand-written rule was met"),
        ("right(jnp.ones(3)); 1 / 0", 1, "rules met: 1 (1 correct)"),
    ],
)
def test_exit_codes(script, capsys, call, code, words):
    assert cli.main([script(call)]) == code
    said = capsys.readouterr()
    assert words in said.out
    assert ("ZeroDivisionError" in said.err) == ("1 / 0" in call)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "name a program"),
        (["nowhere.py"], "there is no file nowhere.py"),
        (["--seconds", "0", __file__], "--seconds must be positive"),
        (["-m", "no_such_module"], "there is no module no_such_module"),
        (["--json", "nowhere/x.json", __file__], "there is no directory nowhere"),
    ],
)
def test_words_that_make_no_sense(argv, words, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(argv)
    assert end.value.code == 2
    assert words in capsys.readouterr().err


def test_as_a_module_of_a_process(tmp_path):
    (tmp_path / "mine.py").write_text(
        f"{RULES.read_text(encoding='utf-8')}\nwrong(jnp.ones(2))\n", encoding="utf-8"
    )
    done = subprocess.run(
        [sys.executable, "-m", "fnnet", "watch", "-m", "mine"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 1, done.stderr
    assert "rules met: 1 (1 wrong)" in done.stdout
