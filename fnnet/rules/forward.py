"""Forward mode by a rule of one's own: the function that JAX pushes tangents through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import dtypes

from fnnet.rules.agreement import SymbolicZero, is_differentiable, leaf_tangents
from fnnet.rules.arguments import Arguments
from fnnet.rules.mesh import varying_as
from fnnet.rules.passes import Pass, Rule
from fnnet.rules.refusals import no_derivative

Form = Callable[..., list[Any]]


def form_of(
    rule: Rule,
    arguments: Arguments,
    primal: Callable[..., Any],
    passed: Callable[..., tuple[Any, Pass]],
    labels: dict[int, str],
) -> Form | None:
    """The leaves of the value, as a function whose derivative is by the rule's `jvp` or `tangent`.

    Args:
        rule: what was registered.
        arguments: of this call.
        primal: the value of the operands.
        passed: of the operands and whether each is wanted, the value and its pass.
        labels: those operands that have no derivative: which, and what they are called.

    Returns:
        None where there is no such rule: then JAX differentiates the function as it is written.
    """
    if rule.tangent is None and rule.jvp is None:
        return None
    form = jax.custom_jvp(lambda *operands: jax.tree.leaves(primal(*operands)))

    def by_residuals(primals: Sequence[Any], tangents: Sequence[Any], asked: list[bool]) -> Any:
        out, this = passed(primals, asked)
        given = [t for t, a in zip(tangents, asked, strict=True) if a]
        return out, this.tangents(this.release(), given)

    def by_values(primals: Sequence[Any], tangents: Sequence[Any], _: list[bool]) -> Any:
        assert rule.jvp is not None
        full = [_instantiated(x, t) for x, t in zip(primals, tangents, strict=True)]
        known = arguments.known(primals)
        taken = {k: v for k, v in known.items() if k in rule.jvp_takes}
        pair = [tuple(arguments.with_cotangent(x)) for x in (primals, full)]
        with arguments.precision():
            found = rule.jvp(*pair, **taken)
        if not (isinstance(found, tuple) and len(found) == 2):
            raise TypeError(
                f"{rule.name}: jvp must return a pair (out, the tangent of out); it returned "
                f"{type(found).__name__}"
            )
        out, dot = found
        leaves, tree = jax.tree.flatten(out)
        expected: Any = jax.tree.structure(jax.eval_shape(primal, *primals))
        if tree != expected:
            raise TypeError(
                f"{rule.name}: jvp must return the value that forward returns, of its structure, "
                f"{expected}; it returned {tree}"
            )
        types = [jax.typeof(jnp.asarray(x)) for x in leaves]
        dots = zip(leaf_tangents(rule.name, tree, types, dot), types, strict=True)
        return out, [varying_as(d, t) for d, t in dots if is_differentiable(t)]

    def jvp(primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        asked = [not isinstance(t, SymbolicZero) and is_differentiable(t) for t in tangents]
        for i, what in labels.items():
            if asked[i]:
                raise no_derivative(rule.name, what)
        by_rule = by_values if rule.jvp is not None else by_residuals
        out, found = by_rule(primals, tangents, asked)
        dots = iter(found)
        outs = [jnp.asarray(x) for x in jax.tree.leaves(out)]
        no_dot = [None if is_differentiable(x) else np.zeros(x.shape, dtypes.float0) for x in outs]
        return outs, [next(dots) if zero is None else zero for zero in no_dot]

    form.defjvp(jvp, symbolic_zeros=True)
    return form


def _instantiated(x: Any, tangent: Any) -> Any:
    """A tangent, zeros where JAX knows it to be zero."""
    if not isinstance(tangent, SymbolicZero):
        return tangent
    return jnp.zeros_like(x) if is_differentiable(x) else np.zeros(jnp.shape(x), dtypes.float0)
