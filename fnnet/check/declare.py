"""Rules that are not, on purpose, the derivative of their function: said once, with the reason."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Declaration:
    """What was declared of a function.

    Attributes:
        reference: a function of the same arguments whose derivative the rule is to have; None where
            there is none.
        reason: why the rule differs, in words.
    """

    reference: Callable[..., Any] | None
    reason: str


_declared: weakref.WeakKeyDictionary[Any, Declaration] = weakref.WeakKeyDictionary()


def declare(
    f: Callable[..., Any], *, reason: str, reference: Callable[..., Any] | None = None
) -> None:
    """Say that the rule of `f` is a surrogate: not its derivative, on purpose.

    `check_vjp` and `fnnet.watch` then hold it against the derivative of `reference`, or against
    nothing.

    Args:
        f: the function that the rule was registered for.
        reason: why, as "straight-through".
        reference: a function of the same arguments whose derivative it is to have, if there is one.

    Raises:
        TypeError: for what is no function, or a reason that is no text.
        ValueError: for an empty reason.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnnet.check import check_vjp, declare
        >>> @jax.custom_vjp
        ... def rounded(x):
        ...     return jnp.round(x)
        >>> rounded.defvjp(lambda x: (jnp.round(x), None), lambda _, g: (g,))
        >>> declare(rounded, reason="straight-through", reference=lambda x: x)
        >>> check_vjp(rounded, (jnp.linspace(0.1, 2.0, 4),), level="quick").verdict
        'correct'
    """
    if not callable(f):
        raise TypeError(f"declare: f must be a function with a rule; got {f!r}")
    if not isinstance(reason, str):
        raise TypeError(f"declare: reason must be text; got {type(reason).__name__}")
    if not reason.strip():
        raise ValueError('declare: reason must say why the rule differs, as "straight-through"')
    _declared[f] = Declaration(reference, reason)


def declared(f: Any) -> Declaration | None:
    """What was declared of a function, or None."""
    try:
        return _declared.get(f)
    except TypeError:  # it cannot be referred to weakly, or hashed
        return None
