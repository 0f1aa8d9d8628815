"""The forward pass of a function with a hand-written reverse rule, and what is linear after it.

forward_pass : x -> y, res          by the hand-written rule, run once
pull         : res, CT y -> CT x    by the hand-written rule
push         : res, T x -> T y      the transpose of `pull`, which is linear too
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fnnet.rules.calls import Flags, called, merged, name_of, spread, varies, where
from fnnet.rules.jaxpr import opened
from fnnet.rules.linear import is_transposed
from fnnet.rules.mesh import varying_as
from fnnet.rules.rewrite import Rewrite


class Pullback:
    """The linear function that belongs to a forward pass; it keeps no array.

    Attributes:
        types: of the values that have a tangent.
    """

    def __init__(self, name: str, tree: Any, types: Sequence[Any], deep: Rewrite | None) -> None:
        self._name, self._tree, self.types, self._deep = name, tree, types, deep

    def pull(self, res: list[Any], cts: list[Any]) -> list[Any]:
        """CT y -> CT x, by the hand-written rule."""

        def backward(res: list[Any], cts: list[Any]) -> list[Any]:
            return list(jax.tree.unflatten(self._tree, res)(cts))

        if self._deep is None:
            return backward(res, cts)
        inner, consts = opened(jax.make_jaxpr(backward)(res, cts))
        return self._deep.run(inner, consts, [*res, *cts])

    def _derivative(self, backward: Any, at: float, tangents: list[Any]) -> Any:
        point = [varying_as(jnp.full(t.shape, at, t.dtype), t) for t in self.types]
        return jax.vjp(backward, *point)[1](tuple(tangents))

    def push(self, res: list[Any], tangents: list[Any]) -> list[Any]:
        """T x -> T y, as the transpose of the backward rule."""

        def backward(*cts: Any) -> tuple[Any, ...]:
            return tuple(self.pull(res, list(cts)))

        token = is_transposed.set(True)
        try:
            try:
                found = jax.linear_transpose(backward, *self.types)(tuple(tangents))
            except Exception:
                # A rule may look at its cotangent (whether it is zero), and is linear all the same:
                # of a linear function the derivative is the function, at whatever point. Of one
                # that is not (it clips, say) it is another at another point, and the answer NaN.
                found, again = (self._derivative(backward, at, tangents) for at in (1, -3))
                found = [
                    jnp.where(_near(a, b), a, jnp.nan) for a, b in zip(found, again, strict=True)
                ]
        except Exception as e:
            if str(e).startswith(f"{self._name}: "):  # what is said of a rule is said already
                raise
            raise NotImplementedError(
                f"{self._name}: its linear part is to be evaluated (jax.linearize), which is the "
                "transpose of its backward rule, and JAX cannot transpose that. Use jax.jvp, or "
                f"fnnet.plain of {self._name}. What JAX says: {e}"
            ) from e
        finally:
            is_transposed.reset(token)
        return list(found)


def _near(a: jax.Array, b: jax.Array) -> jax.Array:
    """Where two arrays are the same to rounding; a NaN stays one."""
    size = jnp.max(jnp.maximum(jnp.abs(a), jnp.abs(b)), initial=0)
    near = jnp.asarray(64 * jnp.finfo(a.dtype).eps, size.dtype) * size  # type: ignore[no-untyped-call]
    return (a == b) | (jnp.abs(a - b) <= jnp.broadcast_to(near, a.shape))


def forward_pass(
    operands: Sequence[Any], nz: Flags, call_jaxpr: Any, deep: Rewrite | None
) -> tuple[list[Any], list[Any], Pullback]:
    """The values and the residuals, by the hand-written rule, and what to do with the latter."""
    trees = []

    def forward(*operands: Any) -> tuple[list[Any], list[Any]]:
        def of_some(*some: Any) -> tuple[list[Any], list[Any]]:
            outs = called(*merged(nz, some, operands), call_jaxpr=call_jaxpr)
            varying = varies(call_jaxpr, nz)
            return where(varying, outs), where([not v for v in varying], outs)

        some, pull, others = jax.vjp(of_some, *where(nz, operands), has_aux=True)
        leaves, tree = jax.tree.flatten(pull)
        trees.append(tree)
        varying = varies(call_jaxpr, nz)
        return merged(varying, some, spread(varying, others)), leaves

    if deep is not None:
        closed, shape = jax.make_jaxpr(forward, return_shape=True)(*operands)
        flat = deep.run(*opened(closed), operands)
        outs, res = jax.tree.unflatten(jax.tree.structure(shape), flat)
    else:
        outs, res = forward(*operands)
    varying = varies(call_jaxpr, nz)
    types = [t.to_tangent_aval() for t in where(varying, call_jaxpr.out_avals)]
    return outs, res, Pullback(name_of(call_jaxpr), trees[-1], types, deep)
