"""A traced program compiled, cheaply where it is small."""

from __future__ import annotations

import functools
from typing import Any

import jax

from fnnet.check.case.host import work

# of elements computed; below, XLA's and LLVM's optimisations cost more than they save
LARGE = 10_000_000

# the second is known to JAX 0.10 only, and is worth a factor of three there
_CHEAP: tuple[dict[str, Any], ...] = (
    {
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
        "xla_cpu_use_fusion_emitters": False,
    },
    {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True},
)


def compiled(traced: Any) -> Any:
    """The executable of a `jax.stages.Traced`."""
    lowered = traced.lower()
    if jax.default_backend() != "cpu" or work(traced.jaxpr) > LARGE:
        return lowered.compile()
    return lowered.compile(compiler_options=_cheap())


@functools.cache
def _cheap() -> dict[str, Any] | None:
    """The options that this version of XLA knows."""
    for options in _CHEAP:
        try:
            jax.jit(lambda: 0.0).lower().compile(compiler_options=options)
            return options
        except Exception:
            continue
    return None
