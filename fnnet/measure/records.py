"""Measurements as rows of a table, one number each: what `python -m fnnet bench --csv` writes.

Files of several machines, versions and days can be put under one another.
"""

from __future__ import annotations

import csv
import dataclasses
import datetime
import io
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from fnnet.measure.bench_target import Needs
from fnnet.measure.gradient import HAND, Measurement
from fnnet.measure.machine import machine
from fnnet.measure.timing import Spread


@dataclasses.dataclass(frozen=True)
class Record:
    """One number, and of what.

    Attributes:
        date: in UTC, as 2026-11-30.
        device: it was measured on, or compiled for.
        host: the machine in which the device is, or on which was compiled.
        python, jax, fnnet: the versions.
        row: of the benchmark, as "linear_cross_entropy, recomputed".
        size: in words.
        arrays: dtype and shape of each argument.
        way: "hand", "autodiff", "checkpoint" or a peer.
        quantity: "seconds", "hand / this", "scratch", "stored", "trace", "compile", "kernels",
            "exchanges", "exchanged", or "refused".
        value: the number; a median where there are several. None where it was refused.
        low, high: the quartiles; None where the number is exact.
        unit: "s", "bytes", or "" for counts and ratios.
        note: why it was refused.
    """

    date: str
    device: str
    host: str
    python: str
    jax: str
    fnnet: str
    row: str
    size: str
    arrays: str
    way: str
    quantity: str
    value: float | None
    low: float | None
    high: float | None
    unit: str
    note: str = ""


COLUMNS = tuple(field.name for field in dataclasses.fields(Record))
_Number = tuple[str, float | None, Spread | None, str]


def of_measurements(rows: Iterable[Measurement]) -> list[Record]:
    """What was measured here."""
    about = machine()
    where = {"device": about["device"], "host": about["host"]}
    found: list[Record] = []
    for row in rows:
        names = {"row": row.name, "size": row.size, "arrays": " ".join(row.arrays)}
        for way, made in row.contestants.items():
            numbers: list[_Number] = [
                ("seconds", None, made.seconds, "s"),
                ("scratch", made.memory.temp, None, "bytes"),
                ("stored", made.stored, None, "bytes"),
                ("trace", made.trace_s, None, "s"),
                ("compile", made.compile_s, None, "s"),
            ]
            if way != HAND:
                numbers.insert(1, ("hand / this", None, row.ratios[way], ""))
            found += _records(where | names | {"way": way}, numbers)
        for way, why in row.missing.items():
            found.append(_record(where | names | {"way": way}, "refused", None, None, "", why))
    return found


def of_needs(rows: Iterable[Needs], target: str) -> list[Record]:
    """What was compiled for hardware that is not here."""
    where = {"device": target, "host": machine()["host"]}
    found: list[Record] = []
    for row in rows:
        for way, made in row.ways.items():
            names = where | {"row": row.name, "size": row.size, "arrays": "", "way": way}
            if isinstance(made, str):
                found.append(_record(names, "refused", None, None, "", made))
                continue
            numbers: list[_Number] = [
                ("scratch", made.memory.scratch, None, "bytes"),
                ("kernels", made.kernels, None, ""),
                ("exchanges", sum(c.count for c in made.collectives), None, ""),
                ("exchanged", sum(c.bytes for c in made.collectives), None, "bytes"),
            ]
            found += _records(names, numbers)
    return found


def _records(names: Mapping[str, str], numbers: Iterable[_Number]) -> Iterator[Record]:
    for quantity, value, spread, unit in numbers:
        if value is not None or spread is not None:
            yield _record(names, quantity, value, spread, unit)


def _record(
    names: Mapping[str, Any],
    quantity: str,
    value: float | None,
    spread: Spread | None,
    unit: str,
    note: str = "",
) -> Record:
    return Record(
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        python=machine()["python"],
        jax=jax.__version__,
        fnnet=version("fnnet"),
        quantity=quantity,
        value=value if spread is None else spread.median,
        low=None if spread is None else spread.low,
        high=None if spread is None else spread.high,
        unit=unit,
        note=" ".join(note.split()),
        **names,
    )


def as_csv(records: Iterable[Record], *, head: bool = True) -> str:
    """The records as comma-separated lines; a missing number is an empty cell.

    Example:
        >>> as_csv([]).startswith("date,device,host,python,jax,fnnet,row,size,arrays,way,quantity")
        True
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if head:
        writer.writerow(COLUMNS)
    writer.writerows(dataclasses.astuple(record) for record in records)
    return text.getvalue()


def read(file: str | Path) -> list[Record]:
    """The records of a file.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it has other columns, naming them.
    """
    with Path(file).open(encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(
                f"{file} has the columns {', '.join(reader.fieldnames or ())}; "
                f"wanted {', '.join(COLUMNS)}"
            )
        return [_parsed(row) for row in reader]


def _parsed(row: Mapping[str, str]) -> Record:
    numbers = {name: float(row[name]) if row[name] else None for name in ("value", "low", "high")}
    return Record(**{**row, **numbers})  # type: ignore[arg-type]
