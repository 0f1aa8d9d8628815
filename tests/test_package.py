"""The house: what imports what, what loads when, and that shapes are what annotations say."""

import ast
import importlib
import pathlib
import pydoc
import subprocess
import sys
from importlib import metadata

import pytest

import fnnet
from fnnet.check.selftest.samples import op_names

ROOT = pathlib.Path(__file__).parents[1]
FNNET = ROOT / "fnnet"

# a wing may import itself and those it stands on
STANDS_ON = {
    "rules": set(),
    "ops": {"rules"},
    "net": {"ops", "rules"},
    "check": {"ops", "rules"},
    "measure": {"ops", "rules"},
    "watch": {"net", "check", "measure", "ops", "rules"},
    "proof": set(),
}


def _imports(path: pathlib.Path) -> set[str]:
    names = set()
    here = ("fnnet", *path.relative_to(FNNET).parts)  # whatever the folders above are called
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            # relative, from files that also run without fnnet around them (proof/reference.py)
            start = here[: -node.level] if node.level else ()
            names |= {".".join([*start, *filter(None, [node.module]), a.name]) for a in node.names}
    return names


FILES = sorted(FNNET.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(FNNET)))
def test_imports_run_one_way(path):
    parts = path.relative_to(FNNET).parts
    if parts == ("_terminal.py",):
        foreign = {name.split(".")[0] for name in _imports(path)} - sys.stdlib_module_names
        assert foreign == {"matplotlib"}, "asked for whether it is there"
    if len(parts) == 1:
        return  # __init__, __main__ and the files that gather public names stand above all
    for name in _imports(path):
        assert not name.startswith("jax._src"), f"{path} reaches into jax._src"
        if name.startswith("fnnet."):
            may = STANDS_ON[parts[0]] | {parts[0]}
            # the command's table has the columns twin and proof; they load when it runs
            may |= {"proof"} if parts == ("check", "cli.py") else set()
            may |= {"_terminal"}  # the ground, which stands on Python alone
            assert name.split(".")[1] in may, f"{path}: {name}"
        if parts[0] == "proof":
            assert name.split(".")[0] not in {"jax", "jaxlib", "jaxtyping"}, f"{path}: {name}"


# the rooms of check, in order: each may import those before it
ROOMS = (
    "case",
    "oracle",
    "diagnosis",
    "questions",
    "report",
    "taylor",
    "declare",
    "verify",
    "compare",
    "selftest",
    "cli",
)


@pytest.mark.parametrize(
    "path", [p for p in FILES if "check" in p.relative_to(FNNET).parts[:-1]], ids=lambda p: p.name
)
def test_the_rooms_of_check_are_in_order(path):
    room = path.relative_to(FNNET / "check").parts[0].removesuffix(".py")
    if room == "__init__":
        return
    for name in _imports(path):
        if name.startswith("fnnet.check."):
            other = name.split(".")[2]
            assert ROOMS.index(other) <= ROOMS.index(room), f"{path}: {name}"


def _python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        encoding="utf-8",
        check=True,
        cwd=ROOT,
    ).stdout


def test_importing_fnnet_loads_only_what_ops_need():
    loaded = _python("import sys, fnnet; print(*sys.modules)").split()
    for lazy in (
        "fnnet.check",
        "fnnet.targets",
        "fnnet.proof",
        "fnnet.measure.bench",
        "sympy",
        "matplotlib",
        "optax",
    ):
        assert lazy not in loaded, lazy


PUBLIC_MODULES = (
    *("ops", "init", "layers", "backprop", "ladder", "memory", "curvature"),
    *("targets", "check", "proof", "watch"),
)


def test_public_names():
    for name in ("matmul", "lin", "relu", "mse", "plain", "register", "both_modes"):
        assert callable(getattr(fnnet, name))
    for module in PUBLIC_MODULES:
        assert getattr(fnnet, module).__name__ == f"fnnet.{module}"
        assert importlib.import_module(f"fnnet.{module}") is getattr(fnnet, module)
    for op in op_names():
        assert getattr(fnnet, op) is getattr(fnnet.ops, op)
        assert callable(getattr(fnnet.ops, f"{op}_fwd"))
        assert callable(getattr(fnnet.ops, f"{op}_bwd"))


def test_all_and_dir_are_the_public_names():
    names = {*op_names(), *PUBLIC_MODULES, "plain", "register", "both_modes"}
    assert set(fnnet.__all__) == names
    assert {name for name in dir(fnnet) if not name.startswith("_")} == names
    assert "__version__" in dir(fnnet)
    passes = {f"{op}_{way}" for op in op_names() for way in ("fwd", "bwd")}
    assert set(fnnet.ops.__all__) == {*op_names(), *passes}
    space = {}
    exec("from fnnet import *", space)
    assert set(space) - {"__builtins__"} == names


@pytest.mark.parametrize("name", PUBLIC_MODULES)
def test_all_of_a_module_is_there(name):
    module = getattr(fnnet, name)
    public = getattr(module, "__all__", ())
    assert len(set(public)) == len(public)
    for one in public:
        assert hasattr(module, one), one
    if name in ("init", "layers", "backprop", "ladder", "memory", "check"):
        assert set(public) == {
            n for n, value in vars(module).items() if n[0] != "_" and not _is_module(value)
        }
    if name in ("init", "layers", "backprop", "ladder", "memory"):
        for one in public:  # the same objects, where they are written
            home = importlib.import_module(
                f"fnnet.{'measure' if name == 'memory' else 'net'}.{name}"
            )
            assert getattr(module, one) is getattr(home, one)


def _is_module(value):
    return isinstance(value, type(fnnet))


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="module 'fnnet' has no attribute 'nonsense'"):
        _ = fnnet.nonsense
    with pytest.raises(ImportError, match="nonsense"):
        exec("from fnnet import nonsense")


def test_help_lists_the_ops():
    text = pydoc.plain(pydoc.render_doc(fnnet))
    for op in op_names():
        assert f"\n    {op}(" in text, op
        assert getattr(fnnet, op).__doc__.split("\n")[0] in text
    assert "\n    linear(" in pydoc.plain(pydoc.render_doc(fnnet.layers))
    assert "\n    lin_bwd(" in pydoc.plain(pydoc.render_doc(fnnet.ops))


def test_the_version(monkeypatch):
    """Of the installed package; from a source folder that is not installed there is none."""
    assert fnnet.__version__ == metadata.version("fnnet")

    def none(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", none)
    assert fnnet.__version__ == "0+unknown"


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
