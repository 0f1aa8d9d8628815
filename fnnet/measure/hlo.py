"""A compiled program's text, read: what is exchanged between devices, and how much is launched.

The text is XLA's own (`Compiled.as_text()`): computations, each a list of instructions

    %name = SHAPE opcode(operands), attribute=value, ...

of which those for a loop's body, a branch or a fusion name the computation that they run.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
# what names, groups or waits, and computes nothing
_IDLE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional",
    "call", "after-all", "opt-barrier", "partition-id", "replica-id", "async-start", "async-update",
    "async-done", "copy-done", "send-done", "recv-done", "add-dependency", "domain",
}  # fmt: skip
_BOOKKEEPING = {"AllocateBuffer", "Sharding", "SPMDFullToShardShape", "SPMDShardToFullShape"}
_BITS = {"pred": 8, "s4": 4, "u4": 4, "s2": 2, "u2": 2, "token": 0, "c64": 64, "c128": 128}
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?[\])}]) ([a-z][a-z\-]*[a-z])\((.*)$")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALLED = re.compile(
    r"\b(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)"
    r"|\b(?:branch_computations|called_computations)=\{([^}]*)\}"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
        name: of its result.
        shape: of its result, as text.
        opcode: what it does.
        rest: its operands and attributes, as text.
    """

    name: str
    shape: str
    opcode: str
    rest: str

    @property
    def called(self) -> list[str]:
        """The computations that it runs."""
        found = []
        for one, several in _CALLED.findall(self.rest):
            found += [one] if one else [name.strip().lstrip("%") for name in several.split(",")]
        return found

    @property
    def trips(self) -> int | None:
        """How often a loop runs its body; None where the compiler does not say."""
        known = _TRIPS.search(self.rest)
        return int(known[1]) if known else None


@dataclasses.dataclass(frozen=True)
class Exchange:
    """One collective of a program.

    Attributes:
        kind: "all-reduce", "all-gather", ...
        groups: the devices that exchange with each other, by their positions in the mesh; for a
            permutation the pairs (from, to); () where the text does not tell.
        bytes: of the result, on each device.
        runs: how often it runs in one run of the program; None inside of a loop whose number of
            turns the compiler does not tell.
    """

    kind: str
    groups: tuple[tuple[int, ...], ...]
    bytes: int
    runs: int | None


class Program:
    """A program's computations by name.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> text = jax.jit(lambda x: jnp.sin(x) @ x).lower(jnp.ones((2, 2))).compile().as_text()
        >>> Program(text).exchanges(), Program(text).has_loops
        ([], False)
    """

    def __init__(self, text: str) -> None:
        self.computations: dict[str, list[Instruction]] = {}
        self.entry = ""
        body: list[Instruction] = []
        for line in text.splitlines():
            if head := _COMPUTATION.match(line):
                body = self.computations[head[2]] = []
                self.entry = head[2] if head[1] else self.entry
            elif found := _INSTRUCTION.match(line):
                body.append(Instruction(*found.groups()))
        # how often each runs in one run of the program, summed over its callers
        self.runs: dict[str, int | None] = {}
        self.fused: set[str] = set()
        self._walk(self.entry, 1, False)

    def _walk(self, name: str, runs: int | None, fused: bool) -> None:
        if name not in self.computations:
            return
        before = self.runs.get(name, 0)
        self.runs[name] = None if before is None or runs is None else before + runs
        if fused:
            self.fused.add(name)
        for one in self.computations[name]:
            turns = one.trips if one.opcode == "while" else 1
            inner = None if runs is None or turns is None else runs * turns
            for called in one.called:
                self._walk(called, inner, fused or one.opcode == "fusion")

    def _instructions(self) -> Iterator[tuple[str, Instruction]]:
        for name in self.runs:
            for one in self.computations[name]:
                yield name, one

    @property
    def has_loops(self) -> bool:
        """Whether anything in it may run more than once, or not at all."""
        return any(one.opcode in ("while", "conditional") for _, one in self._instructions())

    @property
    def fusions(self) -> int:
        """Fusions in the program's text, each several operations in one kernel."""
        return sum(one.opcode == "fusion" for _, one in self._instructions())

    @property
    def kernels(self) -> int:
        """Instructions in its text that compute, move or exchange something, outside of fusions."""
        called = {c for _, one in self._instructions() if one.opcode != "fusion" for c in one.called
                  if one.opcode not in ("while", "conditional", "call", "async-start")}  # fmt: skip
        return sum(
            one.opcode not in _IDLE and not one.opcode.endswith("-done")
            for name, one in self._instructions()
            if name not in self.fused and name not in called
        )

    @property
    def libraries(self) -> dict[str, int]:
        """How often each routine of a library or of the vendor is called, by its target's name."""
        targets = (
            re.search(r'custom_call_target="([^"]*)"', one.rest)
            for _, one in self._instructions()
            if one.opcode == "custom-call"
        )
        named = Counter(found[1] for found in targets if found)
        return {name: n for name, n in named.items() if name not in _BOOKKEEPING}

    def exchanges(self) -> list[Exchange]:
        """Its collectives, in the order of the text."""
        found = []
        for name, one in self._instructions():
            kind = one.opcode.removesuffix("-start")
            if kind not in KINDS:
                continue
            shape = one.shape
            if one.opcode.endswith("-start"):  # its result is that of the instruction that waits
                waits = (
                    other.shape
                    for other in self.computations[name]
                    if other.opcode == f"{kind}-done" and _operand(other.rest) == one.name
                )
                shape = next(waits, one.shape)
            found.append(Exchange(kind, _groups(one.rest), bytes_of(shape), self.runs[name]))
        return found


def _operand(rest: str) -> str:
    return re.split(r"[,)]", rest, maxsplit=1)[0].split()[-1].lstrip("%")


def bytes_of(shape: str) -> int:
    """The bytes of a shape, or of all shapes of a tuple.

    Example:
        >>> bytes_of("(bf16[128,512]{1,0:T(8,128)(2,1)}, f32[])")
        131076
    """
    total = 0
    for dtype, sizes in re.findall(r"\b([a-z]\w*)\[([\d,]*)\]", shape):
        number = re.search(r"\d+", dtype)
        bits = _BITS.get(dtype, int(number[0]) if number else 0)
        total += math.ceil(bits * math.prod(int(n) for n in sizes.split(",") if n) / 8)
    return total


def _groups(rest: str) -> tuple[tuple[int, ...], ...]:
    """The groups, however XLA writes them: pairs, lists, an array cut up, or a mesh's axes."""
    if found := re.search(r"source_target_pairs=\{((?:\{[\d,]*\},?)*)\}", rest):
        return _listed(found[1])
    if found := re.search(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}", rest):
        return _listed(found[1])
    if found := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest):
        sizes, reshaped = _numbers(found[1]), _numbers(found[2])
        ids = np.arange(math.prod(reshaped)).reshape(reshaped)
        if found[3]:
            ids = ids.transpose(_numbers(found[3]))
        return tuple(tuple(map(int, row)) for row in ids.reshape(sizes[0], -1))
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", rest):
        mesh = dict(re.findall(r"'([^']*)'=(\d+)", found[1]))
        over = found[2].replace("'", "").split(",")
        if set(over) <= set(mesh):  # not a part of an axis
            ids = np.arange(math.prod(map(int, mesh.values()))).reshape([*map(int, mesh.values())])
            ids = np.moveaxis(ids, [list(mesh).index(a) for a in over], [*range(-len(over), 0)])
            rows = ids.reshape(-1, math.prod(int(mesh[a]) for a in over))
            return tuple(tuple(map(int, row)) for row in rows)
    return ()


def _listed(text: str) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(_numbers(group)) for group in re.findall(r"\{([\d,]+)\}", text))


def _numbers(text: str) -> Sequence[int]:
    return [int(n) for n in text.split(",") if n]
