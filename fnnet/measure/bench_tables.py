"""The benchmark's figures as tables for people."""

from __future__ import annotations

from collections.abc import Sequence

from fnnet.measure.epoch import WHOLE, EpochTimes
from fnnet.measure.gradient import AUTODIFF, CHECKPOINT, HAND, Measurement
from fnnet.measure.text import duration, in_bytes, table
from fnnet.measure.timing import Spread

_WAYS = (HAND, AUTODIFF, CHECKPOINT)


def tables(rows: Sequence[Measurement], epoch: EpochTimes | None) -> str:
    """All tables, one below the other, and how to read them."""
    parts = []
    if rows:
        parts += [times(rows), memory(rows), compiling(rows)]
        if any(row.eager for row in rows):
            parts.insert(2, eager(rows))
    if epoch is not None:
        parts.append(epochs(epoch))
    missing = {f"{peer} ({why})" for row in rows for peer, why in row.missing.items()}
    if epoch is not None:
        missing |= {f"{peer} ({why})" for peer, why in epoch.missing.items()}
    if missing:
        parts.append("not measured: " + "; ".join(sorted(missing)))
    return "\n\n".join(parts)


def ratio(s: Spread | None) -> str:
    """A median, its 95 % interval as ±, and the quartiles.

    Example:
        >>> ratio(Spread(0.98, 0.9, 1.05, 0.96, 1.0, 99))
        '0.98 ±0.02 [0.90 1.05]'
    """
    if s is None:
        return "-"
    sure = max(s.sure_high - s.median, s.median - s.sure_low)
    return f"{s.median:.2f} ±{sure:.2f} [{s.low:.2f} {s.high:.2f}]"


def times(rows: Sequence[Measurement]) -> str:
    """Time of value and gradient by hand, and as a multiple of the other ways'."""
    cells = []
    for row in rows:
        peers = [f"{p} {ratio(row.ratios[p])}" for p in row.peers]
        cells.append(
            [
                row.label,
                duration(row.contestants[HAND].seconds.median),
                ratio(row.ratios[AUTODIFF]),
                ratio(row.ratios[CHECKPOINT]),
                ratio(row.control),
                ", ".join(peers) or "-",
            ]
        )
    dtypes = ", ".join(sorted({a.split("[")[0] for row in rows for a in row.arrays}))
    head = [
        f"value and gradient, {dtypes}",
        "by hand",
        "/ autodiff",
        "/ checkpoint",
        "noise",
        "/ peer",
    ]
    return (
        table(head, cells, right=[1])
        + "\n\nA ratio is the time by hand over the other's, in the same round: the median, ± its"
        "\n95 % interval [quartiles]. Noise: autodiff's program to itself, compiled once more."
    )


def memory(rows: Sequence[Measurement]) -> str:
    """Scratch memory as compiled, and what is stored between the passes."""
    cells = []
    for row in rows:
        ways = [row.contestants[way] for way in _WAYS]
        cells.append(
            [row.label]
            + [in_bytes(c.memory.temp) for c in ways]
            + [in_bytes(c.stored) for c in ways]
        )
    head = ["memory", "temp: hand", *_WAYS[1:], "stored: hand", *_WAYS[1:]]
    notes = {c.memory.note for row in rows for c in row.contestants.values() if c.memory.note}
    return "\n".join([table(head, cells, right=range(1, len(head))), *sorted(notes)])


def eager(rows: Sequence[Measurement]) -> str:
    """A call outside of jit, beside the plain function jitted."""
    cells = [
        [
            row.label,
            duration(row.eager.seconds.median),
            duration(row.eager.plain_seconds.median),
            ratio(row.eager.ratio),
        ]
        for row in rows
        if row.eager
    ]
    return table(["called outside of jit", "op", "jit(plain)", "ratio"], cells, right=[1, 2])


def compiling(rows: Sequence[Measurement]) -> str:
    """How long tracing and compiling took, once."""
    cells = []
    for row in rows:
        ways = [row.contestants[way] for way in _WAYS]
        cells.append(
            [row.label]
            + [duration(c.trace_s) for c in ways]
            + [duration(c.compile_s) for c in ways]
        )
    head = ["once", "trace: hand", *_WAYS[1:], "compile: hand", *_WAYS[1:]]
    return table(head, cells, right=range(1, len(head)))


def epochs(times: EpochTimes) -> str:
    """An epoch in every form."""
    sizes = "-".join(map(str, times.sizes))
    head = [
        f"epoch: {times.images:,} images, batch {times.batch}, {sizes}, Adam by {times.optimizer}",
        "time",
        "first",
        f"{WHOLE} / this",
    ]
    cells = [
        [name, duration(f.seconds.median), duration(f.first_s), ratio(f.ratio)]
        for name, f in times.forms.items()
    ]
    return table(head, cells, right=[1, 2])
