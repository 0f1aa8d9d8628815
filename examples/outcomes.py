"""How a script ends: its errors, and the exit code of each."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import starting


class UserError(Exception):
    """What was asked cannot be done; the message is one line, and says why."""


class Failure(Exception):
    """The run went wrong; the message is one line, and says how."""


class Interrupted(Exception):
    """A signal asked for the end; the message is one line, and says how to go on."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


def exit_code(
    name: str, run: Callable[[argparse.Namespace], Any], args: argparse.Namespace, smaller: str
) -> int:
    """Run the script `name`; its exit code, after one line on standard error if that is not 0.

    Args:
        name: of the script, before each message.
        run: all that the script does.
        args: its flags.
        smaller: the flags that save memory.
    """

    def complain(message: str, code: int) -> int:
        sys.stdout.flush()
        print(f"{name}: {message}", file=sys.stderr)
        return code

    starting.over()
    for stream in (sys.stdout, sys.stderr):  # what an ASCII terminal cannot show, as its number
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        run(args)
        sys.stdout.flush()
    except UserError as e:
        return complain(f"error: {e}", 2)
    except Failure as e:
        return complain(str(e), 1)
    except Interrupted as e:
        return complain(str(e), 128 + e.signum)
    except (MemoryError, jax.errors.JaxRuntimeError) as e:
        if not isinstance(e, MemoryError) and "out of memory" not in str(e).lower():
            raise
        return complain(f"out of memory: a smaller {smaller} may help", 1)
    except KeyboardInterrupt:
        return complain("interrupted", 128 + signal.SIGINT)
    except BrokenPipeError:  # nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return 0


@contextlib.contextmanager
def writing(folder: Path, saved: Callable[[], str] = str) -> Iterator[None]:
    """Turn the errors of writing to `folder` into a UserError; `saved` says what is safe."""
    try:
        yield
    except OSError as e:
        cause = f"cannot write to {e.filename or folder}: {e.strerror or e}"
        raise UserError(cause + saved()) from None
