"""Where a value in a jaxpr comes from: its equation, followed into the functions that are called.

An op of fnnet, or a function of `jax.numpy`, is one equation ``jit[name=relu]`` in the function
that calls it; the primitive that computes the value is an equation of the function inside.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
from jax.extend import core

from fnnet.rules.jaxpr import Closed, Equation, opened

# the parameter that holds the one function whose results are the equation's results, in order
_INNER = ("jaxpr", "call_jaxpr", "body_jaxpr")
# lines in these folders are not the user's
_LIBRARIES = (Path(jax.__file__).parent, Path(__file__).parents[1])


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a value comes from.

    Attributes:
        var: the variable it was first bound to.
        path: the equations that compute it, from the outermost function inward; none for what the
            outermost function was given.
    """

    var: Any
    path: tuple[Equation, ...] = ()

    @property
    def key(self) -> Any:
        """Equal for two values just if they are the same array."""
        return (self.var, *map(id, self.path))

    @property
    def name(self) -> str:
        """The op and the primitive, such as ``relu: select_n``; loops in front, ``scan/``."""
        loops, op = "", ""
        for eqn in self.path[:-1]:
            name = _called(eqn)
            if eqn.primitive.name in ("scan", "while"):
                loops += f"{eqn.primitive.name}/"
            elif name is not None and not name.startswith(("_", "<")):
                op = name
        last = self.path[-1]
        primitive = _called(last) or last.primitive.name
        return loops + (f"{op}: {primitive}" if op else primitive)

    @property
    def where(self) -> str:
        """The user's source line, as ``file:line``; empty if there is none."""
        # What is traced inside a compiled function knows the lines of that function, not those of
        # its callers: none at all inside a library's.
        for eqn in reversed(self.path):
            if frames := _frames(eqn):
                return f"{_short(frames[0].file_name)}:{frames[0].line_num}"
        return ""


def origin(jaxpr: Any, var: Any) -> Origin:
    """Follow `var` to the equation that computes it, or to what `jaxpr` was given."""
    producer = next((eqn for eqn in jaxpr.eqns if var in eqn.outvars), None)
    if producer is None:
        return Origin(var)
    for name in _INNER:
        if not isinstance(param := producer.params.get(name), (Closed, core.Jaxpr)):
            continue
        inner, _ = opened(param)
        if len(inner.outvars) != len(producer.outvars):
            break
        result = inner.outvars[producer.outvars.index(var)]
        if isinstance(result, core.Literal):
            break
        found = origin(inner, result)
        if found.path:
            return Origin(found.var, (producer, *found.path))
        if _called(producer) and found.var in inner.invars:
            # handed through, and so the caller's own array; a loop would have stacked copies
            passed = producer.invars[inner.invars.index(found.var)]
            if not isinstance(passed, core.Literal):
                return origin(jaxpr, passed)
        break
    return Origin(var, (producer,))


def _called(eqn: Equation) -> str | None:
    """The name of the function that an equation calls, if calling it is all that it does."""
    return str(eqn.params["name"]) if eqn.primitive.name in ("jit", "pjit") else None


def _frames(eqn: Equation) -> list[Any]:
    """The lines of the user's code that led to an equation, the innermost first."""
    traceback = eqn.source_info.traceback
    frames: Any = traceback.frames if traceback is not None else ()
    return [f for f in frames if not any(p in Path(f.file_name).parents for p in _LIBRARIES)]


def _short(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else path.name
