"""The benchmark's figures as tables for people."""

from __future__ import annotations

from collections.abc import Sequence

from fnnet._terminal import Columns, columns, lines
from fnnet.measure.epoch import WHOLE, EpochTimes
from fnnet.measure.gradient import AUTODIFF, CHECKPOINT, HAND, Measurement
from fnnet.measure.text import duration, in_bytes
from fnnet.measure.timing import Spread

_WAYS = (HAND, AUTODIFF, CHECKPOINT)


def tables(rows: Sequence[Measurement], epoch: EpochTimes | None) -> str:
    """All tables, one below the other, and how to read them."""
    return (
        f"{times(rows)}\n\n{further_tables(rows, epoch)}" if rows else further_tables(rows, epoch)
    )


def further_tables(rows: Sequence[Measurement], epoch: EpochTimes | None) -> str:
    """All but the times."""
    parts = []
    if rows:
        parts += [memory(rows), compiling(rows)]
        if any(row.eager for row in rows):
            parts.insert(1, eager(rows))
    if epoch is not None:
        parts.append(epochs(epoch))
    missing = {f"{peer} ({why})" for row in rows for peer, why in row.missing.items()}
    if epoch is not None:
        missing |= {f"{peer} ({why})" for peer, why in epoch.missing.items()}
    parts += ["\n".join(lines(f"missing: {one}")) for one in sorted(missing)]
    return "\n\n".join(parts)


def ratio(s: Spread | None, quartiles: bool = True) -> str:
    """A median, its 95 % interval as ±, and the quartiles.

    Example:
        >>> ratio(Spread(0.98, 0.9, 1.05, 0.96, 1.0, 99))
        '0.98 ±0.02 [0.90 1.05]'
        >>> ratio(Spread(0.98, 0.9, 1.05, 0.96, 1.0, 99), quartiles=False)
        '0.98 ±0.02'
    """
    if s is None:
        return "-"
    sure = max(s.sure_high - s.median, s.median - s.sure_low)
    return f"{s.median:.2f} ±{sure:.2f}" + f" [{s.low:.2f} {s.high:.2f}]" * quartiles


def _quartiles() -> bool:
    """Whether there is room for them."""
    return columns() >= 110


def times_table(labels: Sequence[str]) -> Columns:
    """The table of times, for rows of these labels."""
    head = ["value and gradient", "by hand", "/ autodiff", "/ checkpoint", "noise"]
    wide = 23 if _quartiles() else 12
    return Columns(head, [max(map(len, labels), default=0), 8, wide, wide, wide], right=[1])


def times_row(table: Columns, row: Measurement) -> str:
    """The time of value and gradient by hand, and as a multiple of the other ways'."""
    every = _quartiles()
    figures = [ratio(row.ratios.get(way), every) for way in (AUTODIFF, CHECKPOINT)]
    hand = duration(row.contestants[HAND].seconds.median)
    text = table.row([row.label, hand, *figures, ratio(row.control, every)])
    return "\n".join([text, *(f"    / {p}: {ratio(row.ratios[p], every)}" for p in row.peers)])


def times_legend(rows: Sequence[Measurement]) -> str:
    """How to read the table of times."""
    dtypes = ", ".join(sorted({a.split("[")[0] for row in rows for a in row.arrays}))
    quartiles = " [quartiles]" * _quartiles()
    return (
        f"\nOf {dtypes}. A ratio is the time by hand over the other's, in the same\n"
        f"round: the median, ± its 95 % interval{quartiles}. Noise: autodiff's program to\n"
        "itself, compiled once more. Value and tangent: of jax.jvp."
    )


def times(rows: Sequence[Measurement]) -> str:
    """The table of times and how to read it."""
    table = times_table([row.label for row in rows])
    return "\n".join([table.head, *(times_row(table, row) for row in rows), times_legend(rows)])


def memory(rows: Sequence[Measurement]) -> str:
    """Scratch memory as compiled, and what is stored between the passes."""
    cells = []
    for row in rows:
        ways = [row.contestants.get(way) for way in _WAYS]
        cells.append(
            [row.label]
            + [in_bytes(c.memory.temp) if c else "-" for c in ways]
            + [in_bytes(c.stored) if c else "-" for c in ways]
        )
    head = ["memory", "temp: hand", *_WAYS[1:], "stored: hand", *_WAYS[1:]]
    notes = {c.memory.note for row in rows for c in row.contestants.values() if c.memory.note}
    notes = {line for note in notes for line in lines(note)}
    return "\n".join([_table(head, cells, right=range(1, len(head))), *sorted(notes)])


def eager(rows: Sequence[Measurement]) -> str:
    """A call outside of jit, beside the plain function jitted."""
    cells = [
        [
            row.label,
            duration(row.eager.seconds.median),
            duration(row.eager.plain_seconds.median),
            ratio(row.eager.ratio, _quartiles()),
        ]
        for row in rows
        if row.eager
    ]
    return _table(["called outside of jit", "op", "jit(plain)", "ratio"], cells, right=[1, 2])


def compiling(rows: Sequence[Measurement]) -> str:
    """How long tracing and compiling took, once."""
    cells = []
    for row in rows:
        ways = [row.contestants.get(way) for way in _WAYS]
        cells.append(
            [row.label]
            + [duration(c.trace_s) if c else "-" for c in ways]
            + [duration(c.compile_s) if c else "-" for c in ways]
        )
    head = ["once", "trace: hand", *_WAYS[1:], "compile: hand", *_WAYS[1:]]
    return _table(head, cells, right=range(1, len(head)))


def epochs(times: EpochTimes) -> str:
    """An epoch in every form."""
    sizes = "-".join(map(str, times.sizes))
    title = (
        f"epoch: {times.images:,} images, batch {times.batch}, {sizes}, Adam by {times.optimizer}"
    )
    cells = [
        [name, duration(f.seconds.median), duration(f.first_s), ratio(f.ratio, _quartiles())]
        for name, f in times.forms.items()
    ]
    head = ["", "time", "first", f"{WHOLE} / this"]
    return "\n".join([*lines(title), _table(head, cells, right=[1, 2])])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int]) -> str:
    """As wide as its cells, and stacked where that is too wide."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    table = Columns(head, widths, right=right)
    return "\n".join([table.head, *map(table.row, rows)])
