"""Functions that call back to Python on the host, evaluated in 64 bits without losing digits.

JAX may run a callback in another thread, where the 64 bits in force here are not: its arguments are
narrowed there. So such a function is run equation by equation, and its callbacks called in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from fnnet.rules import plain
from fnnet.rules.jaxpr import Equation, bind, opened, run

_CALLBACKS = ("pure_callback", "io_callback")
_INLINED = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr"}
_INLINED |= {"checkpoint": "jaxpr", "remat2": "jaxpr"}


class InPlace:
    """A function run equation by equation, traced once for each mode and kind of arguments."""

    def __init__(self, f: Callable[..., Any]) -> None:
        self._f = f
        self._traced: dict[Any, Any] = {}

    def __call__(self, mode: str, *args: Any) -> Any:
        """Evaluate; `mode` is the name of the settings in force."""
        leaves, tree = jax.tree.flatten(args)
        key = (mode, tree, *((jnp.shape(x), str(jnp.result_type(x))) for x in leaves))
        if key not in self._traced:
            # derivatives are taken already: the rules that are left only hide callbacks
            self._traced[key] = jax.make_jaxpr(plain(self._f), return_shape=True)(*args)
        jaxpr, shape = self._traced[key]
        inner, consts = opened(jaxpr)
        out = run(inner, consts, [jnp.asarray(x) for x in leaves], _equation)
        return jax.tree.unflatten(jax.tree.structure(shape), out)


def _equation(eqn: Equation, values: list[Any]) -> Sequence[Any]:
    name = eqn.primitive.name
    if name in _CALLBACKS:
        found = eqn.params["callback"](*values)
        pairs = zip(found, eqn.outvars, strict=True)
        return [jnp.asarray(x, getattr(v.aval, "dtype", None)) for x, v in pairs]
    if name == "scan" and calls_host(eqn.params["jaxpr"]):
        return _unrolled(eqn, values)
    if name in _INLINED:
        inner, consts = opened(eqn.params[_INLINED[name]])
        return run(inner, consts, values, _equation)
    return bind(eqn, values)


def _unrolled(eqn: Equation, values: list[Any]) -> list[Any]:
    """A scan, one step after the other."""
    p = eqn.params
    inner, consts = opened(p["jaxpr"])
    # constants, carry, rows: the rows have an axis less inside. JAX's versions name them otherwise
    n_carry = sum(map(_same_rank, eqn.outvars, inner.outvars))
    k = sum(map(_same_rank, eqn.invars, inner.invars))
    n = k - n_carry
    fixed, carry, xs = values[:n], values[n:k], values[k:]
    rows = []
    steps = range(p["length"])
    for step in reversed(steps) if p["reverse"] else steps:
        out = run(inner, consts, [*fixed, *carry, *(x[step] for x in xs)], _equation)
        carry = out[:n_carry]
        rows.append(out[n_carry:])
    if p["reverse"]:
        rows.reverse()
    return [*carry, *(jnp.stack(x) for x in zip(*rows, strict=True))]


def _same_rank(outside: Any, inside: Any) -> bool:
    return len(outside.aval.shape) == len(inside.aval.shape)


def equations(jaxpr: Any) -> Any:
    """Every equation of a jaxpr, those of inner functions too."""
    for eqn in opened(jaxpr)[0].eqns:
        yield eqn
        for inner in core.jaxprs_in_params(eqn.params):
            yield from equations(inner)


def calls_host(jaxpr: Any) -> bool:
    """Whether a traced function calls back to Python on the host."""
    return any("callback" in eqn.primitive.name for eqn in equations(jaxpr))
