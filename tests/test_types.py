"""A user's file under `mypy --strict` and pyright: right uses pass, and misspelt names do not.

Each runs where it is installed: mypy comes with the extra `lint`.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

USER = """\
import jax
import jax.numpy as jnp
from jax import Array

import fnnet
import fnnet.check
from fnnet import attention, backprop, cross_entropy, init, ladder, layers, lin, memory, ops
from fnnet import plain, proof, register, relu
from fnnet.backprop import MLPParams, forward_and_backward, init_mlp
from fnnet.check import Report, assert_vjp, check_vjp, compare_gradients
from fnnet.init import Initializer, kaiming_normal
from fnnet.ladder import RUNGS, LadderTable, time_ladder
from fnnet.layers import Layer, LinearParams, linear, parameters, relu_layer, sequential
from fnnet.memory import CompiledMemory, compiled_memory, residuals, storage

version: str = fnnet.__version__
weights: Initializer = init.normal(0.1)
net: Layer = sequential(linear(3, 4, init=kaiming_normal), relu_layer(), layers.linear(4, 2))
params = net.init(jax.random.key(0))
params = net.init(jax.random.key(0), dtype=jnp.bfloat16)
names: list[tuple[str, Array]] = parameters(params)
first = LinearParams(w=jnp.ones((3, 4)), b=None)


def loss(w: Array, x: Array) -> Array:
    return jnp.sum(relu(lin(x, w)))


hand: Array = jax.grad(loss)(jnp.ones((3, 4)), jnp.ones((5, 3)))
automatic: Array = jax.grad(plain(loss))(jnp.ones((3, 4)), jnp.ones((5, 3)))
report: Report = fnnet.check.check_vjp(loss, (jnp.ones((3, 4)), jnp.ones((5, 3))))
right: bool = report.ok
table: LadderTable = time_ladder(jnp.ones((3, 4)), jnp.ones((4, 3)))
needed: CompiledMemory = memory.compiled_memory(loss, jnp.ones((3, 4)), jnp.ones((5, 3)))
mlp: MLPParams = backprop.init_mlp(jax.random.key(0), [3, 4, 1], kaiming_normal)
value, grads = forward_and_backward(mlp, jnp.ones((5, 3)), jnp.ones(5))
text: str = proof.__name__ + ladder.__name__ + ops.__name__
"""

MISTAKES = """\
import fnnet
import fnnet.layers
from fnnet import softmacks
from fnnet.layers import linaer
from fnnet.memory import residual
from fnnet.ladder import main
from fnnet.init import glorot
from fnnet.check import check

fnnet.nonsense
fnnet.chek.check_vjp
fnnet.check.check_jvp
fnnet.layers.lineer(3, 4)
number: int = fnnet.__version__
fnnet.layers.linear("3", 4)
"""


def _found(command: list[str], folder: pathlib.Path, error: str) -> dict[str, list[int]]:
    """The lines with errors, by file."""
    (folder / "right.py").write_text(USER, encoding="utf-8")
    (folder / "wrong.py").write_text(MISTAKES, encoding="utf-8")
    environment = {**os.environ, "MYPYPATH": str(ROOT), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=600
    )
    lines: dict[str, list[int]] = {"right.py": [], "wrong.py": []}
    for file, line in re.findall(error, done.stdout, re.MULTILINE):
        lines[file].append(int(line))
    assert done.returncode == 1, done.stdout + done.stderr  # for the mistakes
    assert lines["right.py"] == [], done.stdout
    return lines


WANTED = [i for i, line in enumerate(MISTAKES.splitlines(), 1) if i > 2 and line]


def test_mypy(tmp_path):
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent"]
    command += ["--cache-dir", str(tmp_path / "cache"), "right.py", "wrong.py"]
    lines = _found(command, tmp_path, r"^(\w+\.py):(\d+): error")
    assert sorted(set(lines["wrong.py"])) == WANTED


def test_pyright(tmp_path):
    """By the PyPI package or any other `pyright` on the path."""
    pyright = shutil.which("pyright")
    if pyright is None:
        pytest.skip("there is no pyright")
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "standard"}')
    command = [pyright, "--pythonpath", sys.executable, "right.py", "wrong.py"]
    lines = _found(command, tmp_path, r"(\w+\.py):(\d+):\d+ - error")
    assert sorted(set(lines["wrong.py"])) == WANTED
