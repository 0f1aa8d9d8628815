"""The matmul ladder: the product written five ways, and `python -m fnnet ladder`, which times them.

    python -m fnnet ladder                      5x784 @ 784x10 and 1024x1024 @ 1024x1024
    python -m fnnet ladder --shape 64 784 10    one size of your own
    python -m fnnet ladder --size 512 --plot ladder.png --json ladder.json

The rungs are written in `fnnet.net.rungs`, timed in `fnnet.net.ladder_table` and drawn in
`fnnet.net.ladder_plot`; this module gathers what is public in them.
"""

import argparse
import json
import sys
from collections.abc import Sequence

import jax
import numpy as np

from fnnet._terminal import (
    STANDARD_OUTPUT,
    Parser,
    file_fault,
    for_people,
    picture,
    plot_fault,
    write,
)
from fnnet.net.ladder_plot import draw
from fnnet.net.ladder_table import LadderRow as LadderRow
from fnnet.net.ladder_table import LadderTable as LadderTable
from fnnet.net.ladder_table import time_ladder as time_ladder
from fnnet.net.rungs import RUNGS as RUNGS
from fnnet.net.rungs import Rung as Rung
from fnnet.net.rungs import matmul_broadcast as matmul_broadcast
from fnnet.net.rungs import matmul_einsum as matmul_einsum
from fnnet.net.rungs import matmul_loops as matmul_loops
from fnnet.net.rungs import matmul_operator as matmul_operator
from fnnet.net.rungs import matmul_rowcol as matmul_rowcol

_DEFAULT_SHAPES = [[5, 784, 10], [1024, 1024, 1024]]


def main(argv: Sequence[str] | None = None) -> int:
    """Time the ladder, print the tables, and write the chart and the figures if asked.

    Args:
        argv: the words after `python -m fnnet ladder`; those of the process by default.

    Returns:
        0, or 2 after a one-line error.

    Raises:
        SystemExit: with code 2 if the words are not understood, with 0 after `--help`.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    files = (options.plot, options.json)
    if files == (STANDARD_OUTPUT, STANDARD_OUTPUT):
        parser.error("--json - and --plot -: standard output is one file")
    shapes = _DEFAULT_SHAPES
    if options.shape is not None:
        shapes = [options.shape]
    elif options.size is not None:
        shapes = [[options.size] * 3]

    jax.devices()  # where there is none this says so, and a random key does not
    human = for_people(*files)
    try:
        for file in files:
            if file is not None and (fault := file_fault(file)):
                raise OSError(fault)
        if options.plot is not None and (fault := plot_fault(options.plot)):
            raise ValueError(fault)
        tables = []
        for m, k, n in shapes:
            key_a, key_b = jax.random.split(jax.random.key(0))
            a = jax.random.normal(key_a, (m, k), np.float32)
            b = jax.random.normal(key_b, (k, n), np.float32)
            table = time_ladder(a, b, budget_s=options.budget)
            print(table, end="\n\n", file=human, flush=True)
            tables.append(table)
        if options.plot is not None:
            with picture(options.plot) as file:
                draw(tables, file)
        if options.json is not None:
            figures = {"jax": jax.__version__, "tables": [table.to_dict() for table in tables]}
            write(options.json, json.dumps(figures, indent=1))
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        print(f"fnnet ladder: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> Parser:
    parser = Parser("ladder", "Time the matrix product written five ways, beside NumPy's @.")
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--shape", nargs=3, type=_positive, metavar=("M", "K", "N"), help="time (M, K) @ (K, N)"
    )
    size.add_argument("--size", type=_positive, metavar="N", help="time (N, N) @ (N, N)")
    parser.add_argument(
        "--plot",
        metavar="FILE",
        help="draw the times as a bar chart; for - a PNG to standard output",
    )
    parser.add_argument(
        "--json", metavar="FILE", help="write the figures as JSON; for - to standard output"
    )
    parser.add_argument(
        "--budget",
        type=float,
        default=0.5,
        metavar="SECONDS",
        help="about how long to time one rung in one form (default: %(default)s)",
    )
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number
