"""Every example in a docstring and in the README runs, in the numerics users have."""

import doctest
import importlib
import pathlib
import pkgutil
import re

import jax
import pytest

import fnnet

ROOT = pathlib.Path(__file__).parents[1]
MODULES = sorted(
    m.name
    for m in pkgutil.walk_packages(fnnet.__path__, "fnnet.")
    if not m.name.endswith("__main__")
)


@pytest.fixture(autouse=True)
def users_numerics():
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert failed == 0


def test_readme_examples():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})


def test_public_functions_are_documented():
    """Shapes and a runnable example in every public docstring."""
    seen = 0
    gathering = (fnnet.init, fnnet.layers, fnnet.backprop, fnnet.ladder, fnnet.memory)
    for module in (fnnet, fnnet.ops, *gathering):
        for name in module.__all__:
            value = getattr(module, name)
            if name.endswith(("_fwd", "_bwd")):
                continue
            home = getattr(value, "__module__", "") if callable(value) else ""
            if home.startswith("fnnet."):
                seen += 1
                assert value.__doc__, name
                if not isinstance(value, type):
                    assert ">>>" in value.__doc__, f"{name} has no example"
    assert seen > 60
