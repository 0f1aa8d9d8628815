"""`python -m fnnet bench --target`: what gradients by hand need on chips that are not there.

Each row of `fnnet.measure.rows` is compiled for one chip by hand, by autodiff of the same forward
and by `jax.checkpoint` of it; a training step of a transformer block for all chips, cut over data
and model. Memory and exchanges are exact: the chip would run these very programs. Time is not told.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, TextIO

import jax

from fnnet._terminal import Columns, lines
from fnnet.measure import block
from fnnet.measure.chips import Target, target_of
from fnnet.measure.fits import Fit, largest_batch
from fnnet.measure.gradient import AUTODIFF, CHECKPOINT, HAND, moving, program
from fnnet.measure.programs import Compiled
from fnnet.measure.row import Function, Row
from fnnet.measure.rows import ROWS
from fnnet.measure.targets import compile_for
from fnnet.measure.text import in_bytes
from fnnet.rules import plain

BLOCK = "block"
WAYS = (HAND, AUTODIFF, CHECKPOINT)


@dataclasses.dataclass(frozen=True)
class Needs:
    """What one function needs on the target, by each way.

    Attributes:
        name: the row's.
        size: in words.
        ways: by name: what was compiled, or why it could not be.
    """

    name: str
    size: str
    ways: dict[str, Compiled | str]

    def scratch(self, way: str) -> int | None:
        """Bytes of scratch memory, where it was compiled and is told."""
        compiled = self.ways[way]
        return None if isinstance(compiled, str) else compiled.memory.scratch

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain dicts, numbers and text, ready for JSON."""
        ways = {k: v if isinstance(v, str) else v.to_dict() for k, v in self.ways.items()}
        return {"name": self.name, "size": self.size, "ways": ways}


def run(
    names: Sequence[str] | None,
    target: str,
    *,
    quick: bool = False,
    fits: str | None = None,
    human: TextIO | None = None,
    sizes: block.Sizes | None = None,
) -> dict[str, Any]:
    """Compile the rows and the block, and print what they need.

    Args:
        names: of the rows, and "block"; all by default.
        target: as for `fnnet.targets.compile_for`.
        quick: whether to take one size a row.
        fits: the memory of a chip, for the largest batch of the block's training step.
        human: where to print; standard output by default.
        sizes: of the block; those of Llama 3 8B by default.

    Returns:
        "target", "rows" (a list of Needs), "block" (a Needs or None), "fits" (by way, a Fit).
    """
    place, out = target_of(target), sys.stdout if human is None else human
    chosen = [
        (row, size)
        for row in ROWS
        if not names or row.op in names
        for size in (row.sizes[:1] if quick else row.sizes)
    ]
    rows: list[Needs] = []
    if chosen:
        one = Target(f"{place.chip}:1", place.platform, place.chip, (1,))
        labels = [f"{row.name} {row.words(size)}" for row, size in chosen]
        heads = [
            "for one " + place.chip,
            "scratch",
            "autodiff",
            "checkpoint",
            "kernels",
            "autodiff",
        ]
        table = Columns(heads, [max(map(len, labels)), 8, 8, 8, 4, 4], right=range(1, 6))
        print(table.head, file=out, flush=True)
        for label, (row, size) in zip(labels, chosen, strict=True):
            rows.append(_of_row(row, size, one.name))
            print(table.row([label, *_cells(rows[-1])]), file=out, flush=True)
        legend = (
            "Bytes of scratch memory for value and gradient by hand, by autodiff and with "
            "jax.checkpoint, and how many kernels are launched, those in a loop counted once."
        )
        print("", *lines(legend), "", sep="\n", file=out, flush=True)
    whole: Needs | None = None
    found: dict[str, Fit] = {}
    if not names or BLOCK in names:
        sizes = sizes or block.Sizes()
        whole = _of_block(place, sizes)
        print(_about(whole, place), file=out, flush=True)
        if fits is not None:
            found = {way: _fit(place, sizes, way, fits) for way in WAYS}
            print(_fitting(found, fits), file=out, flush=True)
    return {"target": place.name, "rows": rows, "block": whole, "fits": found}


def to_dict(results: dict[str, Any]) -> dict[str, Any]:
    """The results of `run` as plain dicts, numbers and text, ready for JSON."""
    return {
        **results,
        "jax": jax.__version__,
        "rows": [row.to_dict() for row in results["rows"]],
        "block": None if results["block"] is None else results["block"].to_dict(),
        "fits": {way: dataclasses.asdict(fit) for way, fit in results["fits"].items()},
    }


def _ways(f: Function, auto: Function, checkpoint: Function) -> dict[str, Function]:
    return dict(zip(WAYS, (f, auto, checkpoint), strict=True))


def _compiled(f: Callable[..., Any], args: Sequence[Any], **options: Any) -> Compiled | str:
    """What was compiled, or why it was refused, in one line."""
    try:
        return compile_for(f, *args, **options)
    except ModuleNotFoundError:
        raise  # the compiler is missing: no row can be compiled
    except Exception as error:  # each compiler refuses in its own way
        return (str(error).splitlines() or [type(error).__name__])[0]


def _of_row(row: Row, size: Any, target: str) -> Needs:
    args = jax.eval_shape(lambda: list(row.draw(jax.random.key(0), size)))
    argnums = list(range(len(args))) if row.argnums is None else list(row.argnums)
    g = moving(row, args, argnums)
    auto = row.auto or plain(row.f)
    ways = _ways(row.f, auto, row.checkpoint or jax.checkpoint(auto))
    return Needs(
        row.name,
        row.words(size),
        {
            way: _compiled(program(row, f, argnums), (args, g), target=target)
            for way, f in ways.items()
        },
    )


def _cells(needs: Needs) -> list[str]:
    made = [needs.ways[way] for way in WAYS]
    scratch = ["refused" if isinstance(c, str) else in_bytes(c.memory.scratch) for c in made]
    kernels = ["-" if isinstance(c, str) else str(c.kernels) for c in made[:2]]
    return [*scratch, *kernels]


def axes_of(place: Target) -> dict[str, int]:
    """How the block is cut: over the model as far as a slice's last axis, or a host's 8 GPUs, go.

    Example:
        >>> axes_of(target_of("tpu v5e:16x16")), axes_of(target_of("h100:16"))
        ({'data': 16, 'model': 16}, {'data': 2, 'model': 8})
    """
    number = math.prod(place.sizes)
    model = place.sizes[-1] if len(place.sizes) > 1 else math.gcd(number, 8)
    return {"data": number // model, "model": model}


def _steps(sizes: block.Sizes) -> dict[str, block.Step]:
    by_hand = block.loss(sizes.heads)
    ways = _ways(by_hand, plain(by_hand), jax.checkpoint(plain(by_hand)))
    return {way: block.step(f) for way, f in ways.items()}


def _of_block(place: Target, sizes: block.Sizes) -> Needs:
    axes = axes_of(place)
    args = block.shapes(axes["data"], sizes)
    ways = {
        way: _compiled(f, args, target=place.name, mesh=axes, in_shardings=block.IN_SHARDINGS)
        for way, f in _steps(sizes).items()
    }
    return Needs(BLOCK, f"{sizes}, batch {axes['data']}", ways)


def _fit(place: Target, sizes: block.Sizes, way: str, memory: str) -> Fit:
    axes = axes_of(place)
    return largest_batch(
        _steps(sizes)[way],
        lambda batch: block.shapes(batch, sizes),
        target=place.name,
        memory=memory,
        mesh=axes,
        in_shardings=block.IN_SHARDINGS,
        multiple=axes["data"],
    )


def _about(needs: Needs, place: Target) -> str:
    """The block's training step on each device, and what the devices exchange."""
    axes = axes_of(place)
    cut = ", ".join(f"{name} {size}" for name, size in axes.items())
    text = f"a training step of a transformer block on {place.name}, cut over {cut}: {needs.size}"
    parts = [*lines(text)]
    table = Columns(
        ["each device", "arguments", "scratch", "total", "exchanges"], [10, 9, 8, 8, 9],
        right=range(1, 5),
    )  # fmt: skip
    parts.append(table.head)
    for way, made in needs.ways.items():
        if isinstance(made, str):
            parts += lines(f"{way}: refused: {made}")
            continue
        m = made.memory
        sent = sum(c.bytes for c in made.collectives)
        cells = [in_bytes(m.arguments), in_bytes(m.scratch), in_bytes(m.total), in_bytes(sent)]
        parts.append(table.row([way, *cells]))
        for c in made.collectives:
            over = "?" if c.axes is None else ", ".join(c.axes) or "no axis"
            parts.append(f"    {c.count} {c.kind} over {over}: {in_bytes(c.bytes)}")
    return "\n".join([*parts, ""])


def _fitting(found: dict[str, Fit], memory: str) -> str:
    """The largest batches."""
    parts = [f"the largest batch of that step in {memory} a chip:"]
    for way, fit in found.items():
        after = "more is refused" if fit.more is None else f"more needs {in_bytes(fit.more)}"
        needs = "" if fit.needed is None else f" needs {in_bytes(fit.needed)};"
        parts.append(f"    {way:<12}{fit.batch:>7}{needs} {after}")
    return "\n".join([*parts, ""])
