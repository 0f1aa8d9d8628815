"""Cotangents nobody asked for: dropped from a backward rule, with what only they needed.

A backward rule computes the cotangents of all arguments, but a caller of `jax.grad` wants some.
Inside `jit` XLA removes the rest; outside of it, and in what a forward pass stores, they would be
paid for. So the rule is traced once and only the equations that lead to wanted results are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import partial_eval

from fnnet.rules.jaxpr import opened, run

Flat = Callable[..., Sequence[Any]]


def prune(f: Flat, *avals: Sequence[Any]) -> tuple[Flat, list[bool]] | None:
    """Trace ``f(*groups) -> results`` and keep only what its results depend on.

    Args:
        f: a function of groups (lists) of arrays that returns a list of arrays.
        avals: for each group, the arrays' types.

    Returns:
        The function, with the same arguments, and for every array of the first group whether it is
        used at all; None when `f` cannot be traced (then it must run as it is, and its error, if it
        has one, belongs to the call that runs it).
    """
    groups = [len(group) for group in avals]

    def flat(*args: Any) -> Sequence[Any]:
        it = iter(args)
        return f(*[[next(it) for _ in range(n)] for n in groups])

    try:
        jaxpr, consts = opened(jax.make_jaxpr(flat)(*[a for group in avals for a in group]))
    except Exception:
        return None
    if any(isinstance(c, jax.core.Tracer) for c in consts):
        return None  # a constant of this trace is out of reach when the rule runs

    # inside loops and calls too: the loop of attention's rule adds up dq, dk and dv
    used_outputs = [True] * len(jaxpr.outvars)
    pruned, used_consts, used = partial_eval.dce_jaxpr_consts(jaxpr, used_outputs)
    consts = [c for c, u in zip(consts, used_consts, strict=True) if u]
    precision = _precision()

    def pruned_f(*groups: Sequence[Any]) -> Sequence[Any]:
        # products that name no precision take the one in force where they are traced
        if _precision() != precision and (again := prune(f, *avals)):
            return again[0](*groups)
        args = [a for group in groups for a in group]
        found = run(pruned, consts, [a for a, u in zip(args, used, strict=True) if u])
        # what depends on nothing is a constant of the jaxpr, and no jax.Array yet
        return [x if isinstance(x, jax.Array) else jnp.asarray(x) for x in found]

    return pruned_f, used[: groups[0]]


def _precision() -> Any:
    return jax.config.values["jax_default_matmul_precision"]
