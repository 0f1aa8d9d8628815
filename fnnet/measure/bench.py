"""`python -m fnnet bench`: what gradients by hand cost on this device, beside JAX's own.

For every row of `fnnet.measure.rows`: value and gradient by hand, by autodiff of the same forward,
by `jax.checkpoint` of it, and by others' functions where they are installed; time in turns, memory
as compiled, bytes stored for the backward pass, compile time apart. Then each op called outside of
`jit`, and an epoch of training compiled whole against Python loops of compiled steps.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from fnnet.measure.bench_plot import draw, plot_fault
from fnnet.measure.bench_tables import tables
from fnnet.measure.epoch import EpochTimes, time_epochs
from fnnet.measure.gradient import Measurement, measure
from fnnet.measure.machine import machine
from fnnet.measure.rows import ROWS

EPOCH = "epoch"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the tables, and write the figures and the chart if asked.

    Args:
        argv: the words after `python -m fnnet bench`; those of the process by default.

    Returns:
        0, or 2 after a one-line error.

    Raises:
        SystemExit: with code 2 if the words are not understood, with 0 after `--help`.
    """
    options = _parser().parse_args(argv)
    try:
        for file in (options.plot, options.json):
            if file is not None and not file.parent.is_dir():
                raise OSError(f"{file}: there is no directory {file.parent}")
        if options.plot is not None and (fault := plot_fault(options.plot)):
            raise ValueError(fault)
        results = run(options.op, quick=options.quick)
        if options.plot is not None:
            draw(results["rows"], results["machine"], options.plot)
        if options.json is not None:
            text = json.dumps(to_dict(results), indent=1)
            options.json.write_text(text + "\n", encoding="utf-8")
    except (OSError, ValueError) as error:
        print(f"fnnet bench: {error}", file=sys.stderr)
        return 2
    return 0


def run(names: Sequence[str] | None = None, *, quick: bool = False) -> dict[str, Any]:
    """Measure the rows and print what was found.

    Args:
        names: of the rows, and "epoch"; all by default.
        quick: whether to take one size a row, and less time for each.

    Returns:
        "machine" (a dict), "quick", "seconds" (all it took), "rows" (a list of Measurement), and
        "epoch" (an EpochTimes, or None).
    """
    start = time.perf_counter()
    about = machine()
    print("\n".join(f"{k:<9}{v}" for k, v in about.items()), end="\n\n", flush=True)
    rows: list[Measurement] = []
    for row in ROWS:
        if names and row.op not in names:
            continue
        for size in row.sizes[:1] if quick else row.sizes:
            _progress(f"{row.name} {size}")
            budget_s, least = (0.4, 9) if quick else (4.0, 31)
            rows.append(measure(row, size, budget_s=budget_s, least=least))
    epoch: EpochTimes | None = None
    if not names or EPOCH in names:
        _progress(EPOCH)
        # the epochs of other packages may take long
        epoch = time_epochs(budget_s=3.0 if quick else 20.0, peers=not quick)
    seconds = time.perf_counter() - start
    _progress("")
    print(tables(rows, epoch))
    print(f"\nmeasured in {seconds:.0f} s")
    return {"machine": about, "quick": quick, "seconds": seconds, "rows": rows, "epoch": epoch}


def to_dict(results: dict[str, Any]) -> dict[str, Any]:
    """The results of `run` as plain dicts, numbers and text, ready for JSON."""
    epoch = results["epoch"]
    return {
        **results,
        "jax": jax.__version__,
        "rows": [row.to_dict() for row in results["rows"]],
        "epoch": None if epoch is None else epoch.to_dict(),
    }


def _progress(text: str) -> None:
    """One line that is written over, where somebody looks at it."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fnnet bench",
        description="Time and memory of gradients by hand, beside JAX's own, on this device.",
    )
    parser.add_argument(
        "--op",
        action="append",
        choices=[*dict.fromkeys(row.op for row in ROWS), EPOCH],
        metavar="NAME",
        help="measure this alone; may be given several times: %(choices)s",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the ratios as a chart")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one size a row, less time, no epochs by others: under a minute",
    )
    return parser
