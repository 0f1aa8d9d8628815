"""What a check is doing, on a terminal, once it has taken longer than a moment."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

PATIENCE = 2.0  # seconds without a word
EVERY = 0.5


class Progress:
    """One line of standard error, written anew; nothing where that is no terminal.

    Args:
        name: of the function that is checked.
        file: where it is written.
    """

    def __init__(self, name: str, file: TextIO) -> None:
        self._name, self._file = name, file
        self._start = time.monotonic()
        self._what = ""
        self._written = 0
        self._over = threading.Event()

    def asks(self, question: str, number: int, of: int) -> None:
        """Say what is asked now."""
        self._what = f"{question} ({number} of {of})"

    def watch(self) -> None:
        """Write the line every now and then, until it is over."""
        while not self._over.wait(EVERY):
            seconds = time.monotonic() - self._start
            if seconds > PATIENCE:
                self._write(f"fnnet check: {self._name}: {self._what}, {seconds:.0f} s")
        if self._written:
            self._write("")

    def end(self) -> None:
        """No more; `watch` wipes its line away."""
        self._over.set()

    def _write(self, text: str) -> None:
        text = text[:79]  # a longer one would go on in the next line, and stay
        blank = " " * (self._written - len(text))
        self._file.write(f"\r{text}{blank}" + ("" if text else "\r"))
        self._file.flush()
        self._written = len(text)


@contextmanager
def progress(name: str) -> Iterator[Progress]:
    """The progress of one check, told on standard error if that is a terminal."""
    told = Progress(name, sys.stderr)
    if not _for_people(sys.stderr):
        yield told
        return
    writer = threading.Thread(target=told.watch, daemon=True)
    writer.start()
    try:
        yield told
    finally:
        told.end()
        writer.join()


def _for_people(file: TextIO | None) -> bool:
    try:
        return file is not None and file.isatty()
    except ValueError:  # it is closed
        return False
