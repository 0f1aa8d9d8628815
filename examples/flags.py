"""The kinds of flags that examples take, each with a one-line error."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from placement import mesh_sizes
from training import PRECISIONS

from fnnet import init

INITIALISERS = (
    "kaiming_normal",
    "kaiming_uniform",
    "xavier_normal",
    "xavier_uniform",
    "lecun_normal",
    "zeros",
    "normal:STD",
)


class Parser(argparse.ArgumentParser):
    """One line for a mistake, as for every other error here."""

    def error(self, message: str) -> NoReturn:
        """End the program."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def make_parser(name: str, text: str) -> Parser:
    """A parser for the script `name`; in its docstring `text` the exit codes come after flags."""
    description, _, rest = text.partition("Exit code")
    return Parser(
        prog=name,
        description=description,
        epilog=f"Exit code{rest}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_run(parser: Parser, group: Any, *, workdir: str, unit: str, every: int) -> None:
    """The flags that every training script has.

    Args:
        parser: gets further groups.
        group: gets the folder and the checkpoints.
        workdir: where the results go, unless given.
        unit: what `--save-every` counts.
        every: its default.
    """
    group.add_argument(
        "--workdir",
        type=Path,
        default=Path(workdir),
        metavar="DIR",
        help="where the results go; made if need be; those of a run that has ended are "
        f"overwritten (default: {workdir})",
    )
    group.add_argument(
        "--resume",
        action="store_true",
        help="go on from the newest usable checkpoint in --workdir, with the same flags; on a CPU "
        "the result is the uninterrupted run's, bit for bit",
    )
    group.add_argument(
        "--save-every",
        type=partial(whole, least=1),
        default=every,
        metavar="N",
        help=f"{unit} from one checkpoint to the next; the last is always saved (default: {every})",
    )
    group.add_argument(
        "--keep",
        type=partial(whole, least=1),
        default=3,
        metavar="N",
        help="checkpoints kept, the newest ones (default: 3)",
    )
    group = parser.add_argument_group("devices")
    group.add_argument(
        "--precision",
        choices=tuple(PRECISIONS),
        default="float32",
        help="of the forward and backward passes; parameters, optimiser and tests are float32 "
        "(default: float32)",
    )
    group.add_argument(
        "--mesh",
        type=mesh_sizes,
        metavar="SIZES",
        help="shard over all devices, such as data=4,model=2: each mini-batch over data, each "
        "weight's last axis over model where that divides it (default: one device)",
    )
    group.add_argument(
        "--distributed",
        action="store_true",
        help="one of several processes, each started with the same other flags; without the three "
        "flags below JAX asks Slurm, MPI, Kubernetes or the TPU who they are",
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens")
    group.add_argument(
        "--num-processes", type=partial(whole, least=1), metavar="N", help="of them all"
    )
    group.add_argument(
        "--process-id", type=partial(whole, least=0), metavar="I", help="of this one, from 0"
    )


def parse(parser: Parser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags, those of `add_run` looked at together; a wrong one ends the program."""
    args = parser.parse_args(argv)
    three = {
        f"--{name.replace('_', '-')}": getattr(args, name)
        for name in ("coordinator", "num_processes", "process_id")
    }
    given = [flag for flag, value in three.items() if value is not None]
    if given and not args.distributed:
        parser.error(f"{given[0]} goes with --distributed")
    if given and len(given) < 3:
        missing = " and ".join(flag for flag in three if flag not in given)
        parser.error(f"{' and '.join(given)} also needs {missing}")
    if given and args.process_id >= args.num_processes:
        parser.error(f"--process-id {args.process_id}: want 0 to {args.num_processes - 1}")
    return args


def whole(text: str, *, least: int, most: int | None = None) -> int:
    """A whole number from `least` to `most`, for argparse."""
    try:
        n = int(text)
    except ValueError:
        n = None
    if n is None or n < least or (most is not None and n > most):
        wanted = f"{least} or more" if most is None else f"from {least} to {most}"
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, {wanted}")
    return n


def positive(text: str) -> float:
    """A finite number above 0, for argparse."""
    x = _number(text)
    if not 0 < x < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return x


def fraction(text: str) -> float:
    """A share from 0 to 1, for argparse."""
    x = _number(text)
    if not 0 <= x <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to 1, such as 0.93")
    return x


def initialiser(text: str) -> str:
    """The name of an initialiser, for argparse."""
    kind, colon, std = text.partition(":")
    known = text in INITIALISERS[:-1] or (kind == "normal" and colon)
    if not known:
        raise argparse.ArgumentTypeError(f"{text!r} is unknown; want {', '.join(INITIALISERS)}")
    if colon and not 0 <= _number(std) < math.inf:
        raise argparse.ArgumentTypeError(
            f"{text!r}: want a standard deviation after the colon, as in normal:0.01"
        )
    return text


def make_initialiser(name: str) -> init.Initializer:
    """The initialiser of a name that `initialiser` has let through."""
    kind, _, std = name.partition(":")
    return init.normal(float(std)) if kind == "normal" else getattr(init, kind)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
