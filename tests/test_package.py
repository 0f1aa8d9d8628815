"""The house: what imports what, what loads when, and that shapes are what annotations say."""

import ast
import importlib
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FNNET = ROOT / "fnnet"

# a wing may import itself and those it stands on
STANDS_ON = {
    "rules": set(),
    "ops": {"rules"},
    "net": {"ops", "rules"},
    "check": {"ops", "rules"},
    "measure": {"ops", "rules"},
    "proof": set(),
}


def _imports(path: pathlib.Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            # relative, from files that also run without fnnet around them (proof/reference.py)
            start = path.parts[path.parts.index("fnnet") : -node.level] if node.level else ()
            names |= {".".join([*start, *filter(None, [node.module]), a.name]) for a in node.names}
    return names


FILES = sorted(FNNET.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(FNNET)))
def test_imports_run_one_way(path):
    parts = path.relative_to(FNNET).parts
    if len(parts) == 1:
        return  # __init__ and __main__ stand above all
    for name in _imports(path):
        assert not name.startswith("jax._src"), f"{path} reaches into jax._src"
        if name.startswith("fnnet."):
            may = STANDS_ON[parts[0]] | {parts[0]}
            # the command's table has the columns twin and proof; they load when it runs
            may |= {"proof"} if parts == ("check", "cli.py") else set()
            assert name.split(".")[1] in may, f"{path}: {name}"
        if parts[0] == "proof":
            assert name.split(".")[0] not in {"jax", "jaxlib", "jaxtyping"}, f"{path}: {name}"


def _python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout


def test_importing_fnnet_loads_only_what_ops_need():
    loaded = _python("import sys, fnnet; print(*sys.modules)").split()
    for lazy in (
        "fnnet.check",
        "fnnet.proof",
        "fnnet.measure.bench",
        "sympy",
        "matplotlib",
        "optax",
    ):
        assert lazy not in loaded, lazy


def test_public_names():
    import fnnet

    for name in ("matmul", "lin", "relu", "mse", "plain", "register"):
        assert callable(getattr(fnnet, name))
    for module in ("ops", "init", "layers", "backprop", "ladder", "memory", "check", "proof"):
        assert getattr(fnnet, module).__name__.startswith("fnnet.")
        assert importlib.import_module(f"fnnet.{module}") is getattr(fnnet, module)
    for op in ("matmul", "lin", "relu", "mse"):
        assert getattr(fnnet, op) is getattr(fnnet.ops, op)
        assert callable(getattr(fnnet.ops, f"{op}_fwd"))
        assert callable(getattr(fnnet.ops, f"{op}_bwd"))


def test_annotated_shapes_are_checked_by_beartype():
    """Under jaxtyping's import hook the annotations hold for right calls and refuse wrong ones."""
    out = _python(
        """
from jaxtyping import install_import_hook, TypeCheckError
with install_import_hook("fnnet.ops", "beartype.beartype"):
    import fnnet
import jax, jax.numpy as jnp
x, w, b = jnp.ones((5, 3)), jnp.ones((3, 2)), jnp.ones(2)
jax.grad(lambda w: fnnet.mse(fnnet.relu(fnnet.lin(x, w, b)), jnp.ones((5, 2))))(w)
fnnet.matmul(x, w)
integers = jnp.arange(3)
for wrong in (lambda: fnnet.lin(x, w, w), lambda: fnnet.lin(w, w), lambda: fnnet.relu(integers)):
    try:
        wrong()
    except TypeCheckError:
        print("refused")
"""
    )
    assert out.split() == ["refused"] * 3
