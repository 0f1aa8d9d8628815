"""Several processes that train one net: their start, and what they must agree on.

Every process runs the same script on the same data. Arrays are sharded over the devices of all, so
that each process computes its devices' part of every mini-batch; the first alone prints and writes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from checkpoints import Checkpoint, Found
from jax.experimental import multihost_utils
from outcomes import UserError, writing


@contextlib.contextmanager
def joined(args: argparse.Namespace) -> Iterator[None]:
    """Join the other processes if --distributed asks for it, and print in the first alone.

    Without --coordinator and its like, JAX finds out, as it can on Slurm, MPI, Kubernetes, TPUs.

    Raises:
        UserError: it cannot find out, or cannot reach them.
    """
    if not args.distributed:
        yield
        return
    try:
        jax.distributed.initialize(
            args.coordinator,
            args.num_processes,
            args.process_id,
            shutdown_timeout_seconds=60,  # where one fails, the others do not wait longer
        )
    except (ValueError, RuntimeError) as e:  # a JaxRuntimeError, too
        raise UserError(
            f"--distributed: {' '.join(str(e).split())} Want --coordinator HOST:PORT, "
            "--num-processes N and --process-id I, from 0 to N - 1"
        ) from None
    if first():
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def first() -> bool:
    """Whether this process is the one that prints and writes."""
    return jax.process_index() == 0


def make_folder(path: Path) -> None:
    """Make a folder for results, if need be.

    Raises:
        UserError: it cannot be made.
    """
    if first():
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)


def any_of(flag: int) -> int:
    """The largest of all processes' numbers."""
    if jax.process_count() == 1:
        return flag
    return int(np.max(multihost_utils.process_allgather(np.int32(flag))))


def find_together(find: Callable[[], Found]) -> Found:
    """What the first process finds; the others need not see its disk."""
    if jax.process_count() == 1:
        return find()
    data = _pack(find()) if first() else b""
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    buffer = np.frombuffer(data.ljust(length, b"\0"), np.uint8)
    return _unpack(np.asarray(multihost_utils.broadcast_one_to_all(buffer)).tobytes())


def _pack(found: Found) -> bytes:
    c = found.checkpoint
    head = {"damaged": found.damaged, "step": c and c.step, "meta": c and c.meta}
    file = io.BytesIO()
    np.savez(file, json.dumps(head), **(c.arrays if c else {}))
    return file.getvalue()


def _unpack(data: bytes) -> Found:
    with np.load(io.BytesIO(data)) as file:
        arrays = dict(file)
    head = json.loads(str(arrays.pop("arr_0")))
    damaged = [(step, why) for step, why in head["damaged"]]
    if head["step"] is None:
        return Found(None, damaged)
    return Found(Checkpoint(head["step"], arrays, head["meta"]), damaged)
