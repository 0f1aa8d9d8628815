"""One rule, the form of it that suits the compiler: CPUs', GPUs' or another's.

A form is chosen where the program is lowered, so each platform's compiler sees its own alone, and a
program exported for several has each. All forms compute the same numbers but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from jax import lax

T = TypeVar("T")


def by_platform(
    *operands: Any,
    default: Callable[..., T],
    cpu: Callable[..., T] | None = None,
    gpu: Callable[..., T] | None = None,
) -> T:
    """``f(*operands)``, with f the form for the platform that it is compiled for.

    Args:
        operands: arrays.
        default: the form where no other is given.
        cpu: the form for CPUs.
        gpu: the form for NVIDIA's and AMD's GPUs.

    Example:
        >>> import jax.numpy as jnp
        >>> float(by_platform(jnp.ones(3), cpu=jnp.sum, default=lambda x: x[0] + x[1] + x[2]))
        3.0
    """
    named = {"cpu": cpu, "cuda": gpu, "rocm": gpu}
    forms = {name: form for name, form in named.items() if form is not None}
    out: T = lax.platform_dependent(*operands, default=default, **forms)
    return out
