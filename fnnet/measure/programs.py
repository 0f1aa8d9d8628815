"""What a compiled program needs and does on each device, whether or not the device is here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from fnnet.measure.compiled import CompiledMemory, memory_of
from fnnet.measure.hlo import Exchange, Program
from fnnet.measure.text import in_bytes, table

Axes = Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class TargetMemory:
    """Bytes of each device's memory; None where the compiler does not tell.

    They are those of the arrays as they lie there: a TPU fills rows up to 128 numbers.

    Attributes:
        arguments: what is passed in.
        outputs: what is returned.
        scratch: what is needed in between; what a TPU keeps in its cores' own memory is not in it.
        aliased: the part of `outputs` that lies in donated arguments.
        code: the program itself.
    """

    arguments: int | None
    outputs: int | None
    scratch: int | None
    aliased: int | None
    code: int | None

    @property
    def total(self) -> int | None:
        """All of it, with what outputs and arguments share counted once."""
        if self.arguments is None or self.outputs is None or self.scratch is None:
            return None
        shared = self.aliased or 0
        return self.arguments + self.outputs + self.scratch - shared + (self.code or 0)


@dataclasses.dataclass(frozen=True)
class Collective:
    """The exchanges of one kind over the same axes of the mesh.

    Attributes:
        kind: "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", ...
        axes: the mesh's axes over which it goes; None where the program's text does not tell.
        count: in the program's text.
        bytes: of the results of these, on each device, each counted once.
        runs: how many run in one run of the program; None if one is in a loop whose number of turns
            the compiler does not tell.
    """

    kind: str
    axes: tuple[str, ...] | None
    count: int
    bytes: int
    runs: int | None


@dataclasses.dataclass(frozen=True, repr=False)
class Compiled:
    """A program compiled for a target.

    Attributes:
        target: what it was compiled for, as "tpu v5e:2x2" or "h100:1".
        memory: of each device.
        collectives: what the devices exchange.
        fusions: in the program's text; several operations in one kernel each.
        kernels: instructions in its text, outside of fusions, that compute, move or exchange.
        libraries: calls of the vendor's routines, by name.
        flops: floating-point operations of one run on one device by the compiler's count; None
            where that cannot be trusted, for which `note` has the reason.
        bytes_accessed: bytes of memory that one run reads and writes, likewise.
        note: what the figures leave out.
        text: the program, in XLA's notation.
    """

    target: str
    memory: TargetMemory
    collectives: tuple[Collective, ...]
    fusions: int
    kernels: int
    libraries: Mapping[str, int]
    flops: float | None
    bytes_accessed: float | None
    note: str
    text: str = dataclasses.field(compare=False)

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain numbers and text, ready for JSON; without the program's text."""
        figures = dataclasses.asdict(self)
        del figures["text"]
        figures["memory"]["total"] = self.memory.total
        return figures

    def __repr__(self) -> str:
        sizes = dataclasses.asdict(self.memory)
        rows = [[name, in_bytes(n)] for name, n in sizes.items() if n]
        rows += [["total", in_bytes(self.memory.total)]]
        rows += [[_in_words(c), in_bytes(c.bytes)] for c in self.collectives]
        rows += [["kernels, of them fusions", f"{self.kernels}, {self.fusions}"]]
        rows += [[name, str(n)] for name, n in self.libraries.items()]
        if self.flops is not None:
            rows += [["floating-point operations", f"{self.flops:.3g}"]]
        return table([f"on each device of {self.target}", ""], rows, right=[1]) + (
            f"\n{self.note}" if self.note else ""
        )


def _in_words(c: Collective) -> str:
    over = "?" if c.axes is None else ", ".join(c.axes) or "no axis"
    runs = "" if c.runs == c.count else f", runs {'?' if c.runs is None else c.runs}"
    return f"{c.count} {c.kind} over {over}{runs}"


def read(compiled: jax.stages.Compiled, target: str, axes: Axes) -> Compiled:
    """What a compiled program needs and does.

    Args:
        compiled: the program.
        target: what it was compiled for, in words.
        axes: the sizes of its mesh's axes by name, in order; empty for one device.
    """
    text = compiled.as_text() or ""
    program = Program(text)
    flops, accessed, note = _costs(compiled, program)
    return Compiled(
        target=target,
        memory=_memory(compiled),
        collectives=_gathered(program.exchanges(), axes),
        fusions=program.fusions,
        kernels=program.kernels,
        libraries=program.libraries,
        flops=flops,
        bytes_accessed=accessed,
        note=note,
        text=text,
    )


def _memory(compiled: jax.stages.Compiled) -> TargetMemory:
    told: CompiledMemory = memory_of(compiled)
    code = getattr(compiled.memory_analysis(), "generated_code_size_in_bytes", None)
    return TargetMemory(told.argument, told.output, told.temp, told.alias, code)


def _costs(
    compiled: jax.stages.Compiled, program: Program
) -> tuple[float | None, float | None, str]:
    if program.has_loops:
        return None, None, (
            "Floating-point operations and bytes accessed: not told, as the compiler counts a "
            "loop's body once."
        )  # fmt: skip
    try:
        costs = compiled.cost_analysis()
    except Exception:  # each compiler has its own way to say that it does not count
        costs = None
    costs = costs[0] if isinstance(costs, list) and costs else costs
    if not isinstance(costs, Mapping) or "flops" not in costs:
        return None, None, "This compiler does not count floating-point operations."
    return float(costs["flops"]), float(costs.get("bytes accessed", np.nan)), ""


def _gathered(exchanges: Sequence[Exchange], axes: Axes) -> tuple[Collective, ...]:
    found: dict[tuple[str, tuple[str, ...] | None], list[Exchange]] = {}
    for one in exchanges:
        found.setdefault((one.kind, _axes_of(one, axes)), []).append(one)
    return tuple(
        Collective(
            kind,
            over,
            len(all_),
            sum(one.bytes for one in all_),
            None if any(one.runs is None for one in all_) else sum(one.runs or 0 for one in all_),
        )
        for (kind, over), all_ in found.items()
    )


def _axes_of(one: Exchange, axes: Axes) -> tuple[str, ...] | None:
    """The axes along which the devices of a group differ: a device's number is its place."""
    sizes = tuple(axes.values())
    if not one.groups or not sizes:
        return None if sizes else ()
    varies = np.zeros(len(sizes), bool)
    for group in one.groups:
        places = np.array(np.unravel_index(np.array(group), sizes))
        varies |= (places != places[:, :1]).any(axis=1)
    return tuple(name for name, one_varies in zip(axes, varies, strict=True) if one_varies)
