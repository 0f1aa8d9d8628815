"""The memory of a compiled program, as the compiler has planned it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from fnnet.measure.text import in_bytes, table


@dataclasses.dataclass(frozen=True, repr=False)
class CompiledMemory:
    """Bytes that one run of a compiled program needs on each device; None where it is not told.

    Attributes:
        argument: what is passed in.
        output: what is returned.
        temp: scratch memory in between; the part that fusion and donation save.
        alias: the part of `output` that lies in donated arguments.
        backend: the platform it was compiled for.
        note: why the figures are None, or empty.
    """

    argument: int | None
    output: int | None
    temp: int | None
    alias: int | None
    backend: str
    note: str = ""

    @property
    def told(self) -> bool:
        """Whether the backend tells."""
        return self.temp is not None

    @property
    def total(self) -> int | None:
        """Arguments, outputs and scratch memory, with what they share counted once."""
        if self.argument is None or self.output is None or self.temp is None:
            return None
        return self.argument + self.output + self.temp - (self.alias or 0)

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain numbers and text, ready for JSON."""
        return {**dataclasses.asdict(self), "total": self.total}

    def __repr__(self) -> str:
        if not self.told:
            return f"compiled memory on {self.backend}: {self.note}"
        rows = [
            [name, f"{n:,}", in_bytes(n)]
            for name in ("argument", "output", "alias", "temp", "total")
            if (n := getattr(self, name)) is not None
        ]
        return table([f"on {self.backend}", "bytes", ""], rows, right=[1, 2])


def compiled_memory(
    f: Callable[..., Any], *args: Any, target: str | None = None, **kwargs: Any
) -> CompiledMemory:
    """Compile `f` at these arguments and say what memory it needs. Nothing is run.

    The figures are exact for the program as compiled, loops included: so they are as reproducible
    as the compiler is, and no noise is in them.

    Args:
        f: a function of arrays, or what `jax.jit` made of one: its donated and static arguments
            count then.
        args: its arguments. `jax.ShapeDtypeStruct` will do for an array.
        target: a chip that need not be there, "tpu v5e:1x1" or "h100", as for
            `fnnet.targets.compile_for`, which tells more; by default JAX's own first device.
        kwargs: its keyword arguments.

    Returns:
        A CompiledMemory. Where the backend does not tell, its figures are None and its `note` says
        why.

    Raises:
        TypeError: if `f` cannot be compiled at all, from `jax.jit`.

    Example:
        The broadcast of three numbers is never written down, only what is made of it:

        >>> import jax.numpy as jnp
        >>> row, m = jnp.ones(3), jnp.ones((1000, 3))
        >>> c = compiled_memory(lambda row, m: jnp.broadcast_to(row, m.shape) * m, row, m)
        >>> c.argument, c.output, c.temp
        (12012, 12000, 0)
    """
    if target is not None:
        from fnnet.measure.targets import compile_for  # which stands on this file

        needs = compile_for(f, *args, target=target, **kwargs)
        m = needs.memory
        return CompiledMemory(m.arguments, m.outputs, m.scratch, m.aliased, needs.target)
    jitted: Any = f if hasattr(f, "lower") else jax.jit(f)
    return memory_of(jitted.lower(*args, **kwargs).compile())


def memory_of(compiled: jax.stages.Compiled) -> CompiledMemory:
    """What an already compiled program needs.

    Example:
        >>> import jax.numpy as jnp
        >>> memory_of(jax.jit(jnp.sin).lower(jnp.ones(8)).compile()).output
        32
    """
    backend = _platform(compiled)
    try:
        stats = compiled.memory_analysis()
    except Exception as error:  # each backend has its own way to say that it cannot
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return _untold(backend, f"the backend does not tell ({reason})")
    if stats is None:
        return _untold(backend, "the backend does not tell")
    return CompiledMemory(
        argument=stats.argument_size_in_bytes,
        output=stats.output_size_in_bytes,
        temp=stats.temp_size_in_bytes,
        alias=stats.alias_size_in_bytes,
        backend=backend,
    )


def _untold(backend: str, note: str) -> CompiledMemory:
    return CompiledMemory(None, None, None, None, backend, note)


def _platform(compiled: jax.stages.Compiled) -> str:
    """The platform of the program's own devices, which need not be the default one."""
    for sharding in jax.tree.leaves((compiled.input_shardings, compiled.output_shardings)):
        for device in sharding.device_set:
            return str(device.platform)
    return jax.default_backend()
