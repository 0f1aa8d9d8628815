"""`python -m fnnet bench`: what gradients by hand cost on this device, beside JAX's own.

For every row of `fnnet.measure.rows`: value and gradient by hand, by autodiff of the same forward,
by `jax.checkpoint` of it, and by others' functions where they are installed; time in turns, memory
as compiled, bytes stored for the backward pass, compile time apart. Then each op called outside of
`jit`, and an epoch of training compiled whole against Python loops of compiled steps.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any, TextIO

import jax

from fnnet._terminal import (
    STANDARD_OUTPUT,
    Parser,
    file_fault,
    for_people,
    lines,
    one_of,
    picture,
    plot_fault,
    write,
)
from fnnet.measure import bench_target
from fnnet.measure.bench_plot import draw
from fnnet.measure.bench_tables import further_tables, times_legend, times_row, times_table
from fnnet.measure.bench_target import BLOCK
from fnnet.measure.chips import target_of
from fnnet.measure.epoch import EpochTimes, time_epochs
from fnnet.measure.fits import bytes_in
from fnnet.measure.gradient import Measurement, measure
from fnnet.measure.machine import machine
from fnnet.measure.records import as_csv, of_measurements, of_needs
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
    parser = _parser()
    options = parser.parse_args(argv)
    files = (options.plot, options.json, options.csv)
    if files.count(STANDARD_OUTPUT) > 1:
        parser.error("of --json, --csv and --plot one alone may be -: standard output is one file")
    if options.plot is not None and set(options.op or ()) == {EPOCH}:
        parser.error("--plot draws gradients, and none is measured: name an op beside epoch")
    if options.target is None and (options.fits is not None or set(options.op or ()) & {BLOCK}):
        parser.error("--fits and --op block are about chips that are not there: name a --target")
    if options.target is not None and (options.plot or EPOCH in (options.op or ())):
        parser.error("--target tells no time, so there is nothing to --plot and no epoch")
    try:
        if options.target is not None:
            target_of(options.target)
        if options.fits is not None:
            bytes_in(options.fits)
        for file in files:
            if file is not None and (fault := file_fault(file)):
                raise OSError(fault)
        if options.plot is not None and (fault := plot_fault(options.plot)):
            raise ValueError(fault)
        human = for_people(*files)
        if options.target is not None:
            results = bench_target.run(
                options.op, options.target, quick=options.quick, fits=options.fits, human=human
            )
            if options.json is not None:
                write(options.json, json.dumps(bench_target.to_dict(results), indent=1))
            if options.csv is not None:
                needs = [*results["rows"], *([results["block"]] if results["block"] else [])]
                write(options.csv, as_csv(of_needs(needs, results["target"])))
            return 0
        results = run(options.op, quick=options.quick, human=human)
        if options.plot is not None:
            with picture(options.plot) as file:
                draw(results["rows"], results["machine"], file)
        if options.json is not None:
            write(options.json, json.dumps(to_dict(results), indent=1))
        if options.csv is not None:
            write(options.csv, as_csv(of_measurements(results["rows"])))
    except BrokenPipeError:
        raise
    except (OSError, ValueError, ModuleNotFoundError, RuntimeError) as error:
        print(f"fnnet bench: {error}", file=sys.stderr)
        return 2
    return 0


def run(
    names: Sequence[str] | None = None, *, quick: bool = False, human: TextIO | None = None
) -> dict[str, Any]:
    """Measure the rows and print what was found: times as they come, the other tables at the end.

    Args:
        names: of the rows, and "epoch"; all by default.
        quick: whether to take one size a row, and less time for each.
        human: where to print; standard output by default.

    Returns:
        "machine" (a dict), "quick", "seconds" (all it took), "rows" (a list of Measurement), and
        "epoch" (an EpochTimes, or None).
    """
    start = time.perf_counter()
    out = sys.stdout if human is None else human
    about = machine()
    for name, words in about.items():
        print(*lines(f"{name:<9}{words}"), sep="\n", file=out)
    print(file=out, flush=True)
    chosen = [
        (row, size)
        for row in ROWS
        if not names or row.op in names
        for size in (row.sizes[:1] if quick else row.sizes)
    ]
    rows: list[Measurement] = []
    table = times_table([f"{row.name} {row.words(size)}" for row, size in chosen])
    if chosen:
        print(table.head, file=out, flush=True)
    for i, (row, size) in enumerate(chosen, 1):
        _progress(f"{i} of {len(chosen)}: {row.name} {row.words(size)}")
        budget_s, least = (0.4, 9) if quick else (4.0, 31)
        rows.append(measure(row, size, budget_s=budget_s, least=least))
        _progress("")
        print(times_row(table, rows[-1]), file=out, flush=True)
    if chosen:
        print(times_legend(rows), end="\n\n", file=out, flush=True)
    epoch: EpochTimes | None = None
    if not names or EPOCH in names:
        _progress(EPOCH)
        # the epochs of other packages may take long
        epoch = time_epochs(budget_s=3.0 if quick else 20.0, peers=not quick)
        _progress("")
    print(further_tables(rows, epoch), file=out)
    seconds = time.perf_counter() - start
    print(f"\nmeasured in {seconds:.0f} s", file=out, flush=True)
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


def _parser() -> Parser:
    names = [*dict.fromkeys(row.op for row in ROWS), EPOCH, BLOCK]
    parser = Parser(
        "bench", "Time and memory of gradients by hand, beside JAX's own, on this device.", names
    )
    parser.add_argument(
        "--op",
        action="append",
        type=one_of("op", names),
        metavar="NAME",
        help="measure this alone; may be given several times",
    )
    parser.add_argument(
        "--json", metavar="FILE", help="write all figures as JSON; for - to standard output"
    )
    parser.add_argument(
        "--csv",
        metavar="FILE",
        help="write a line for each number, with device, versions and date; for - to standard "
        "output",
    )
    parser.add_argument(
        "--plot", metavar="FILE", help="draw the ratios as a chart; for - a PNG to standard output"
    )
    parser.add_argument(
        "--target",
        metavar="CHIPS",
        help="compile for chips that need not be there, as 'tpu v5e:2x2' or h100:8, and tell "
        "memory and exchanges instead of time; with a transformer block's step over all of them",
    )
    parser.add_argument(
        "--fits",
        metavar="MEMORY",
        help="with --target: the largest batch of that step in so much memory a chip, as 16GB",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one size a row, less time, no epochs by others: about 3 minutes on two CPU cores",
    )
    return parser
