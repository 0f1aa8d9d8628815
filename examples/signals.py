"""Signals that ask a training run to end: it may finish what it is at, and save."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from typing import Any, Self

ENDING = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """While it is entered, the first SIGINT or SIGTERM is noted, and a second SIGINT ends at once.

    Python runs a signal's handler between two instructions of the main thread, which may be in a
    compiled program for long. So a thread listens to the wakeup socket, to which Python writes each
    signal the moment it comes. Outside of the main thread nothing is listened to.

    Attributes:
        received: the first signal's number, or None.
    """

    def __init__(self, notice: str, last: str = "") -> None:
        """What standard error gets at once: `notice` with the first signal, `last` at the end."""
        self.received: int | None = None
        self._notice, self._last = notice, last
        self._count = 0
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        self._undo.callback(writer.close)  # which ends the thread
        # orbax's event loop borrows the wakeup socket for a moment: handlers as well, then
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        self._undo.callback(signal.set_wakeup_fd, before)
        for signum in ENDING:
            self._undo.callback(signal.signal, signum, signal.signal(signum, self._handle))
        threading.Thread(target=self._listen, args=(reader,), daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._undo.close()

    def _handle(self, signum: int, _: Any) -> None:
        if self.received is None:
            self.received = signum

    def _listen(self, reader: socket.socket) -> None:
        with reader:
            while data := reader.recv(1):
                signum = data[0]
                if signum not in ENDING:
                    continue
                if self._count and signum == signal.SIGINT:
                    if sys.stdout.isatty():  # where a progress bar has hidden the cursor
                        os.write(1, b"\x1b[?25h")
                    if self._last:
                        os.write(2, f"{self._last}\n".encode(errors="replace"))
                    os._exit(128 + signum)
                if self._notice and not self._count:
                    print(self._notice, file=sys.stderr, flush=True)
                self._count += 1
                self._handle(signum, None)
