"""The buffers behind arrays: where they are, how large, and how to read them in memory order."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

_FETCHED = 1 << 16  # bytes that a repr may copy from a device


@dataclasses.dataclass(frozen=True)
class Buffer:
    """A stretch of memory.

    Attributes:
        device: where it is, for people.
        memory: which memory it is in: addresses of one memory can be compared.
        pointer: its address, or None if the backend does not tell.
        nbytes: its size.
        view: gives its contents, one axis in memory order, not copied if they are on the host.
    """

    device: str
    memory: str
    pointer: int | None
    nbytes: int
    view: Callable[[], np.ndarray]

    def read(self) -> np.ndarray:
        """A copy of the contents."""
        return np.array(self.view())

    def shown(self, count: int) -> str:
        """The first numbers as text."""
        if self.memory != "host" and self.nbytes > _FETCHED:
            return "not fetched: .contents does"
        try:
            values = self.view()
        except ValueError as error:
            return f"({error})"
        # a line break would tear the table
        text = " ".join(np.array2string(values[:count], max_line_width=10_000).split())
        return text if values.size <= count else f"{text[:-1]} ...] of {values.size:,}"


def numpy_buffer(x: np.ndarray) -> tuple[Buffer, str]:
    """The buffer that `x` lies in, and who owns it in words: nobody else if they are empty."""
    array, base = x, x.base
    while base is not None:
        if isinstance(base, np.ndarray):
            array = base
        following = getattr(base, "base", None)
        if following is None:
            break
        base = following
    owner = "" if array is x else f"another array, {_type(array)}"
    if base is not None and not isinstance(base, np.ndarray):
        owner = type(base).__name__
        if isinstance(base, memoryview) and base.obj is not None:
            owner += f" of {type(base.obj).__name__}"
        array = _exported(base, array)

    def view() -> np.ndarray:
        return array.ravel(order="K")

    # the lowest address: strides may be negative
    pointer = np.lib.array_utils.byte_bounds(array)[0] if array.size else array.ctypes.data
    return Buffer("host", "host", pointer, array.nbytes, view), owner


def _exported(base: Any, array: np.ndarray) -> np.ndarray:
    """The whole buffer of an object that is no array, such as bytes or a memory map."""
    try:
        return np.asarray(base) if isinstance(base, memoryview) else np.frombuffer(base, np.uint8)
    except (TypeError, ValueError, BufferError):
        return array


def jax_buffers(x: jax.Array) -> Iterator[tuple[Any, Buffer]]:
    """The shards of `x` that are on this process's devices, each with its buffer."""
    order = _order(x)
    for i, shard in enumerate(x.addressable_shards):

        def view(i: int = i) -> np.ndarray:
            if x.is_deleted():
                raise ValueError("deleted or donated since")
            # Asked for anew each time: a NumPy view that lives on would block donation.
            return np.asarray(x.addressable_shards[i].data).transpose(order).ravel()

        kind = str(x.sharding.memory_kind)
        on_host = shard.device.platform == "cpu" or "host" in kind
        memory = "host" if on_host else f"{shard.device} {kind}"
        try:
            pointer = shard.data.unsafe_buffer_pointer()
        except Exception:  # each backend has its own way to say that it cannot
            pointer = None
        yield shard, Buffer(str(shard.device), memory, pointer, _on_device(shard.data), view)


def walk(x: jax.Array, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides, in elements, of a JAX array's part of this shape in its buffer.

    Example:
        >>> walk(jax.numpy.ones((2, 3, 4)), (2, 3, 4))
        (12, 4, 1)
    """
    strides, step = [0] * len(shape), 1
    for axis in reversed(_order(x)):
        strides[axis] = step
        step *= shape[axis]
    return tuple(strides)


def _order(x: Any) -> tuple[int, ...]:
    """The axes from the one with the largest stride to the one with the smallest."""
    layout = x.format.layout
    return tuple(range(x.ndim)) if layout is None else tuple(layout.major_to_minor)


def _on_device(x: Any) -> int:
    """The buffer's size, which a device may pad, and which packs numbers of less than a byte."""
    try:
        return int(x.on_device_size_in_bytes())
    except (AttributeError, NotImplementedError, RuntimeError):
        return int(x.nbytes)


def _type(x: np.ndarray) -> str:
    return f"{x.dtype}[{','.join(map(str, x.shape))}]"
