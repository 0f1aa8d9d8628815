"""One row at one size: a derivative by hand beside autodiff's, in time and in memory."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from fnnet.measure.compiled import CompiledMemory, memory_of
from fnnet.measure.residuals import residuals
from fnnet.measure.row import Function, Row
from fnnet.measure.timing import Spread, race
from fnnet.rules import plain

HAND, AUTODIFF, CHECKPOINT = "hand", "autodiff", "checkpoint"
AGAIN = "autodiff again"
"""The same program as autodiff's, compiled once more: its ratio shows what a ratio means here."""


@dataclasses.dataclass(frozen=True)
class Contestant:
    """What value and gradient cost, computed in one way.

    Attributes:
        seconds: of one call of the compiled function.
        memory: of the compiled function.
        stored: bytes that the forward pass stores anew for the backward pass.
        given: bytes of arguments that it keeps.
        trace_s: seconds to trace and lower the function, once.
        compile_s: seconds that XLA took to compile it, once.
    """

    seconds: Spread
    memory: CompiledMemory
    stored: int
    given: int
    trace_s: float
    compile_s: float


@dataclasses.dataclass(frozen=True)
class Eager:
    """A call outside of `jit`, beside the plain function jitted.

    Attributes:
        seconds: of one call of the public op.
        plain_seconds: of one call of ``jax.jit(plain(op))``.
        ratio: of the first to the second.
    """

    seconds: Spread
    plain_seconds: Spread
    ratio: Spread


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What was measured of one row at one size.

    Attributes:
        name: the row's.
        size: the size, in words.
        arrays: dtype and shape of each array among the arguments.
        contestants: by name: hand, autodiff, checkpoint, and the peers, but those in `missing`.
        ratios: the time of hand as a multiple of each other's.
        control: the time of autodiff as a multiple of autodiff's (of hand's to itself, where
            autodiff is missing): its distance from 1 is noise.
        calls: how many calls in a row were one measurement.
        tries: of how many measurements the shortest counted in each round.
        eager: the call outside of `jit`, or None if that was not measured.
        missing: who could not be set up, or refused, or had no room, and why.
    """

    name: str
    size: str
    arrays: Sequence[str]
    contestants: Mapping[str, Contestant]
    ratios: Mapping[str, Spread]
    control: Spread
    calls: int
    tries: int
    eager: Eager | None
    missing: Mapping[str, str]

    @property
    def peers(self) -> list[str]:
        """The names of the contestants by others."""
        return [c for c in self.contestants if c not in (HAND, AUTODIFF, CHECKPOINT)]

    @property
    def label(self) -> str:
        """The row's name and size."""
        return f"{self.name} {self.size}"

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain dicts, numbers and text, ready for JSON."""
        return dataclasses.asdict(self)


def measure(row: Row, size: Any, *, budget_s: float, least: int = 11) -> Measurement:
    """Measure one row at one size.

    Args:
        row: of the table.
        size: one of its sizes, or any other that its `draw` understands.
        budget_s: about how long to time the gradient, and half of it for the eager call, in
            seconds. Compiling comes on top.
        least: rounds at least.

    Example:
        >>> from fnnet.measure.rows import ROWS
        >>> relu = next(row for row in ROWS if row.name == "relu")
        >>> m = measure(relu, [(4, 3)], budget_s=0.01, least=3)
        >>> list(m.contestants), m.contestants["hand"].stored
        (['hand', 'autodiff', 'checkpoint', 'jax.nn'], 48)
    """
    args = jax.block_until_ready(list(row.draw(jax.random.key(0), size)))
    argnums = list(range(len(args))) if row.argnums is None else list(row.argnums)
    autodiff = row.auto or plain(row.f)
    functions: dict[str, Function] = {
        HAND: row.f,
        AUTODIFF: autodiff,
        CHECKPOINT: row.checkpoint or jax.checkpoint(autodiff),
    }
    missing = {}
    for name, load in row.peers.items():
        try:
            functions[name] = load()
        except Exception as error:  # not installed, or broken in whatever way
            missing[name] = f"{type(error).__name__}: {error}"

    types, tree = jax.tree.flatten(moving(row, args, argnums))
    keys = jax.random.split(jax.random.key(1), max(1, len(types)))
    drawn = [jax.random.normal(k, t.shape, t.dtype) for k, t in zip(keys, types, strict=True)]
    g = jax.tree.unflatten(tree, drawn)
    programs = {}
    for name, f in list(functions.items()):
        try:
            programs[name] = _compiled(row, f, argnums, args, g)
            if name != HAND:
                jax.block_until_ready(programs[name][0](args, g))
        except Exception as error:  # it refuses these arguments or this device, or has no room
            if name == HAND:
                raise
            missing[name] = f"{type(error).__name__}: {error}".splitlines()[0]
            programs.pop(name, None)
            del functions[name]
    whose = AUTODIFF if AUTODIFF in programs else HAND
    again, *_ = _compiled(row, functions[whose], argnums, args, g)
    runs = {name: _thunk(made, args, g) for name, (made, *_) in programs.items()}
    times = race({**runs, AGAIN: _thunk(again, args, g)}, budget_s=budget_s, least=least)

    contestants = {}
    for name, (made, trace_s, compile_s) in programs.items():
        stored = given = 0
        if not row.tangent:
            kept = residuals(functions[name], *args, argnums=argnums)
            stored, given = kept.stored, kept.given
        contestants[name] = Contestant(
            times.time(name), memory_of(made), stored, given, trace_s, compile_s
        )
    return Measurement(
        name=row.name,
        size=row.words(size),
        arrays=[f"{x.dtype}[{','.join(map(str, x.shape))}]" for x in jax.tree.leaves(args)],
        contestants=contestants,
        ratios={name: times.ratio(HAND, name) for name in contestants if name != HAND},
        control=times.ratio(AGAIN, whose),
        calls=times.calls,
        tries=times.tries,
        eager=_eager(row.f, args, budget_s / 2, least) if row.eager else None,
        missing=missing,
    )


def value_and_cotangents(f: Function, argnums: Sequence[int]) -> Function:
    """``(args, g) -> (f(*args), the cotangents of the arguments chosen)``.

    Example:
        >>> value_and_cotangents(lambda x, y: x * y, [1])([3.0, 2.0], 1.0)
        (Array(6., dtype=float32, weak_type=True), (Array(3., dtype=float32, weak_type=True),))
    """

    def run(args: Sequence[Any], g: Any) -> tuple[Any, Any]:
        def of_chosen(*chosen: Any) -> Any:
            full = list(args)
            for i, x in zip(argnums, chosen, strict=True):
                full[i] = x
            return f(*full)

        y, backward = jax.vjp(of_chosen, *[args[i] for i in argnums])
        return y, backward(g)

    return run


def value_and_tangent(f: Function, argnums: Sequence[int]) -> Function:
    """``(args, tangents of the arguments chosen) -> (f(*args), its tangent)``.

    Example:
        >>> value_and_tangent(lambda x, y: x * y, [1])([3.0, 2.0], [1.0])
        (Array(6., dtype=float32, weak_type=True), Array(3., dtype=float32, weak_type=True))
    """

    def run(args: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
        def of_chosen(*chosen: Any) -> Any:
            full = list(args)
            for i, x in zip(argnums, chosen, strict=True):
                full[i] = x
            return f(*full)

        y, dot = jax.jvp(of_chosen, [args[i] for i in argnums], list(tangents))
        return y, dot

    return run


def program(row: Row, f: Function, argnums: Sequence[int]) -> Function:
    """What of `f` is measured: value and gradient, or value and tangent, of these arguments."""
    return (value_and_tangent if row.tangent else value_and_cotangents)(f, argnums)


def moving(row: Row, args: Sequence[Any], argnums: Sequence[int]) -> Any:
    """The types of what that takes beside the arguments: the cotangent, or the tangents."""
    if row.tangent:
        return [jax.ShapeDtypeStruct(args[i].shape, args[i].dtype) for i in argnums]
    return jax.eval_shape(row.f, *args)


def _compiled(
    row: Row, f: Function, argnums: Sequence[int], args: Any, g: Any
) -> tuple[Any, float, float]:
    """What is measured, compiled, and the seconds that tracing and compiling took."""
    start = time.perf_counter()
    lowered = jax.jit(program(row, f, argnums)).lower(args, g)
    traced = time.perf_counter()
    made = lowered.compile()
    return made, traced - start, time.perf_counter() - traced


def _thunk(made: Any, args: Any, g: Any) -> Callable[[], Any]:
    return lambda: made(args, g)


def _eager(f: Function, args: Sequence[Any], budget_s: float, least: int) -> Eager:
    jitted = jax.jit(plain(f))
    times = race(
        {"eager": lambda: f(*args), "jitted": lambda: jitted(*args)},
        budget_s=budget_s,
        least=least,
    )
    return Eager(times.time("eager"), times.time("jitted"), times.ratio("eager", "jitted"))
