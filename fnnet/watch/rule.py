"""Whose rule a call runs: its name, its kind, where it is written, what makes it the same one."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from fnnet.check.case.kinds import HIJAX
from fnnet.rules.origin import filled, in_jax, is_foreign, is_foreign_class

_DEEP = 6


@dataclasses.dataclass(frozen=True)
class Rule:
    """A hand-written rule.

    Attributes:
        name: of the function that it is the derivative of.
        kind: what it is written with: "custom_vjp", "custom_jvp", "hijax primitive".
        where: file and line of the function (of the class, for a primitive); empty if not known.
        foreign: whether it was written outside of JAX.
        same: equal for the same rule, also where it is made anew at each call.
    """

    name: str
    kind: str
    where: str
    foreign: bool
    same: Hashable = dataclasses.field(repr=False)


def rule_of(x: Any, kind: str) -> Rule:
    """What is known of a `jax.custom_vjp`, a `jax.custom_jvp` or a hijax primitive."""
    if kind == HIJAX:
        cls = type(x)
        params = tuple(sorted((k, _same(v)) for k, v in x.params.items()))
        return Rule(cls.__name__, kind, _where(cls), is_foreign_class(x), (cls, params))
    f = x.__wrapped__
    parts = [f, *(getattr(x, name, None) for name in ("fwd", "bwd", "jvp"))]
    shown = _shown(f)
    name = str(getattr(shown, "__name__", type(shown).__name__))
    same = (kind, *(_same(part) for part in parts))
    return Rule(name, kind, _where(shown), is_foreign(*parts), same)


def _shown(f: Any) -> Any:
    """The function to name: what `functools.partial` or `jax.custom_gradient` wraps."""
    f = inspect.unwrap(f)
    while isinstance(f, functools.partial):
        f = inspect.unwrap(f.func)
    if isinstance(f, types.FunctionType) and in_jax(f.__code__.co_filename):
        held = (cell.cell_contents for cell in f.__closure__ or () if filled(cell))
        inner = next((x for x in held if isinstance(x, types.FunctionType) and is_foreign(x)), None)
        return f if inner is None else _shown(inner)
    return f


def _where(x: Any) -> str:
    code = getattr(x, "__code__", None)
    if code is None and inspect.isclass(x):
        try:
            return f"{_short(inspect.getsourcefile(x) or '')}:{inspect.getsourcelines(x)[1]}"
        except (OSError, TypeError):
            return ""
    return "" if code is None else f"{_short(code.co_filename)}:{code.co_firstlineno}"


def _short(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file


def _same(x: Any, deep: int = 0) -> Hashable:
    """Equal for two functions of the same code that close over the same; values by identity."""
    if isinstance(x, (str, bytes, int, float, bool, type(None))):
        return (type(x), x)
    if deep > _DEEP:
        return str(type(x))
    if isinstance(x, functools.partial):
        inner = (x.func, *x.args, *x.keywords.values())
        return ("partial", *(_same(y, deep + 1) for y in inner))
    if isinstance(x, types.FunctionType):
        held = [cell.cell_contents for cell in x.__closure__ or () if filled(cell)]
        held += [*(x.__defaults__ or ()), *(x.__kwdefaults__ or {}).values()]
        return (x.__code__, *(_same(y, deep + 1) for y in held))
    if isinstance(x, types.MethodType):
        return (_same(x.__func__, deep + 1), id(x.__self__))
    if isinstance(x, (tuple, list)):
        return tuple(_same(y, deep + 1) for y in x)
    if hasattr(x, "aval") or hasattr(x, "dtype"):  # an array: by what it is, not by what it holds
        return ("array", str(getattr(x, "dtype", "")), str(getattr(x, "shape", "")))
    return id(x)
