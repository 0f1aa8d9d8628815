"""Imported first: Ctrl-C while the other imports run, seconds long, is one line."""

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any


def _end(signum: int, _: Any) -> None:
    os.write(2, f"\n{Path(sys.argv[0]).name}: interrupted\n".encode(errors="replace"))
    os._exit(128 + signum)


def over() -> None:
    """From here on Ctrl-C is an exception, as usual."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _begin() -> None:
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if usual and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _end)


if "jax" not in sys.modules:  # a script's first import, not one of a program that is at work
    _begin()
