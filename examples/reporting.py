"""What a training run says while it goes, and what it leaves for programs to read."""

from __future__ import annotations

import json
import platform
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self, TypeAlias

import jax
from outcomes import UserError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PACKAGES = ("fnnet", "jax", "jaxlib", "numpy", "optax")


@dataclass(frozen=True)
class EpochResult:
    """How one epoch went.

    Attributes:
        epoch: counted from 1.
        step: iterations done at its end, since the start.
        train_loss: mean over its mini-batches, each before its own update.
        test_loss: over the whole test set, at its end.
        test_accuracy: share of the test set classified rightly, at its end.
        seconds: what it took, testing included; the first one compiles as well.
    """

    epoch: int
    step: int
    train_loss: float
    test_loss: float
    test_accuracy: float
    seconds: float = 0.0
    held_out_name: ClassVar[str] = "test loss"

    @property
    def held_out(self) -> float:
        """The loss of data that it was not trained on."""
        return self.test_loss

    def __str__(self) -> str:
        return (
            f"epoch {self.epoch:3d}  step {self.step:6d}  train loss {self.train_loss:.4f}  "
            f"test {self.test_loss:.4f}  accuracy {self.test_accuracy:.2%}  {self.seconds:.2f} s"
        )

    @property
    def short(self) -> str:
        """For beside the progress bar."""
        return f"loss {self.train_loss:.4f}   accuracy {self.test_accuracy:.1%}"


@dataclass(frozen=True)
class TextResult:
    """How some steps of a model of text went.

    Attributes:
        step: iterations done, since the start.
        train_bits: bits per character, mean over these steps' mini-batches.
        valid_bits: bits per character of the validation text, at their end.
        seconds: what they took, validation included; the first ones compile as well.
    """

    step: int
    train_bits: float
    valid_bits: float
    seconds: float = 0.0
    held_out_name: ClassVar[str] = "validation loss"

    @property
    def held_out(self) -> float:
        """The loss of data that it was not trained on."""
        return self.valid_bits

    def __str__(self) -> str:
        return (
            f"step {self.step:6d}   training {self.train_bits:.3f} bits per character   "
            f"validation {self.valid_bits:.3f}   {self.seconds:6.2f} s"
        )

    @property
    def short(self) -> str:
        """For beside the progress bar."""
        return f"validation {self.valid_bits:.3f} bits"


Result: TypeAlias = EpochResult | TextResult


def versions() -> dict[str, str]:
    """Those of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a source folder
            found[package] = "not installed"
    return found


def environment() -> dict[str, Any]:
    """Versions, backend, devices and the precision of matrix products.

    Raises:
        UserError: JAX finds no device, as where JAX_PLATFORMS names what is not here.
    """
    try:
        backend = jax.default_backend()
    except RuntimeError as e:
        raise UserError(f"JAX finds no device: {str(e).splitlines()[0]}") from None
    devices = [d.device_kind for d in jax.devices()]
    return {
        "versions": versions(),
        "backend": backend,
        "devices": [f"{devices.count(kind)} x {kind}" for kind in dict.fromkeys(devices)],
        "matmul_precision": jax.config.jax_default_matmul_precision or "default",
    }


def environment_text(environment: dict[str, Any]) -> str:
    """`environment` as lines for people."""
    versions = ", ".join(f"{name} {v}" for name, v in environment["versions"].items())
    return fields(
        {
            "versions": versions,
            "backend": f"{environment['backend']}: {', '.join(environment['devices'])}",
            "matmul precision": environment["matmul_precision"],
        }
    )


def fields(named: Mapping[str, object]) -> str:
    """Names and what is to say of each, as lines of 80 columns.

    Example:
        >>> print(fields({"net": "784-256-10", "run": "15 epochs"}))
        net               784-256-10
        run               15 epochs
    """
    return "\n".join(
        textwrap.fill(
            f"{name:<18}{text}",
            80,
            subsequent_indent=" " * 18,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for name, text in named.items()
    )


class Metrics:
    """A file of one JSON object a line: first a header, then one line for each epoch.

    A line is on disk as soon as it is written, so that a run that is killed leaves what it did.
    """

    def __init__(self, path: Path, header: dict[str, Any], results: Sequence[Result] = ()) -> None:
        """Start the file anew, with `header` as its first line and those of earlier `results`.

        Raises:
            OSError: the file cannot be written.
        """
        self.path = path
        self._file = path.open("w", encoding="utf-8")
        self._write({"kind": "header", **header})
        for result in results:
            self.add(result)

    def add(self, result: Result) -> None:
        """Write one result."""
        kind = "epoch" if isinstance(result, EpochResult) else "report"
        self._write({"kind": kind, **asdict(result)})

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class Live:
    """A line for each result and, on a terminal, a progress bar below them."""

    def __init__(
        self, total: int, console: Console | None = None, *, unit: str = "epoch", done: int = 0
    ) -> None:
        """Begin, or go on where `done` are done; `console` is standard output unless given."""
        self._console = console or Console(file=sys.stdout)
        self._bar = Progress(
            TextColumn(unit),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal or self._console.is_dumb_terminal,
        )
        self._task = self._bar.add_task("", total=total, completed=done, text="compiling")
        self._since = time.perf_counter()

    def add(self, result: Result) -> None:
        """Show one result."""
        self._console.print(str(result), soft_wrap=True, highlight=False, markup=False)
        self._bar.update(self._task, advance=1, text=result.short)

    def lap(self) -> float:
        """Seconds since the last lap, or since the beginning."""
        before, self._since = self._since, time.perf_counter()
        return self._since - before

    def __enter__(self) -> Self:
        self._bar.start()
        self._since = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
