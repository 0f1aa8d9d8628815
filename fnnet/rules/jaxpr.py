"""Run a jaxpr equation by equation: the loop that `plain` and `prune` share.

A jaxpr is JAX's record of a traced function: equations ``outputs = primitive(inputs)``. Running one
again, with a chosen treatment of each equation, is how a function is rewritten after it was traced.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jax.extend import core

Equation = core.JaxprEqn
RunEquation = Callable[[Equation, list[Any]], Sequence[Any]]
# JAX 0.12 has `Jaxpr` alone, and this name of it no more for type checkers
Closed: Any = getattr(core, "ClosedJaxpr", core.Jaxpr)


def bind(eqn: Equation, values: Sequence[Any], **changed: Any) -> Sequence[Any]:
    """Run one equation as it stands, or with some parameters `changed`."""
    if eqn.primitive.name == "eval_jaxpr":  # a mere call, which jet and others do not know
        return run(*opened({**eqn.params, **changed}["call_jaxpr"]), values)
    params = eqn.primitive.get_bind_params({**eqn.params, **changed})
    # the context an equation was traced in: its mesh, compute type, metadata
    with eqn.ctx.manager:
        out = eqn.primitive.bind(*values, **params)
    return out if eqn.primitive.multiple_results else [out]


def run(
    jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], equation: RunEquation = bind
) -> list[Any]:
    """Evaluate `jaxpr` at `args`, each equation by `equation(eqn, input_values)`."""
    env: dict[Any, Any] = {}

    def read(v: Any) -> Any:
        return v.val if isinstance(v, core.Literal) else env[v]

    env.update(zip(getattr(jaxpr, "constvars", ()), consts, strict=True))
    env.update(zip(jaxpr.invars, args, strict=True))
    for eqn in jaxpr.eqns:
        env.update(zip(eqn.outvars, equation(eqn, [read(v) for v in eqn.invars]), strict=True))
    return [read(v) for v in jaxpr.outvars]


def opened(jaxpr: Any) -> tuple[Any, Sequence[Any]]:
    """The equations and the constants of a jaxpr, whether it is closed or not.

    JAX 0.10 has two classes, `ClosedJaxpr` and `Jaxpr` (checkpoint and shard_map hold the latter);
    0.12 has one.
    """
    if isinstance(jaxpr, Closed):
        return getattr(jaxpr, "jaxpr", jaxpr), jaxpr.consts
    return jaxpr, ()
