"""Traced programs run equation by equation on the host, without compiling anything.

Two kinds are. Small ones in 64 bits, by NumPy: compiling costs a hundred times more than running
there. And those that call back to Python: JAX may run a callback in another thread, where the 64
bits in force here are not, and its arguments are narrowed there; here it is called in place.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from fnnet.check.case.host import CALLBACKS, work
from fnnet.check.case.primitives import PRIMITIVES
from fnnet.rules.jaxpr import Equation, bind, opened

INLINED = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr"}
INLINED |= {"eval_jaxpr": "call_jaxpr", "checkpoint": "jaxpr", "remat2": "jaxpr"}
# derivatives are taken already: the rules that are left are of no use
_PRIMAL = {"custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}
_PRIMAL |= {"custom_vmap_call": "call", "linear_call": "callee"}
# these are compiled anew, or in many pieces, each time that they are run alone; the last is what
# is left of a rule without a forward mode, and XLA says so
_COMPILED = frozenset(
    (
        "pallas_call",
        "call_hi_primitive",
        "custom_linear_solve",
        "ffi_call",
        "shard_map",
        "custom_lin",
    )
)
# fnnet's own, which call a function: opened, and not compiled as one piece for each shape
_OWN = frozenset(("both_modes", "both_modes_jvp"))
_LOOPS = ("scan", "while", "cond")

# what NumPy is given: so many elements to compute at most, and so many equations JAX has to run,
# each of which is compiled once; a loop that runs for longer than this is compiled after all
MOST_WORK = 1_000_000
MOST_FOREIGN = 3
MOST_STEPS = 30_000

# these round nothing, in whatever dtype
_NAMES = (
    "abs broadcast_in_dim concatenate conj convert_element_type copy copy_p dynamic_slice "
    "dynamic_update_slice gather gathered imag iota max min neg pad real reduce_max reduce_min "
    "reshape rev scatter select_n sign slice sort squeeze stop_gradient transpose"
)
_EXACT = frozenset(_NAMES.split())


class TooLong(Exception):
    """A loop took more steps than it pays to interpret."""


class Interpreted:
    """A jaxpr as a function of flat lists of arrays.

    Args:
        jaxpr: closed, or with constants beside it.
        limited: whether to raise `TooLong` where loops take many steps.
    """

    def __init__(self, jaxpr: Any, *, limited: bool = True) -> None:
        self._left = MOST_STEPS
        self._limited = limited
        self._main = self._function(jaxpr)

    def __call__(self, values: Sequence[Any]) -> list[Any]:
        """Evaluate; NumPy arrays (keys stay JAX's)."""
        self._left = MOST_STEPS
        return self._main([_host(x) for x in values])

    def _function(self, jaxpr: Any) -> Callable[[Sequence[Any]], list[Any]]:
        inner, consts = opened(jaxpr)
        slots: dict[Any, int] = {}
        first: list[Any] = []

        def slot(v: Any) -> int:
            if isinstance(v, core.Literal):
                first.append(np.asarray(v.val, _aval(v).dtype))
                return len(first) - 1
            if v not in slots:
                slots[v] = len(first)
                first.append(None)
            return slots[v]

        for v, x in zip(getattr(inner, "constvars", ()), consts, strict=True):
            first[slot(v)] = _host(x)
        takes = [slot(v) for v in inner.invars]
        steps = []
        last: dict[int, int] = {}
        for k, eqn in enumerate(inner.eqns):
            reads = [slot(v) for v in eqn.invars]
            writes = [slot(v) for v in eqn.outvars]
            last |= dict.fromkeys([*reads, *writes], k)
            steps.append((self._step(eqn), reads, writes))
        gives = [slot(v) for v in inner.outvars]
        dead: list[list[int]] = [[] for _ in steps]
        for s, k in last.items():
            if s not in gives:
                dead[k].append(s)

        def run(values: Sequence[Any]) -> list[Any]:
            self._count(len(steps))
            env = list(first)
            for s, x in zip(takes, values, strict=True):
                env[s] = x
            for (call, reads, writes), over in zip(steps, dead, strict=True):
                for s, x in zip(writes, call(*[env[r] for r in reads]), strict=True):
                    env[s] = x
                for s in over:
                    env[s] = None
            return [env[s] for s in gives]

        return run

    def _count(self, n: int) -> None:
        self._left -= n
        if self._limited and self._left < 0:
            raise TooLong

    def _step(self, eqn: Equation) -> Callable[..., Sequence[Any]]:
        name = eqn.primitive.name
        if name in CALLBACKS:
            return lambda *values: _called(eqn, values)
        if inner := INLINED.get(name) or _PRIMAL.get(name):
            body = self._function(eqn.params[inner])
            return lambda *values: body(values)
        if name in _OWN:
            body = self._function(_inside(eqn))
            return lambda *values: body(values)
        if name == "scan":
            return self._scan(eqn)
        if name == "while":
            return self._while(eqn)
        if name == "cond":
            branches = [self._function(b) for b in eqn.params["branches"]]
            last = len(branches) - 1
            return lambda which, *values: branches[min(max(int(which), 0), last)](values)
        call = None if _rounds(eqn) else _by_numpy(eqn)
        if call is None:
            return lambda *values: _bound(eqn, values)
        several = eqn.primitive.multiple_results
        types = [(_aval(v).shape, _aval(v).dtype) for v in eqn.outvars]

        def step(*values: Any) -> Sequence[Any]:
            out = call(*values)
            found = out if several else (out,)
            for x, (shape, dtype) in zip(found, types, strict=True):
                if np.shape(x) != shape or x.dtype != dtype:
                    return _bound(eqn, values)
            return found

        return step

    def _scan(self, eqn: Equation) -> Callable[..., Sequence[Any]]:
        """One step after the other."""
        p = eqn.params
        inner, _ = opened(p["jaxpr"])
        # constants, carry, rows: the rows have an axis less inside. JAX's versions name them
        # otherwise
        n_carry = sum(map(_same_rank, eqn.outvars, inner.outvars))
        k = sum(map(_same_rank, eqn.invars, inner.invars))
        n = k - n_carry
        body = self._function(p["jaxpr"])
        empty = [(_aval(v).shape, _aval(v).dtype) for v in eqn.outvars[n_carry:]]
        order = range(p["length"])

        def run(*values: Any) -> Sequence[Any]:
            fixed, carry, xs = values[:n], list(values[n:k]), values[k:]
            rows = []
            for step in reversed(order) if p["reverse"] else order:
                out = body([*fixed, *carry, *(x[step] for x in xs)])
                carry = out[:n_carry]
                rows.append(out[n_carry:])
            if not rows:
                return [*carry, *(np.zeros(*e) for e in empty)]
            if p["reverse"]:
                rows.reverse()
            return [*carry, *(_stacked(x) for x in zip(*rows, strict=True))]

        return run

    def _while(self, eqn: Equation) -> Callable[..., Sequence[Any]]:
        p = eqn.params
        a, b = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
        goes_on, body = self._function(p["cond_jaxpr"]), self._function(p["body_jaxpr"])

        def run(*values: Any) -> Sequence[Any]:
            carry = list(values[b:])
            while bool(goes_on([*values[:a], *carry])[0]):
                carry = body([*values[a:b], *carry])
            return carry

        return run


def pays(jaxpr: Any) -> bool:
    """Whether a traced program in 64 bits is small, and rounds in NumPy as it does compiled.

    What computes in fewer bits is compiled: how often it rounds on the way is the compiler's own
    choice.
    """
    foreign: set[Any] = set()
    steps = _steps(jaxpr, foreign)
    return steps <= MOST_STEPS and len(foreign) <= MOST_FOREIGN and work(jaxpr) <= MOST_WORK


def _steps(jaxpr: Any, foreign: set[Any]) -> float:
    """How many equations are run; `foreign` gets what NumPy cannot do."""
    total = 0.0
    for eqn in opened(jaxpr)[0].eqns:
        name = eqn.primitive.name
        total += 1
        if name in _OWN:
            total += _steps(_inside(eqn), foreign)
            continue
        if any(not isinstance(getattr(v.aval, "dtype", None), np.dtype) for v in eqn.outvars):
            foreign.add(name)
        if name in INLINED or name in _PRIMAL or name in _LOOPS:
            trips = eqn.params["length"] if name == "scan" else 1
            total += sum(trips * _steps(j, foreign) for j in core.jaxprs_in_params(eqn.params))
        elif _rounds(eqn) or name in _COMPILED:
            return float("inf")
        elif _by_numpy(eqn) is None:
            foreign.add((name, *(str(v.aval) for v in eqn.invars)))
    return total


_NARROW = frozenset(np.dtype(t) for t in (jnp.float32, jnp.bfloat16, jnp.float16, jnp.complex64))


def _by_numpy(eqn: Equation) -> Callable[..., Any] | None:
    make = PRIMITIVES.get(eqn.primitive.name)
    return make(eqn) if make is not None else None


def _inside(eqn: Equation) -> Any:
    """What an equation of fnnet's own computes, as a jaxpr."""
    if (called := eqn.params.get("call_jaxpr")) is not None:
        return called
    avals = [v.aval for v in eqn.invars]
    return jax.make_jaxpr(functools.partial(eqn.primitive.impl, **eqn.params))(*avals)


def _rounds(eqn: Equation) -> bool:
    """Whether an equation rounds to fewer than 64 bits."""
    if eqn.primitive.name in _EXACT:
        return False
    return any(getattr(v.aval, "dtype", None) in _NARROW for v in eqn.outvars)


def _host(x: Any) -> Any:
    """An array as NumPy's; a key as it is."""
    if isinstance(x, jax.Array):
        return x if jnp.issubdtype(x.dtype, jax.dtypes.extended) else np.asarray(x)
    return np.asarray(x)


def _bound(eqn: Equation, values: Sequence[Any]) -> list[Any]:
    """An equation run by JAX."""
    return [_host(x) for x in bind(eqn, [jax.device_put(x) for x in values])]


def _called(eqn: Equation, values: Sequence[Any]) -> list[Any]:
    """A callback, called here."""
    found = eqn.params["callback"](*(jnp.asarray(x) for x in values))
    return [
        np.asarray(x, getattr(v.aval, "dtype", None))
        for x, v in zip(found, eqn.outvars, strict=True)
    ]


def _aval(v: Any) -> Any:
    return v.aval


def _same_rank(outside: Any, inside: Any) -> bool:
    return len(outside.aval.shape) == len(inside.aval.shape)


def _stacked(rows: Sequence[Any]) -> Any:
    return jnp.stack(rows) if isinstance(rows[0], jax.Array) else np.stack(rows)
