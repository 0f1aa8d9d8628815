"""`compiled`: a public op runs jitted, also when it is called eagerly.

Calling a `jax.custom_vjp` eagerly costs many times its arithmetic at small sizes. What an op is
given passes two doors. Here, at every call: options take the one form they are compiled with
(`_options.py`), and what is an array to JAX (`__jax_array__`) becomes one. In the op, while it is
traced, that is once for shapes seen before: dtypes and shapes (`_checks.py`).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax

from fnnet.ops._checks import describe, is_array_or_number
from fnnet.ops._options import Kind
from fnnet.rules.refusals import forward_mode, stand_in

P = ParamSpec("P")
R = TypeVar("R")


def compiled(**kinds: Kind) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a public op with `jax.jit`; `kinds` says what each of its options may be.

    An option is part of the program. One that comes as an array (a number that is traced, say: see
    `_options.number`) is an argument of the program instead.
    """

    def decorate(f: Callable[P, R]) -> Callable[P, R]:
        name, signature = f.__name__, inspect.signature(f)
        by_place = [kinds.get(p) for p in signature.parameters]
        names = list(signature.parameters)
        options_from = next((i for i, kind in enumerate(by_place) if kind), len(by_place))

        @functools.cache
        def program(traced: frozenset[str]) -> Any:
            """The op jitted, with these of its options as arguments."""
            return jax.jit(f, static_argnames=tuple(kinds.keys() - traced))

        whole = program(frozenset())

        def entered(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any, Any]:
            """The program and what it is to be called with."""
            traced = []
            if len(args) > options_from or any(map(_is_to_be_asked, map(type, args))):
                given = list(args)
                for i, x in enumerate(args[: len(by_place)]):
                    kind, key = by_place[i], names[i]
                    given[i] = _array(name, key, x) if kind is None else kind(name, key, x)
                    if kind and isinstance(given[i], jax.Array):
                        traced.append(key)
                args = tuple(given)
            for key, x in kwargs.items():
                kind = kinds.get(key)
                kwargs[key] = x = _array(name, key, x) if kind is None else kind(name, key, x)
                if kind and isinstance(x, jax.Array):
                    traced.append(key)
            return (program(frozenset(traced)) if traced else whole), args, kwargs

        @functools.wraps(f)
        def op(*args: P.args, **kwargs: P.kwargs) -> R:
            run, given, options = entered(args, kwargs)
            try:
                return run(*given, **options)  # type: ignore[no-any-return]
            except (TypeError, ValueError, NotImplementedError) as error:
                _explain(name, signature, given, options, kinds, error)
                raise

        return op

    return decorate


@functools.cache
def _is_to_be_asked(kind: Any) -> bool:
    """Whether a value of this class may be no array of JAX's: one that is traced may be a Ref."""
    return not issubclass(kind, jax.Array) or issubclass(kind, jax.core.Tracer)


def _array(op: str, name: str, x: Any) -> Any:
    """`x`, or the array it has to give: flax's `nnx.Param` has one, say."""
    if isinstance(x, jax.Array):
        return x
    if what := stand_in(name, x):
        raise TypeError(f"{op}: {name} must be an array; got {what}")
    return x.__jax_array__() if hasattr(x, "__jax_array__") else x


def _explain(
    op: str,
    signature: inspect.Signature,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    kinds: dict[str, Kind],
    error: Exception,
) -> None:
    """Raise the error that JAX's own message stands for, if the cause can be told."""
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as e:
        raise TypeError(f"{op}: {e}; it is called as {op}{_plain(signature)}") from None
    for name, x in bound.arguments.items():
        if name not in kinds and not all(map(is_array_or_number, jax.tree.leaves(x))):
            raise TypeError(
                f"{op}: {name} must be an array; got {describe(x)}. Convert it with jnp.asarray"
            ) from None
    if refused := forward_mode(op, error):
        raise refused from (None if refused is error else error)


def _plain(signature: inspect.Signature) -> str:
    parameters = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return str(inspect.Signature(parameters))
