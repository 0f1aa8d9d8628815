"""What every command of `python -m fnnet` does alike: words, names, files, columns, and its end.

It stands on Python alone, below everything else here, so that each wing's command may use it.
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import difflib
import os
import shutil
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

STANDARD_OUTPUT = "-"
NARROW = 80  # columns, where nobody says how many there are
INTERRUPTED = 128 + signal.SIGINT
BROKEN_PIPE = 128 + 13  # as a program that SIGPIPE ends

_IN_ASCII = {"×": "x", "µ": "u", "±": "+-", "≈": "~", "−": "-"}


class Parser(argparse.ArgumentParser):
    """A parser whose every complaint begins with the command's name and says what is wrong alone.

    Args:
        command: its name, without ``python -m fnnet``.
        description: what it does.
        names: what ``--op`` may be, listed by ``--help``.
    """

    def __init__(self, command: str, description: str, names: Sequence[str] = ()) -> None:
        listed = "NAME is one of: " + ", ".join(names) if names else None
        super().__init__(
            prog=f"python -m fnnet {command}",
            description=description,
            epilog=listed,
            allow_abbrev=False,
        )
        self.command = command

    def error(self, message: str) -> NoReturn:
        """End the program with code 2."""
        self.exit(2, f"fnnet {self.command}: {message.removeprefix('argument ')}\n")


def one_of(what: str, names: Sequence[str]) -> Callable[[str], str]:
    """For `type=` of an argument: the text itself, if it is one of `names`.

    Example:
        >>> one_of("op", ["lin", "relu"])("lim")
        Traceback (most recent call last):
        argparse.ArgumentTypeError: there is no op 'lim'; did you mean lin?
          There are: lin, relu
    """

    def checked(text: str) -> str:
        if text in names:
            return text
        near = difflib.get_close_matches(text.lower(), names, n=1, cutoff=0.5)
        meant = f"; did you mean {near[0]}?" if near else ""
        known = folded(f"There are: {', '.join(names)}")
        raise argparse.ArgumentTypeError(f"there is no {what} {text!r}{meant}\n{known}")

    return checked


def lines(text: str) -> list[str]:
    """A text as lines no wider than the terminal, those after the first indented by nine."""
    return textwrap.wrap(
        text, max(40, columns()), subsequent_indent=" " * 9, break_long_words=False
    )


def folded(text: str, indent: str = "  ") -> str:
    """A long text as lines, none wider than the terminal, broken between words alone."""
    return textwrap.fill(
        text,
        min(columns(), 100),
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def columns() -> int:
    """How many columns there are: what COLUMNS says, else the terminal, else 80."""
    return shutil.get_terminal_size((NARROW, 24)).columns


def file_fault(file: str | Path) -> str:
    """Why nothing can be written to this file, in one line, or nothing: to be asked before work.

    Example:
        >>> file_fault("nowhere/figures.json")
        'nowhere/figures.json: there is no directory nowhere'
        >>> file_fault("-")
        ''
    """
    if str(file) == STANDARD_OUTPUT:
        return ""
    # os.path answers where pathlib raises: for names too long, folders not to be entered
    folder = os.path.dirname(file) or os.curdir
    if not os.path.isdir(folder):
        return f"{file}: there is no directory {folder}"
    if os.path.isdir(file) or not str(file):
        return f"{file}: this is a directory" if str(file) else "the file's name is empty"
    if os.path.exists(file):
        return "" if os.access(file, os.W_OK) else f"{file}: it cannot be written over"
    return "" if os.access(folder, os.W_OK | os.X_OK) else f"{folder}: it cannot be written to"


def plot_fault(file: str | Path) -> str:
    """Why matplotlib could not draw this file, in one line, or nothing: to be asked before work.

    Example:
        >>> plot_fault("bench.bmp")[:36]
        'bench.bmp: the name must end in one '
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError as error:
        return f"--plot needs matplotlib ({error}): pip install matplotlib"
    known = FigureCanvasAgg.get_supported_filetypes()
    if str(file) == STANDARD_OUTPUT or Path(file).suffix.lstrip(".").lower() in known:
        return ""
    return f"{file}: the name must end in one of {', '.join(sorted(known))}"


@contextlib.contextmanager
def picture(file: str | Path) -> Iterator[Any]:
    """What `savefig` takes: the name, or for "-" the bytes of standard output."""
    if str(file) != STANDARD_OUTPUT:
        yield file
        return
    yield sys.stdout.buffer
    sys.stdout.buffer.flush()


def for_people(*files: str | Path | None) -> TextIO:
    """Where tables go: standard error if a file of figures is standard output."""
    return sys.stderr if STANDARD_OUTPUT in map(str, files) else sys.stdout


def write(file: str | Path, text: str) -> None:
    """Write a file, or standard output for "-".

    Raises:
        OSError: it cannot be written.
    """
    if str(file) == STANDARD_OUTPUT:
        print(text, flush=True)
    else:
        Path(file).write_text(text + "\n", encoding="utf-8")


class Columns:
    r"""A table printed row by row, in columns whose widths are known before the first row.

    Where the columns are too wide for the terminal, the first has a line of its own.

    Args:
        head: the columns' names.
        widths: of the columns at least; a name may be wider.
        right: those flush right, counted from 0.
        room: for a line; that of the terminal by default.

    Example:
        >>> table = Columns(["name", "n"], [6, 3], right=[1], room=80)
        >>> print(table.head, table.row(["a", "10"]), sep="\n")
        name      n
        a        10
        >>> table = Columns(["name", "n"], [6, 3], right=[1], room=10)
        >>> print(table.head, table.row(["a", "10"]), sep="\n")
        name
              n
        a
             10
    """

    def __init__(
        self,
        head: Sequence[str],
        widths: Sequence[int],
        *,
        right: Sequence[int] = (),
        room: int | None = None,
    ) -> None:
        self._widths = [max(len(h), w) for h, w in zip(head, widths, strict=True)]
        self._right = right
        room = columns() if room is None else room
        self.stacked = sum(self._widths) + 2 * len(head) - 2 > room
        self.head = self.row(head)

    def row(self, cells: Sequence[str]) -> str:
        """One row, of one line or of two."""
        placed = [
            cell.rjust(width) if i in self._right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(cells, self._widths, strict=True))
        ]
        if self.stacked:
            return f"{cells[0]}\n    {'  '.join(placed[1:])}".rstrip()
        return "  ".join(placed).rstrip()


def starting(words: Sequence[str]) -> None:
    """One line for Ctrl-C while `python -m fnnet` imports JAX; `run` takes over from there.

    Args:
        words: of the whole command line.
    """
    module = list(words[words.index("-m") + 1 :][:1]) if "-m" in words else []
    if module == ["fnnet"] and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _end)


def _end(signum: int, _: Any) -> None:
    os.write(2, b"\nfnnet: interrupted\n")
    os._exit(128 + signum)


def run(command: str, main: Callable[[], int]) -> int:
    """What `main` returns; if it is interrupted, or nobody reads on, an end without a traceback.

    Args:
        command: as it is called in messages.
        main: all that it does.

    Returns:
        main's exit code; 130 after Ctrl-C, with one line; 141 after a broken pipe; 2 after an
        error of reading or writing, with one line.
    """
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with _survivable(sys.stdout), _survivable(sys.stderr):
        try:
            code = main()
            sys.stdout.flush()
        except KeyboardInterrupt:
            print(f"\n{command}: interrupted", file=sys.stderr)
            return INTERRUPTED
        except BrokenPipeError:
            _nowhere()
            return BROKEN_PIPE
        except OSError as error:
            with contextlib.suppress(OSError):
                sys.stdout.flush()
            _nowhere()
            print(f"{command}: {error}", file=sys.stderr)
            return 2
        return code


def _nowhere() -> None:
    """What is left in the buffer of standard output goes nowhere, at the exit."""
    with contextlib.suppress(OSError, ValueError):  # a stream that is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _survivable(stream: Any) -> Iterator[None]:
    """Let a stream that is not of Unicode print what it can of every text."""
    encoding = str(getattr(stream, "encoding", None) or "utf-8").lower()
    if encoding.replace("-", "") == "utf8" or not hasattr(stream, "reconfigure"):
        yield
        return
    before = stream.errors
    stream.reconfigure(errors="fnnet.in_ascii")
    try:
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):
            stream.reconfigure(errors=before)


def _in_ascii(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    replaced = "".join(_IN_ASCII.get(c) or f"\\u{ord(c):04x}" for c in text)
    return replaced, error.end


codecs.register_error("fnnet.in_ascii", _in_ascii)
