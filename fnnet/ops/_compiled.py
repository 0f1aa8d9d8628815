"""`compiled`: a public op runs jitted, also when it is called eagerly.

Calling a `jax.custom_vjp` eagerly costs many times its arithmetic at small sizes. The argument
checks run while tracing, so a call with shapes seen before pays for neither.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import jax
import numpy as np

from fnnet.ops._checks import describe

P = ParamSpec("P")
R = TypeVar("R")


def compiled(*static: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a public op with `jax.jit`; `static` names the arguments that are not arrays.

    A list given for a static argument is taken as a tuple. What is no array where one is wanted is
    a TypeError that names the op and the argument.
    """

    def decorate(f: Callable[P, R]) -> Callable[P, R]:
        jitted = jax.jit(f, static_argnames=static)
        signature = inspect.signature(f)

        @functools.wraps(f)
        def op(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return jitted(*args, **kwargs)  # type: ignore[no-any-return]
            except (TypeError, ValueError):
                bound = _bind(f.__name__, signature, args, kwargs)
                lists = {k for k in static if isinstance(bound.arguments.get(k), list)}
                if lists:
                    bound.arguments |= {k: _tuple(bound.arguments[k]) for k in lists}
                    return jitted(*bound.args, **bound.kwargs)  # type: ignore[no-any-return]
                _explain(f.__name__, bound.arguments, static)
                raise

        return op

    return decorate


def _bind(op: str, signature: inspect.Signature, args: Any, kwargs: Any) -> inspect.BoundArguments:
    try:
        return signature.bind(*args, **kwargs)
    except TypeError as e:
        raise TypeError(f"{op}: {e}; it is called as {op}{_plain(signature)}") from None


def _plain(signature: inspect.Signature) -> str:
    parameters = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return str(inspect.Signature(parameters))


def _tuple(x: Any) -> Any:
    return tuple(map(_tuple, x)) if isinstance(x, list) else x


def _explain(op: str, arguments: dict[str, Any], static: Sequence[str]) -> None:
    """Raise the error that jit's own message stands for, if it is one about a non-array."""
    for name, x in arguments.items():
        if name in static:
            try:
                hash(x)
            except TypeError:
                raise TypeError(
                    f"{op}: {name} must be known when the op is compiled; got {describe(x)}. "
                    "Give a Python number, string or tuple"
                ) from None
        elif not all(
            isinstance(leaf, (jax.Array, np.ndarray, np.generic, bool, int, float, complex))
            for leaf in jax.tree.leaves(x)
        ):
            raise TypeError(
                f"{op}: {name} must be an array; got {describe(x)}. Convert it with jnp.asarray"
            ) from None
