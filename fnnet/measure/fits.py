"""The largest batch that fits a memory, found by compiling: no chip is needed, none is asked."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

from fnnet.measure.programs import Axes, Compiled
from fnnet.measure.targets import compile_for

_UNITS = {"b": 1, "": 1}
for _power, _letter in enumerate("kmgt", 1):
    _UNITS |= {f"{_letter}b": 1000**_power, f"{_letter}ib": 1024**_power}


@dataclasses.dataclass(frozen=True)
class Fit:
    """What fits.

    Attributes:
        batch: the largest batch found to fit; 0 if not even the smallest does.
        limit: bytes of each device's memory.
        needed: bytes that the program of this batch needs on each device.
        more: bytes that the next batch would need; None where the compiler refused to compile it.
        tried: how many programs were compiled.
    """

    batch: int
    limit: int
    needed: int | None
    more: int | None
    tried: int


def bytes_in(text: str | int) -> int:
    """A number of bytes from "16GB" (10^9 each) or "16GiB" (2^30 each).

    Raises:
        ValueError: if it is none.

    Example:
        >>> bytes_in("16GB"), bytes_in("1.5 GiB"), bytes_in(7)
        (16000000000, 1610612736, 7)
    """
    if isinstance(text, int) and not isinstance(text, bool) and text > 0:
        return text
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?b?)", str(text).strip().lower())
    if isinstance(text, bool) or not found or found[2] not in _UNITS or not float(found[1]):
        raise ValueError(f"targets: {text!r} is no amount of memory: write 16GB, or 80GiB")
    return int(float(found[1]) * _UNITS[found[2]])


def largest_batch(
    f: Callable[..., Any],
    arguments: Callable[[int], Sequence[Any]],
    *,
    target: str,
    memory: str | int,
    mesh: Any = None,
    in_shardings: Any = None,
    multiple: int = 1,
    most: int = 2**20,
) -> Fit:
    """Find the largest batch of which the program fits each device's memory.

    The batch is doubled until it does not fit, then bisected: memory is taken to grow with it. A
    program that the compiler refuses, as it does beyond the chip's own memory, does not fit.

    Args:
        f: a function, as for `compile_for`.
        arguments: ``batch -> the arguments of f``; `jax.ShapeDtypeStruct`s will do.
        target: as for `compile_for`, as are `mesh` and `in_shardings`.
        memory: of each device that programs may use: "16GB", "80GiB", or a number of bytes.
        mesh: as for `compile_for`.
        in_shardings: as for `compile_for`.
        multiple: batches tried are multiples of it: the devices that examples are cut over.
        most: the largest multiple that is tried.

    Raises:
        ValueError: if `memory` is no amount of memory.
        Exception: whatever compiling the smallest batch raises, unless it is for want of memory.
    """
    limit = bytes_in(memory)
    needs: dict[int, int | None] = {}

    def fits(n: int) -> bool:
        needs[n] = _needed(f, arguments(n * multiple), target, mesh, in_shardings)
        return needs[n] is not None and needs[n] <= limit  # type: ignore[operator]

    good, bad = 0, 1
    while bad <= most and fits(bad):
        good, bad = bad, 2 * bad
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return Fit(good * multiple, limit, needs.get(good), needs.get(bad), len(needs))


def _needed(
    f: Callable[..., Any], args: Sequence[Any], target: str, mesh: Axes | None, in_shardings: Any
) -> int | None:
    try:
        compiled: Compiled = compile_for(
            f, *args, target=target, mesh=mesh, in_shardings=in_shardings
        )
    except Exception as error:
        if "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower():
            return None
        raise
    return compiled.memory.total
