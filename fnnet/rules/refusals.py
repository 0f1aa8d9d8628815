"""What JAX refuses without a name, said again with the op's name and what to do.

A `jax.custom_vjp` has no forward mode, and no derivative by what its functions close over. JAX
says so where it finds out, in words that name no function. What is found out inside a registered
function's call, or can be told there beforehand, gets its name here. Under a `jax.jit` of the
caller's JAX finds out when that function is compiled, and nothing of ours is on the way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp


class ForwardModeError(TypeError):
    """Forward-mode differentiation of a registered function, which has a name here."""


def forward_mode(op: str, error: Exception) -> ForwardModeError | None:
    """The error to raise in the place of JAX's, if that is a refusal of forward mode."""
    # the second is what the derivative of a jvp (grad of jvp) meets
    if "forward-mode autodiff (jvp)" not in str(error) and "'custom_lin'" not in str(error):
        return None
    if isinstance(error, ForwardModeError):
        return error
    return ForwardModeError(
        f"{op}: it has a derivative rule for reverse mode alone (jax.custom_vjp), and forward-mode "
        f"autodiff (jvp) was asked of it: jvp, jacfwd, linearize, or hessian through a rule that "
        f"calls {op}. Give it one, by register(..., forward_mode=True) or fnnet.both_modes; or use "
        f"fnnet.plain({op}), or fnnet.plain of the function that calls it: the same values, with "
        "JAX's own derivatives"
    )


def stand_in(name: str, x: Any) -> str | None:
    """What `x` is and what to give, if it stands for an array and is none; None if it does not.

    Example:
        >>> stand_in("x", jax.ShapeDtypeStruct((2,), "float32"))
        'a jax.ShapeDtypeStruct, without any numbers. Give an array, or call jax.eval_shape'
    """
    if isinstance(x, jax.ShapeDtypeStruct):
        return "a jax.ShapeDtypeStruct, without any numbers. Give an array, or call jax.eval_shape"
    if isinstance(x, jax.Ref):
        return f"a jax.Ref, which holds an array and is none. Give what it holds, {name}[...]"
    return None


def stand_ins(op: str, arguments: dict[str, Any], error: Exception) -> TypeError | None:
    """The error to raise in the place of one about an argument that stands for an array.

    A function that is registered may take such a thing, and do with it what it knows to do.
    """
    if "Ref" not in str(error) and "ShapeDtypeStruct" not in str(error):
        return None
    for name, argument in arguments.items():
        for leaf in jax.tree.leaves(argument):
            if what := stand_in(name if leaf is argument else "ref", leaf):
                where = name if leaf is argument else f"a leaf of {name}"
                return TypeError(f"{op}: {where} is {what}. What was said of it: {error}")
    return None


def no_derivative(op: str, what: str) -> TypeError:
    """The error where a derivative is asked by what has no cotangent."""
    return TypeError(
        f"{op}: a derivative with respect to {what} was asked, but the rule returns cotangents of "
        "positional arguments that are not static, and of nothing else. Make it such a parameter "
        "of forward, or pass jax.lax.stop_gradient of it"
    )


def asked_of(op: str, what: str, x: Any) -> jax.Array:
    """A number that stands for `x` where derivatives are asked: asked of it, they are refused.

    A forward rule does not always know by what it is differentiated: in JAX 0.12's new
    `jax.checkpoint` all its arguments seem to be. The backward pass knows: it comes to this number
    only if a derivative by `x` is wanted. The value of `x` goes another way, so that derivatives of
    what the rules compute (of a gradient, by an option) remain.
    """

    def asked(_: Any) -> jax.Array:
        return jnp.zeros((), jnp.float32)

    def refuse(_: None, __: jax.Array) -> tuple[Any]:
        raise no_derivative(op, what)

    asked_by_rule = jax.custom_vjp(asked)
    asked_by_rule.defvjp(lambda x: (asked(x), None), refuse)
    return asked_by_rule(x)


def differentiated(error: Exception) -> bool:
    """Whether JAX refuses, in its own words, a derivative by what a function closes over."""
    return "custom_vjp function with respect to a closed-over value" in str(error)


def closed_over(*functions: Callable[..., Any]) -> list[tuple[str, Any]]:
    """The traced arrays that functions close over, by the name they have there.

    Example:
        >>> s = 2.0
        >>> closed_over(lambda x: s * x)
        []
    """
    found: dict[int, tuple[str, Any]] = {}
    for f in functions:
        for name, value in _cells(f):
            for leaf in jax.tree.leaves(value):
                if isinstance(leaf, jax.core.Tracer):
                    found[id(leaf)] = (name, leaf)
    return list(found.values())


def _cells(f: Any) -> Iterator[tuple[str, Any]]:
    """Names and values of what a function closes over."""
    cells = getattr(f, "__closure__", None) or ()
    names = f.__code__.co_freevars if cells else ()
    for name, cell in zip(names, cells, strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # a cell that is not filled yet
            continue


def refuse_hidden(op: str, leaf: Any) -> None:
    """Raise TypeError for a residual that is no pytree and holds traced arrays.

    JAX does not see them: a scan, a checkpoint or a jit around the forward pass lets them go.
    """
    if callable(leaf) and getattr(leaf, "__closure__", None):
        held = list(_cells(leaf))
    elif dataclasses.is_dataclass(leaf):
        held = [(f.name, getattr(leaf, f.name, None)) for f in dataclasses.fields(leaf)]
    else:
        held = list(getattr(leaf, "__dict__", {}).items())
    for name, value in held:
        if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(value)):
            kind = getattr(leaf, "__name__", type(leaf).__name__)
            raise TypeError(
                f"{op}: a residual of the forward rule, {kind}, holds a traced array, `{name}`, "
                "where JAX cannot see it: it is no pytree. Return the array itself, or make the "
                "class a pytree (jax.tree_util.register_dataclass), or the function one "
                "(jax.tree_util.Partial)"
            )
