"""The scripts as a user starts them: processes of their own, without the tests' configuration."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

from .conftest import EXAMPLES

FLAGS = os.environ["XLA_FLAGS"]  # as conftest has set them


def program(script: str, *args: str, cwd: Path, **env: str) -> subprocess.Popen[str]:
    """Start a script, from anywhere."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("XLA_", "JAX_"))}
    paths = [str(EXAMPLES.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    # as from a terminal: what runs in the background of a shell is deaf to interrupts, and so are
    # the processes it starts
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, str(EXAMPLES / script), *args],
            cwd=cwd,
            env={**clean, "PYTHONPATH": os.pathsep.join(paths), "JAX_PLATFORMS": "cpu", **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
    finally:
        signal.signal(signal.SIGINT, before)


def ended(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    """Wait for its end; what it printed, and on standard error."""
    out, error = process.communicate(timeout=300)
    assert process.returncode == code, error
    return out, error


def cached(folder: Path, *, devices: int = 1) -> dict[str, str]:
    """The environment in which programs compile once for all, and quickly."""
    return {
        "XLA_FLAGS": f"{FLAGS} --xla_force_host_platform_device_count={devices}",
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def lines(workdir: Path) -> list[dict]:
    """Of metrics.jsonl, without the header and without seconds."""
    read = map(json.loads, (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[1:])
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read]


def parameters(workdir: Path) -> dict[str, bytes]:
    """The trained parameters' bits, by name."""
    with np.load(workdir / "params.npz") as file:
        return {name: file[name].tobytes() for name in file}
