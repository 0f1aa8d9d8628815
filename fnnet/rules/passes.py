"""One forward pass through a rule, and the backward pass that belongs to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import dtypes

from fnnet.rules.agreement import (
    Operand,
    SymbolicZero,
    is_differentiable,
    leaf_cotangents,
    leaf_tangents,
)
from fnnet.rules.arguments import Arguments, is_array
from fnnet.rules.linear import is_transposed, linear
from fnnet.rules.mesh import explicit_mesh, varying_as, with_axes_automatic, zero_cotangent
from fnnet.rules.prune import prune
from fnnet.rules.refusals import ForwardModeError, refuse_hidden


class Rule(NamedTuple):
    """What was registered: ``bwd_takes`` are the static arguments and options bwd has names for.

    So with ``tangent`` and ``jvp``, the rule of forward mode, if there is one.
    ``automatic``: the forward pass too is run with the axes of explicit meshes made automatic.
    """

    name: str
    forward: Callable[..., Any]
    fwd: Callable[..., tuple[Any, Any]]
    bwd: Callable[..., Sequence[Any]]
    bwd_takes: frozenset[str]
    automatic: bool = False
    forward_mode: bool = False
    tangent: Callable[..., Any] | None = None
    tangent_takes: frozenset[str] = frozenset()
    jvp: Callable[..., Any] | None = None
    jvp_takes: frozenset[str] = frozenset()


class Pass:
    """The types, structures and settings of a forward pass, kept for its backward pass.

    It keeps no array: those that the backward pass needs are `saved`, and come back to
    `cotangents` through JAX.

    Args:
        rule: the rule.
        arguments: the call's arguments.
        operands: the arrays among them, as this pass sees them.
        wanted: for each operand, whether its cotangent is asked for.
        out: the value, from `rule.fwd`.
        res: a pair: the residuals, from `rule.fwd`, and the static arguments and options that
            the rules take, by name.
    """

    def __init__(
        self,
        rule: Rule,
        arguments: Arguments,
        operands: Sequence[Any],
        wanted: Sequence[bool],
        out: Any,
        res: Any,
    ) -> None:
        self._rule = rule
        self._arguments = arguments
        self._types: list[Any] = [jax.typeof(x) for x in operands]
        has_cotangent = [is_differentiable(t) for t in self._types]
        self._wanted = [w and d for w, d in zip(wanted, has_cotangent, strict=True)]

        leaves, self._res_tree = jax.tree.flatten(res)
        self._res_fixed = [None if is_array(x) else x for x in leaves]
        for x in self._res_fixed:
            refuse_hidden(rule.name, x)
        self._res_at = [i for i, x in enumerate(leaves) if is_array(x)]
        values = [leaves[i] for i in self._res_at]
        res_types = [jax.typeof(x) for x in values]

        out_leaves, self._out_tree = jax.tree.flatten(out)
        self._out_types: list[Any] = [jax.typeof(x) for x in out_leaves]
        g_types = [t for t in self._out_types if is_differentiable(t)]

        self._run: Callable[..., Sequence[Any]] = self._run_rule
        used = [True] * len(values)
        self._push: Callable[..., Sequence[Any]] = self._run_tangent
        self._x_types = [t for t, w in zip(self._types, self._wanted, strict=True) if w]
        self._g_types = g_types
        if mesh := explicit_mesh([*self._types, *res_types, *self._out_types]):
            self._run = with_axes_automatic(self._run_rule, mesh, self._x_types)
            self._push = with_axes_automatic(self._run_tangent, mesh, g_types)
        if self._wanted != has_cotangent:
            pruned = prune(self._run, res_types, g_types)
            if pruned is not None:
                self._run, used = pruned
                if rule.tangent and (pushed := prune(self._push, res_types, self._x_types)):
                    self._push = pushed[0]
                    used = [a or b for a, b in zip(used, pushed[1], strict=True)]
        # an empty array in place of a residual that no wanted cotangent needs
        self.saved = [v if u else jnp.zeros(0, bool) for v, u in zip(values, used, strict=True)]

    def release(self) -> list[Any]:
        """Give away the arrays to be saved: they belong to one trace, a pass outlives it."""
        saved, self.saved = self.saved, []
        return saved

    def cotangents(self, saved: Sequence[Any], g: Any) -> tuple[Any, ...]:
        """The cotangent of every operand, None where it is zero or was not asked for."""
        gs = [
            zero_cotangent(t) if isinstance(x, SymbolicZero) else x
            for x, t in zip(jax.tree.leaves(g), self._out_types, strict=True)
            if is_differentiable(t)
        ]
        if self._rule.tangent and is_transposed.get():
            found = iter(linear(self._run, self._push, saved, gs, self._x_types))
        else:
            found = iter(self._run(saved, gs))
        return tuple(next(found) if wanted else None for wanted in self._wanted)

    def tangents(self, saved: Sequence[Any], tangents: Sequence[Any]) -> list[Any]:
        """The tangents of the values that have one, from those of the operands that were wanted."""
        return list(self._push(saved, tangents))

    def _run_tangent(self, saved: Sequence[Any], tangents: Sequence[Any]) -> list[Any]:
        """Run the rule of forward mode and return the tangents of the values that have one."""
        assert self._rule.tangent is not None
        it = iter(tangents)
        every = [next(it) if wanted else None for wanted in self._wanted]
        residuals, taken = self._residuals(saved, self._rule.tangent_takes)
        with self._arguments.precision():
            given = self._arguments.with_cotangent(every)
            dots = self._rule.tangent(residuals, *given, **taken)
        return [
            varying_as(dot, t)
            for dot, t in zip(
                leaf_tangents(self._rule.name, self._out_tree, self._out_types, dots),
                self._out_types,
                strict=True,
            )
            if is_differentiable(t)
        ]

    def _residuals(self, saved: Sequence[Any], takes: frozenset[str]) -> tuple[Any, dict[str, Any]]:
        res = list(self._res_fixed)
        for i, value in zip(self._res_at, saved, strict=True):
            res[i] = value
        residuals, taken = jax.tree.unflatten(self._res_tree, res)
        return residuals, {k: v for k, v in taken.items() if k in takes}

    def _run_rule(self, saved: Sequence[Any], gs: Sequence[Any]) -> list[Any]:
        """Run the backward rule and return the wanted cotangents."""
        residuals, taken = self._residuals(saved, self._rule.bwd_takes)
        it = iter(gs)
        g = [
            next(it) if is_differentiable(t) else np.zeros(t.shape, dtypes.float0)
            for t in self._out_types
        ]
        try:
            with self._arguments.precision():
                cts = self._rule.bwd(residuals, jax.tree.unflatten(self._out_tree, g), **taken)
        except ForwardModeError as e:
            raise ForwardModeError(
                f"{self._rule.name}: its backward rule cannot be differentiated in forward mode "
                "(jax.hessian does), because of a function with a rule of its own that it calls. "
                f"There: {e}"
            ) from e
        found = leaf_cotangents(
            self._rule.name,
            self._arguments.names,
            self._arguments.with_cotangent([Operand.of(t) for t in self._types]),
            cts,
        )
        # options, the last of the operands, have no cotangent and are never wanted
        return [
            zero_cotangent(t) if ct is None else varying_as(ct, t)
            for ct, t, wanted in zip(found, self._types, self._wanted, strict=False)
            if wanted
        ]
