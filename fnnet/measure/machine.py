"""On what a measurement was made: device, versions, cores."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np


def machine() -> dict[str, str]:
    """The device and the versions, in words.

    Example:
        >>> list(machine())
        ['device', 'host', 'jax', 'numpy', 'python', 'numerics']
    """
    devices = jax.devices()
    device = devices[0]
    kind = " ".join(dict.fromkeys((device.platform, device.device_kind)))
    used = f", {len(devices)} of them, the first is used" if len(devices) > 1 else ""
    precision = jax.config.values["jax_default_matmul_precision"] or "default"
    return {
        "device": kind + used,
        "host": f"{_processor()}, {_cores()} cores for this process, {platform.system()}",
        "jax": f"{jax.__version__}, jaxlib {version('jaxlib')}",
        "numpy": np.__version__,
        "python": platform.python_version(),
        "numerics": f"matmul precision {precision}, x64 {jax.config.values['jax_enable_x64']}",
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
