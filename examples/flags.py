"""The kinds of flags that examples take, each with a one-line error."""

from __future__ import annotations

import argparse
import math
from typing import NoReturn

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
