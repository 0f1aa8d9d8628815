"""A function that is called through a primitive: traced, or not yet; and lists with flags."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core
from jax.interpreters import ad

from fnnet.rules.jaxpr import opened, run

Flags = Sequence[bool]


def is_staged(x: Any) -> bool:
    """Whether an operand has no value yet: not so for a gradient outside of jit."""
    return isinstance(x, jax.core.Tracer) and x.to_concrete_value() is None


class Untraced:
    """In the place of a jaxpr, a function that is called with values.

    A gradient that is taken eagerly runs the rules with values, which they may look at.

    Attributes:
        name: of the function.
        tree: the structure of its result, once it ran.
        out_avals: the types of its results, once it ran.
        effects: what it does beside that, once it was traced.
    """

    def __init__(self, f: Callable[..., Any]) -> None:
        self._f = f
        self.name = str(getattr(f, "__name__", "f"))
        self.tree: Any = None
        self.effects: Any = core.no_effects
        self.out_avals: list[Any] = []

    def __call__(self, *args: Any) -> list[Any]:
        """Run the function, and note what it returns."""
        outs, self.tree = jax.tree.flatten(self._f(*args))
        self.out_avals = [jax.typeof(x) for x in outs]
        return outs


def describe(call_jaxpr: Any, operands: Sequence[Any]) -> None:
    """See to it that the types of the results are known."""
    if isinstance(call_jaxpr, Untraced) and call_jaxpr.tree is None:
        jax.eval_shape(call_jaxpr, *operands)


def called(*args: Any, call_jaxpr: Any, **_: Any) -> list[Any]:
    """Run the function that is called."""
    if isinstance(call_jaxpr, Untraced):
        return call_jaxpr(*args)
    inner, consts = opened(call_jaxpr)
    return run(inner, consts, args)


def out_types(call_jaxpr: Any, avals: Sequence[Any]) -> list[Any]:
    """The types of its results for arguments of these types."""
    if isinstance(call_jaxpr, Untraced):
        closed = jax.make_jaxpr(call_jaxpr)(*avals)
        call_jaxpr.effects = closed.effects
        return list(closed.out_avals)
    pairs = zip(avals, call_jaxpr.in_avals, strict=True)
    if all(a.strip_weak_type() == b.strip_weak_type() for a, b in pairs):
        return list(call_jaxpr.out_avals)
    # types tell of meshes too, and those may not be the ones it was traced with
    return list(jax.make_jaxpr(functools.partial(called, call_jaxpr=call_jaxpr))(*avals).out_avals)


def name_of(call_jaxpr: Any) -> str:
    """The name of the function that was traced."""
    if isinstance(call_jaxpr, Untraced):
        return call_jaxpr.name
    info = getattr(opened(call_jaxpr)[0], "debug_info", None)
    return str(getattr(info, "func_name", None) or "f")


def zero_of(x: Any) -> Any:
    """The tangent of `x` that JAX knows to be zero."""
    return ad.Zero(jax.typeof(x).to_tangent_aval())


def varies(call_jaxpr: Any, marked: Sequence[bool]) -> list[bool]:
    """Which results have a tangent where the marked arguments have one."""
    pairs = zip(reached(call_jaxpr, marked), call_jaxpr.out_avals, strict=True)
    return [r and bool(jax.numpy.issubdtype(t.dtype, np.inexact)) for r, t in pairs]


def reached(call_jaxpr: Any, marked: Sequence[bool]) -> list[bool]:
    """Which results depend on the marked arguments."""
    if isinstance(call_jaxpr, Untraced):
        return [any(marked)] * len(call_jaxpr.out_avals)
    inner, _ = opened(call_jaxpr)
    found = {v for v, m in zip(inner.invars, marked, strict=True) if m}
    for eqn in inner.eqns:
        if any(v in found for v in eqn.invars if not isinstance(v, core.Literal)):
            found.update(eqn.outvars)
    return [not isinstance(v, core.Literal) and v in found for v in inner.outvars]


def where(flags: Sequence[bool], values: Sequence[Any]) -> list[Any]:
    """The values that have a flag."""
    return [x for flag, x in zip(flags, values, strict=True) if flag]


def merged(flags: Sequence[bool], some: Sequence[Any], others: Sequence[Any]) -> list[Any]:
    """`others` with `some` in the places of the flags."""
    it = iter(some)
    return [next(it) if flag else x for flag, x in zip(flags, others, strict=True)]


def spread(flags: Sequence[bool], others: Sequence[Any]) -> list[Any]:
    """`others` in the places that have no flag."""
    it = iter(others)
    return [None if flag else next(it) for flag in flags]
