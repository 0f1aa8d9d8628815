"""`both_modes(f)`: reverse mode by the hand-written rules in f, forward mode by JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from fnnet.rules.jaxpr import opened
from fnnet.rules.modes import RULED
from fnnet.rules.rewrite import through_arrays, traced
from fnnet.rules.wrapper import Wrapper

P = ParamSpec("P")
R = TypeVar("R")


def both_modes(f: Callable[P, R]) -> Callable[P, R]:
    """Give `f`, whose hand-written rules allow reverse mode alone, a forward mode too.

    A function with a `jax.custom_vjp` rule anywhere in it, yours or that of a library, refuses
    `jax.jvp`, `jax.jacfwd`, `jax.linearize`, `jax.linear_transpose`, reverse over forward, and what
    calls these: Gauss-Newton products, solvers. The returned function computes the same values.
    Its reverse derivative is by those rules, at the cost it had. Its forward derivative is JAX's
    own of the functions as they were written, without their reverse rules; `jax.custom_jvp` rules,
    which have both modes, stay. Functions made by `fnnet.register`, the ops of this package among
    them, have both modes by themselves.

    Rules are found where `fnnet.plain` finds them: under jit, scan, while, cond, switch,
    checkpoint, vmap, shard_map, and in the functions of other rules, so that second derivatives
    work in all four orders. The linear function that `jax.linearize` gives is the transpose of the
    backward rule, and transposed it is that rule; where JAX cannot transpose a backward rule, that
    is an error that says so, and of one that is not linear in its cotangent the result is NaN.
    `jax.linear_transpose` of the function itself is JAX's own, for functions that are linear in
    what is asked for.

    Args:
        f: a function of pytrees of arrays. Arguments that are not arrays are passed to it as they
            are.

    Returns:
        A function with the signature of `f`, which pickles where `f` does. It traces `f` at every
        call: put `jax.jit` around it, not inside it, when it is called often.

    Raises:
        NotImplementedError: when called, if `f` transposes a function that has a reverse rule.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnnet import both_modes
        >>> @jax.custom_vjp
        ... def square(x):
        ...     return x * x
        >>> square.defvjp(lambda x: (x * x, x), lambda x, g: (2 * x * g,))
        >>> primal, tangent = jax.jvp(both_modes(square), (3.0,), (1.0,))
        >>> float(tangent), float(jax.grad(both_modes(square))(3.0))
        (6.0, 6.0)

    References:
        JAX, `issue 3996 <https://github.com/jax-ml/jax/issues/3996>`_.
    """

    def with_both(*args: P.args, **kwargs: P.kwargs) -> R:
        def again(of_arrays: Callable[..., list[Any]], values: list[Any]) -> list[Any]:
            inner, consts = opened(traced("both_modes", f, of_arrays, values))
            return RULED.run(inner, consts, values)

        return through_arrays(f, args, kwargs, again)

    return Wrapper(f, with_both, both_modes)
