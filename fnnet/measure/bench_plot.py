"""The benchmark's ratios as a chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from fnnet.measure.gradient import AUTODIFF, CHECKPOINT, HAND, Measurement

_COLOURS = {AUTODIFF: "#2a78b5", CHECKPOINT: "#e08a1e"}


def draw(
    rows: Sequence[Measurement], machine: Mapping[str, str], file: str | Path | BinaryIO
) -> None:
    """Draw time and memory by hand as shares of autodiff's and of checkpoint's.

    Args:
        rows: what was measured, at least one.
        machine: of `machine()`.
        file: where to write the picture; a name's ending is the format, a stream gets a PNG.

    Raises:
        ImportError: if there is no matplotlib.
        OSError: if the file cannot be written.
        ValueError: if there is nothing to draw.
    """
    from matplotlib.figure import Figure

    if not rows:
        raise ValueError("--plot draws gradients, and none was measured: name an op beside epoch")
    # A Figure of its own, not pyplot's: nothing global, and no display is looked for.
    figure = Figure(figsize=(12, 2.2 + 0.55 * len(rows)), layout="constrained", dpi=120)
    time, memory = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    for i, row in enumerate(rows):
        noise = row.control
        time.fill_betweenx(
            [i - 0.4, i + 0.4], noise.low, noise.high, color="#e4e4e4", lw=0, zorder=0
        )
        for offset, (way, colour) in zip((-0.17, 0.17), _COLOURS.items(), strict=True):
            if way in row.missing:
                continue
            r = row.ratios[way]
            time.plot([r.low, r.high], [i + offset] * 2, color=colour, lw=1.2)
            time.plot([r.sure_low, r.sure_high], [i + offset] * 2, color=colour, lw=4)
            time.plot(r.median, i + offset, "o", color=colour, ms=6)
            share, text = _memory(row, way)
            if share is not None:
                memory.barh(i + offset, share, height=0.3, color=colour)
            memory.text((share or 0) + 0.02, i + offset, text, va="center", fontsize=8)
    time.axvline(1, color="#555555", lw=0.8)
    memory.axvline(1, color="#555555", lw=0.8)
    time.set_yticks(range(len(rows)), [f"{row.name}\n{row.size}" for row in rows], fontsize=8)
    time.set_ylim(len(rows) - 0.4, -0.6)
    # an interval that is wider than the picture tells no more when it is seen whole
    widest = max(s.sure_high for row in rows for s in (*row.ratios.values(), row.control))
    time.set_xlim(0, min(2.5, max(1.5, 1.1 * widest)))
    time.set_xlabel(
        "time of value and gradient by hand / the other's\n"
        "dot: median, thick: its 95 % interval, thin: quartiles, grey: noise"
    )
    memory.set_xlabel("temporary memory, by hand / the other's")
    memory.set_xlim(0, 1.6)
    for axes in (time, memory):
        axes.spines[["top", "right"]].set_visible(False)
    handles = [
        time.plot([], [], "o-", color=colour, label=f"against {way}")[0]
        for way, colour in _COLOURS.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle(
        f"Gradients by hand on {machine['device']} ({machine['host']}), jax {machine['jax']}",
        fontsize=10,
    )
    figure.savefig(file)


def _memory(row: Measurement, way: str) -> tuple[float | None, str]:
    """The share to draw, and the text beside it."""
    ours, theirs = (row.contestants[c].memory.temp for c in (HAND, way))
    if ours is None or theirs is None:
        return None, "not told"
    if theirs == 0:
        return None, "none in either" if ours == 0 else f"{ours:,} bytes, the other none"
    share = ours / theirs
    # a bar that would leave the picture stops at its edge, and its figure says so
    return min(share, 1.3), f"{share:.2f}"
