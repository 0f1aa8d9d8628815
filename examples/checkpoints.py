"""Checkpoints of a training run, by orbax: atomic, the last few kept, and checked when read.

A checkpoint is the whole state as host arrays, each under its leaf's name, and a JSON object. It
says nothing of devices, so that a run can go on upon others. orbax writes it into a folder of
another name and renames that, so that a kill leaves a whole checkpoint or none. Damage that comes
later shows in two ways: the files no longer have the SHA-256 that `SEAL` lists, or, where a kill
came before that was written, the contents no longer have theirs.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

SEAL = "files.sha256"  # in each checkpoint's folder, as `sha256sum` writes it
ORBAX_OWN = "_CHECKPOINT_METADATA"  # the last file that orbax writes
BESIDES = 2**15  # bytes of a checkpoint's other files, at least

Arrays = Mapping[str, np.ndarray]


class Checkpoint(NamedTuple):
    """What was saved.

    Attributes:
        step: iterations done.
        arrays: by name.
        meta: what JSON can hold.
    """

    step: int
    arrays: Arrays
    meta: dict[str, Any]


class Found(NamedTuple):
    """What a folder holds.

    Attributes:
        checkpoint: the newest that can be used, if any.
        damaged: the newer ones, newest first: the step, and why it cannot be used.
    """

    checkpoint: Checkpoint | None
    damaged: list[tuple[int, str]]


def digest(arrays: Arrays, meta: Any = None) -> str:
    """SHA-256 of named arrays, their shapes and dtypes, and of a JSON object."""
    h = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for name, a in sorted(arrays.items()):
        h.update(f"\0{name} {a.dtype} {a.shape}\0".encode())
        h.update(np.ascontiguousarray(a).tobytes())
    return h.hexdigest()


def steps(folder: Path) -> list[int]:
    """The steps that have a folder of their own here, whole or not."""
    if not folder.is_dir():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal())


def find(folder: Path) -> Found:
    """The newest checkpoint that can be used; nothing in the folder is changed."""
    damaged = []
    for step in reversed(steps(folder)):
        try:
            return Found(_read(folder, step), damaged)
        except Exception as e:  # damage shows in as many ways as there are layers of formats
            damaged.append((step, _one_line(e)))
    return Found(None, damaged)


def _read(folder: Path, step: int) -> Checkpoint:
    path = folder.resolve() / str(step)
    if not (path / ORBAX_OWN).is_file():
        raise ValueError(f"{ORBAX_OWN} is missing")
    _check_seal(path)
    import orbax.checkpoint as ocp

    alone = _alone()
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=alone)
    )
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as reader:
        names = ocp.args.Composite(state=ocp.args.StandardRestore(), meta=ocp.args.JsonRestore())
        saved = reader.restore(path, args=names)
    arrays = {name: np.asarray(a) for name, a in saved.state.items()}
    if saved.meta["sha256"] != digest(arrays, saved.meta["meta"]):
        raise ValueError("its contents are not those that were saved")
    if arrays["step"] != step:
        raise ValueError(f"it is of step {arrays['step']}")
    return Checkpoint(step, arrays, saved.meta["meta"])


def _files(path: Path) -> dict[str, str]:
    """The SHA-256 of each file in a checkpoint's folder."""
    return {
        str(p.relative_to(path)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(path.rglob("*"))
        if p.is_file() and p.name != SEAL
    }


def _seal(path: Path) -> None:
    text = "".join(f"{digest}  {name}\n" for name, digest in _files(path).items())
    new = path / f".{SEAL}"
    new.write_text(text, encoding="utf-8")
    os.replace(new, path / SEAL)


def _check_seal(path: Path) -> None:
    """Find damage before orbax does, whose threads report it at length."""
    try:
        lines = (path / SEAL).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):  # killed before it was written, or itself damaged
        return
    found = _files(path)
    for digest, _, name in (line.partition("  ") for line in lines):
        if name not in found:
            raise ValueError(f"{name} is missing")
        if found[name] != digest:
            raise ValueError(f"{name} is damaged")


def _one_line(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return "its JSON is damaged"
    text = " ".join(str(error).split())
    kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
    return f"{kind}{text[:120]}{'...' * (len(text) > 120)}"


class Writer:
    """Writes checkpoints to a folder, in a thread of its own, and keeps the last few."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        """Nothing is written before the first `save`."""
        self._folder, self._keep = folder, keep
        self._manager: Any = None
        self._unsealed: Path | None = None
        self._quiet = Quiet()

    def save(self, step: int, arrays: Arrays, meta: dict[str, Any]) -> None:
        """Begin to write; it waits for the one before.

        Raises:
            OSError: this one or the one before cannot be written.
        """
        self._wait()
        if self._manager is None:
            self._manager = self._open()
        import orbax.checkpoint as ocp

        arrays = {**arrays, "step": np.asarray(step)}
        whole = {"meta": meta, "sha256": digest(arrays, meta)}
        path = self._folder / str(step)
        # foreseen, as orbax's threads find it out one by one and report it at length
        needed = sum(a.nbytes for a in arrays.values()) + len(json.dumps(whole)) + BESIDES
        if shutil.disk_usage(self._folder).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        with self._one_error(path):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(arrays), meta=ocp.args.JsonSave(whole)
                ),
            )
        self._unsealed = path

    def close(self) -> None:
        """Wait until all is written."""
        try:
            self._wait()
        finally:
            manager, self._manager = self._manager, None
            if manager is not None:
                with contextlib.suppress(Exception):  # it has nothing new to say
                    manager.close()
        self._quiet.end()  # not after an error: threads go on reporting it

    def _wait(self) -> None:
        path, self._unsealed = self._unsealed, None
        if path is None:
            return
        with self._one_error(path):
            self._manager.wait_until_finished()
            if not path.is_dir():
                raise OSError(self._quiet.said or "orbax has not written it")
            _seal(path)

    @contextlib.contextmanager
    def _one_error(self, path: Path) -> Iterator[None]:
        """Whatever orbax raises of a checkpoint, as an OSError that says its cause alone."""
        try:
            yield
        except Exception as e:
            with contextlib.suppress(OSError):
                clean(self._folder)  # what was half written takes room
            raise _cause(e, path) from None

    def _open(self) -> Any:
        import orbax.checkpoint as ocp  # here, since it takes a while to import

        clean(self._folder)
        self._quiet.begin()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=self._keep, create=False, multiprocessing_options=_alone()
        )
        return ocp.CheckpointManager(self._folder.resolve(), options=options)


class Quiet:
    """While it lasts, what orbax's threads report of an error that is raised as well is kept.

    Attributes:
        said: what was reported last, in one line.
    """

    def __init__(self) -> None:
        """It begins with `begin`."""
        self.said = ""
        self._hook: Any = None

    def begin(self) -> None:
        """Listen."""
        self._hook, sys.excepthook = sys.excepthook, self._uncaught
        logging.getLogger("absl").addFilter(self._report)

    def end(self) -> None:
        """Listen no more."""
        if self._hook is not None:
            sys.excepthook, self._hook = self._hook, None
            logging.getLogger("absl").removeFilter(self._report)

    def _report(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR and record.exc_info and record.exc_info[1]:
            self.said = str(record.exc_info[1])
            return False
        return True

    def _uncaught(self, kind: Any, error: BaseException, trace: Any) -> None:
        if str(error) != "Event loop is closed":  # its threads end before what they have begun
            self._hook(kind, error, trace)


def _cause(error: Exception, path: Path) -> OSError:
    """The operating system's own words, which orbax wraps."""
    number = re.search(r"os_error_code='(\d+)'|\[Errno (\d+)\]", str(error))
    if isinstance(error, OSError) and error.errno:
        return OSError(error.errno, error.strerror, str(error.filename or path))
    if number:
        code = int(number[1] or number[2])
        return OSError(code, os.strerror(code), str(path))
    return OSError(errno.EIO, _one_line(error), str(path))


def _alone() -> Any:
    """Of several processes the first alone reads and writes, without waiting for the others."""
    import orbax.checkpoint as ocp

    several = jax.process_count() > 1
    return ocp.options.MultiprocessingOptions(active_processes={0} if several else None)


def clean(folder: Path) -> None:
    """Make the folder, and remove what a kill left: checkpoints half written or half deleted."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        half_deleted = path.name.isdecimal() and not (path / ORBAX_OWN).is_file()
        if half_deleted or ".orbax-checkpoint-tmp" in path.name:
            shutil.rmtree(path)
