"""Who wrote it: JAX, or somebody else? Of primitives, of classes of primitives, of functions.

A rule of JAX's own (that of `jax.nn.softmax`) is no rule that the author of a function wrote, and a
primitive of somebody else's brings a derivative that is not JAX's. Both are told by where the
objects live: JAX keeps each of its primitives in a module of its own.
"""

from __future__ import annotations

import functools
import os
import sys
import types
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend import core

_JAX = os.path.dirname(os.path.abspath(jax.__file__)) + os.sep
_PYTHON = os.path.dirname(os.path.abspath(os.__file__)) + os.sep
_INSTALLED = ("site-packages", "dist-packages")  # below Python's own folder, and not Python's
_MOST = 400  # objects looked at behind one rule: closures of closures are few

_held: set[Any] = set()


def is_foreign_primitive(primitive: Any) -> bool:
    """Whether a primitive is somebody else's: no module of JAX holds it."""
    if primitive in _held:
        return False
    # modules are loaded as they are needed: those of now
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("jax", "jaxlib") and isinstance(module, types.ModuleType):
            _held.update(x for x in list(vars(module).values()) if isinstance(x, core.Primitive))
    return primitive not in _held


def is_foreign_class(x: Any) -> bool:
    """Whether the class of an object was written outside of JAX."""
    return type(x).__module__.partition(".")[0] not in ("jax", "jaxlib")


def in_jax(path: str) -> bool:
    """Whether a file is one of JAX's."""
    return os.path.abspath(path).startswith(_JAX)


def is_foreign(*roots: Any) -> bool:
    """Whether any function behind these objects was written outside of JAX and of Python."""
    return any(
        not in_jax(path)
        and (not path.startswith(_PYTHON) or any(word in path for word in _INSTALLED))
        for path in files_of(*roots)
    )


def files_of(*roots: Any) -> Iterator[str]:
    """Where the functions were written that these objects are, hold, or close over."""
    seen: set[int] = set()
    todo = list(roots)
    while todo and len(seen) < _MOST:
        x = todo.pop()
        if id(x) in seen or isinstance(x, (str, bytes, int, float, type, types.ModuleType)):
            continue
        seen.add(id(x))
        code = getattr(x, "__code__", None)
        if isinstance(code, types.CodeType):
            yield os.path.abspath(code.co_filename)
            todo += [c.cell_contents for c in x.__closure__ or () if filled(c)]
        elif isinstance(x, types.MethodType):
            todo += [x.__func__, x.__self__]
        elif isinstance(x, functools.partial):
            todo += [x.func, *x.args, *x.keywords.values()]
        elif isinstance(x, (tuple, list)):
            todo += x
        elif isinstance(x, dict):
            todo += x.values()
        elif hasattr(x, "eqns"):  # a traced function; JAX 0.10 has two classes of them
            info = getattr(x, "debug_info", None) or getattr(x.jaxpr, "debug_info", None)
            if name := getattr(info, "func_filename", None):
                yield os.path.abspath(name)
        else:
            # jax's wrapped functions, custom_jvp and custom_vjp objects, compiled functions
            names = (
                "f",
                "fun",
                "transforms",
                "__wrapped__",
                "jvp",
                "fwd",
                "bwd",
                "jvp_fun",
                "rule",
            )
            todo += [getattr(x, name, None) for name in names if callable(x) or name == "f"]


def filled(cell: types.CellType) -> bool:
    """Whether a closure's variable has a value."""
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
