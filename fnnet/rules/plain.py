"""`plain(f)`: f with every custom derivative rule removed, so that JAX's own rules apply."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import jax

from fnnet.rules.jaxpr import Equation, bind, opened
from fnnet.rules.rewrite import (
    Rewrite,
    as_written,
    has_rule,
    is_foreign,
    is_hijax,
    jaxprs,
    through_arrays,
    traced,
)
from fnnet.rules.wrapper import Wrapper

P = ParamSpec("P")
R = TypeVar("R")


def plain(f: Callable[P, R]) -> Callable[P, R]:
    """Remove every hand-written derivative rule from `f`, at any depth.

    Those of `jax.custom_vjp`, `custom_jvp`, `custom_gradient`, `custom_vmap`, `linear_call` and
    `custom_root`, of hijax primitives (`jax.experimental.hijax`; what `expand` computes is left),
    and of primitives that somebody else than JAX made, if their implementation can be traced.

    The returned function computes the same values, by the same operations; any derivative of it is
    JAX's own. So ``jax.grad(f)`` against ``jax.grad(plain(f))`` compares manual with automatic
    gradients of a whole model, and `jax.jvp`, `jax.jacfwd` and `jax.linearize` work on ``plain(f)``
    where a `custom_vjp` refuses them; so does `jax.linear_transpose`, for which JAX's error names
    no function ("Transpose rule ... for 'custom_vjp_call' not implemented"). `fnnet.both_modes`
    has those too, and keeps the rules for reverse mode. Rules are found under
    jit, scan, while, cond, switch, checkpoint, vmap, shard_map, and inside the functions of other
    rules.

    JAX's own custom rules go too, and some are there for a reason: ``plain(jax.nn.relu)`` has the
    derivative of ``jnp.maximum(x, 0)``, 1/2 at 0, and that of ``plain(jnp.logaddexp)`` is wrong
    where the two arguments are equal.

    A derivative that `f` takes itself is no function with a rule any more, but the rule's result:
    ``plain(jax.grad(g))``, or ``plain`` of a training step, keeps the hand-written rules of `g`.
    Write ``jax.grad(plain(g))``. Likewise for a linear solver (`jax.lax.custom_linear_solve`),
    which transposes the function it is given: give it ``plain`` of that. What such a solver is told
    about its transpose (`transpose_solve`) stays too, and so does a primitive without an
    implementation in JAX.

    Args:
        f: a function of pytrees of arrays. Arguments that are not arrays (numbers, strings,
            functions, shapes) are passed to `f` as they are.

    Returns:
        A function with the signature of `f`, which pickles where `f` does. It traces `f` at every
        call: put `jax.jit` around it, not inside it, when it is called often.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnnet import plain
        >>> @jax.custom_vjp
        ... def square(x):
        ...     return x * x
        >>> square.defvjp(lambda x: (x * x, x), lambda x, g: (3 * x * g,))  # a wrong rule
        >>> float(jax.grad(square)(1.0)), float(jax.grad(plain(square))(1.0))
        (3.0, 2.0)
    """

    def without_rules(*args: P.args, **kwargs: P.kwargs) -> R:
        def again(of_arrays: Callable[..., list[Any]], values: list[Any]) -> list[Any]:
            inner, consts = opened(traced("plain", f, of_arrays, values))
            return PLAIN.run(inner, consts, values)

        return through_arrays(f, args, kwargs, again)

    return Wrapper(f, without_rules, plain)


def _without_rule(eqn: Equation, values: list[Any]) -> Sequence[Any]:
    """Run the function that `eqn` calls, without the custom rules in it."""
    if is_foreign(eqn) and not is_hijax(eqn):
        computed = _implementation(eqn, values)
        if computed is None:
            return bind(eqn, values)
        inner, consts = opened(computed)
    else:
        inner, consts = as_written(eqn, values)
    return PLAIN.run(inner, consts, values)


PLAIN = Rewrite(lambda eqn: has_rule(eqn) or is_foreign(eqn), _without_rule)


def _implementation(eqn: Equation, values: Sequence[Any]) -> Any:
    """What a primitive that is not JAX's computes, traced; None where that cannot be traced."""
    if eqn.effects:
        return None

    def computed(*args: Any) -> Any:
        return jax.tree.leaves(eqn.primitive.impl(*args, **eqn.params))

    try:
        traced = jax.make_jaxpr(computed)(*values)
    except Exception:  # NumPy, C++, or nothing at all
        return None
    # one whose implementation is to bind it: what it computes is known when it is lowered only
    return None if _binds(opened(traced)[0], eqn.primitive) else traced


def _binds(jaxpr: Any, primitive: Any) -> bool:
    return any(
        eqn.primitive is primitive
        or any(
            _binds(opened(inner)[0], primitive) for p in eqn.params.values() for inner in jaxprs(p)
        )
        for eqn in jaxpr.eqns
    )
