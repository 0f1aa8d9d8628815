"""The chips that can be compiled for without owning one, by name, and their compilers.

A TPU's compiler is in the package libtpu, which knows its own chips. A GPU's is in JAX's CUDA
plugin, which has to be told what the GPU is: the numbers below are those of the chips' data sheets,
as XLA records them (`xla/backends/gpu/target_config/specs` of its source).
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib.util
import math
import os
import re
from typing import Any, NoReturn

from jax.experimental import topologies

TPUS = ("v2", "v3", "v4", "v5e", "v5p", "v6e")


@dataclasses.dataclass(frozen=True)
class Gpu:
    """What XLA's compiler asks of an NVIDIA GPU.

    Attributes:
        description: the device's own name.
        capability: the compute capability's two numbers.
        cores: streaming multiprocessors.
        fpus: float32 units in each.
        bandwidth: of the memory, in bytes a second.
        cache: of the second level, in bytes.
        clock: in GHz.
        memory: in bytes.
        shared: the most shared memory of one multiprocessor, in bytes.
        block: the most of it for one block of threads, in bytes.
    """

    description: str
    capability: tuple[int, int]
    cores: int
    fpus: int
    bandwidth: int
    cache: int
    clock: float
    memory: int
    shared: int
    block: int

    def config(self) -> str:
        """The target's configuration, as XLA reads it: a text of protocol buffers."""
        limits = {
            "threads_per_block_limit": 1024,
            "threads_per_warp": 32,
            "shared_memory_per_block": 49152,
            "shared_memory_per_core": self.shared,
            "threads_per_core_limit": 2048,
            "core_count": self.cores,
            "fpus_per_core": self.fpus,
            "block_dim_limit_x": 2**31 - 1,
            "block_dim_limit_y": 2**16 - 1,
            "block_dim_limit_z": 2**16 - 1,
            "memory_bandwidth": self.bandwidth,
            "l2_cache_size": self.cache,
            "clock_rate_ghz": self.clock,
            "device_memory_size": self.memory,
            "shared_memory_per_block_optin": self.block,
            "registers_per_core_limit": 2**16,
            "registers_per_block_limit": 2**16,
        }
        major, minor = self.capability
        return "\n".join(
            [
                "gpu_device_info {",
                *(f"  {name}: {value}" for name, value in limits.items()),
                f"  cuda_compute_capability {{ major: {major} minor: {minor} }}",
                "}",
                'platform_name: "CUDA"',
                "dnn_version_info { major: 9 minor: 8 }",
                f'device_description_str: "{self.description}"',
            ]
        )


# the figures for memory are what the driver leaves to programs
GPUS = {
    "a100": Gpu(
        "NVIDIA A100-SXM4-80GB", (8, 0), 108, 64, 2_039_040_000_000, 41_943_040, 1.41,
        85_100_068_864, 167_936, 166_912,
    ),
    "h100": Gpu(
        "NVIDIA H100 80GB HBM3", (9, 0), 132, 128, 3_352_320_000_000, 52_428_800, 1.98,
        84_942_979_072, 233_472, 232_448,
    ),
    "h200": Gpu(
        "NVIDIA H200 141GB HBM3e", (9, 0), 132, 128, 4_800_000_000_000, 52_428_800, 1.98,
        151_397_597_184, 233_472, 232_448,
    ),
    "b200": Gpu(
        "NVIDIA B200", (10, 0), 148, 128, 7_672_320_000_000, 132_644_864, 1.965,
        191_514_411_008, 233_472, 232_448,
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Target:
    """Chips that programs are compiled for.

    Attributes:
        name: as it is written: "tpu v5e:2x2", "h100:8".
        platform: "tpu" or "cuda".
        chip: the kind of chip.
        sizes: how many, along each axis of the machine.
    """

    name: str
    platform: str
    chip: str
    sizes: tuple[int, ...]


def target_of(name: str) -> Target:
    """The target that a name means: a TPU's generation and slice, or a GPU and how many.

    Args:
        name: "tpu v5e:2x2" (the word tpu may be left out), "tpu v6e" for one chip, "h100",
            "h100:8". Case does not matter.

    Raises:
        TypeError: if it is no text.
        ValueError: if there is no such chip, or the sizes are no sizes.

    Example:
        >>> target_of("TPU v5e:16x16").sizes, target_of("h100:8").platform
        ((16, 16), 'cuda')
    """
    if not isinstance(name, str):
        raise TypeError(
            f"targets: target must be a text such as 'tpu v5e:2x2' or 'h100', not {name!r}"
        )
    words = name.lower().split()
    platform = words[0] if len(words) > 1 else ""
    found = re.fullmatch(
        r"([a-z]+\d+[a-z]*|[a-z]\w*)(?::(\d+(?:x\d+)*))?", words[-1] if words else ""
    )
    if len(words) > 2 or found is None or platform not in ("", "tpu", "gpu", "cuda"):
        _unknown(name)
    chip, sizes = found[1], tuple(map(int, (found[2] or "1").split("x")))
    if chip in GPUS and platform != "tpu":
        if len(sizes) > 1:
            raise ValueError(
                f"targets: {name!r}: GPUs are counted by one number ({chip}:{math.prod(sizes)})"
            )
        kind = "cuda"
    elif chip in TPUS and platform in ("", "tpu"):
        kind = "tpu"
    else:
        _unknown(name)
    if not all(sizes):
        raise ValueError(f"targets: {name!r} has no chips: each size must be 1 or more")
    prefix = "tpu " if kind == "tpu" else ""
    return Target(f"{prefix}{chip}:{'x'.join(map(str, sizes))}", kind, chip, sizes)


def names() -> tuple[str, ...]:
    """The chips that are known; a target adds how many.

    Example:
        >>> names()[:2], names()[-1]
        (('tpu v2', 'tpu v3'), 'b200')
    """
    return (*(f"tpu {chip}" for chip in TPUS), *GPUS)


def _unknown(name: str) -> NoReturn:
    known = names()
    near = difflib.get_close_matches(name.lower().split(":")[0], known, n=1)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"targets: no chip is known by the name {name!r}{meant}. There are: {', '.join(known)}; "
        "with how many after a colon: 'tpu v5e:2x2', 'h100:8'"
    )


@functools.cache
def devices_of(target: Target) -> Any:
    """The target's topology: devices that a mesh can be made of, and that nothing runs on.

    Raises:
        ModuleNotFoundError: if its compiler is not installed; what to install is said.
        RuntimeError: if JAX has already been started in a way that shut it out.
        ValueError: if the compiler knows no slice of these sizes.
    """
    if target.platform == "tpu":
        _installed("libtpu", target, "targets-tpu")
        # there is no machine to ask what it is, and nobody else whose part of it this is
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
        if os.environ.get("JAX_PLATFORMS") == "cpu":  # no chip is touched: others may compile too
            os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
        sizes = target.sizes if len(target.sizes) > 1 else (target.sizes[0], 1)
        slices = "x".join(map(str, (*sizes, *(1,) * (_axes(target.chip) - len(sizes)))))
        options: dict[str, Any] = {"topology_name": f"{target.chip}:{slices}"}
    else:
        _installed("jax_plugins.xla_cuda13", target, "targets-cuda")
        os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")  # no driver to be checked
        options = {
            "topology_name": target.chip,
            "target_config": GPUS[target.chip].config(),
            "topology": f"1x1x{target.sizes[0]}",  # slices, hosts, GPUs of a host
        }
    try:
        return topologies.get_topology_desc(platform=target.platform, **options)
    except NotImplementedError as error:
        raise RuntimeError(
            f"targets: JAX was started without the compiler for {target.name} ({error}). Set "
            "JAX_PLATFORMS=cpu in the environment before Python starts"
        ) from error
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"targets: the compiler knows no {target.name}: {reason}") from error


def _axes(chip: str) -> int:
    """How many axes a slice of these chips has: the tori of v4 and v5p have three."""
    return 3 if chip in ("v4", "v5p") else 2


def _installed(package: str, target: Target, extra: str) -> None:
    try:
        found = importlib.util.find_spec(package)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise ModuleNotFoundError(
            f"targets: the compiler for {target.name} is not installed: pip install "
            f"'fnnet[{extra}]'",
            name=package,
        )
