"""What an array really is: a buffer of numbers in a row, and a way to walk through it.

A NumPy array may be a view: a shape and strides over a buffer that another array owns, so that one
stored number is many elements, or some of many. A JAX array owns its buffers, one on each device
that has a part of it, and each holds just the elements of its part.
"""

from __future__ import annotations

import ctypes
import dataclasses
from math import prod
from typing import Any

import jax
import numpy as np

from fnnet.measure.buffers import Buffer, jax_buffers, numpy_buffer, walk
from fnnet.measure.text import both, table

_SHOWN = 12  # numbers of a buffer in a repr
_HARDEST: Any = 1_000_000  # steps to decide whether two strided views meet


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Shard:
    """One buffer of an array.

    Attributes:
        device: where it is: "host", or the JAX device.
        index: the part of the array in it, as in ``x[index]``.
        shape: the shape of that part.
        pointer: the buffer's address, or None if the backend does not tell.
        nbytes: the buffer's size.
    """

    device: str
    index: tuple[slice, ...]
    shape: tuple[int, ...]
    pointer: int | None
    nbytes: int
    _buffer: Buffer

    @property
    def contents(self) -> np.ndarray:
        """A copy of the buffer's contents, one axis, in the order in which they lie in memory."""
        return self._buffer.read()


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Storage:
    """What an array holds. The figures are those of the moment `storage` was called.

    Attributes:
        library: "numpy" or "jax".
        shape: the array's shape.
        dtype: its dtype's name.
        itemsize: bytes of one element.
        strides: for each axis, how many elements further in the buffer the next one is.
        strides_bytes: the same in bytes.
        offset: how many bytes into the buffer the array's first element is.
        owner: who owns the buffer, in words.
        owns: whether that is the array itself.
        shards: the buffers: one of a NumPy array, one a device of a JAX array.
        sharding: JAX's sharding, or None.
        committed: whether a JAX array must stay on its devices; None for NumPy's.
        memory_kind: JAX's name for the memory it is in, or None.
    """

    library: str
    shape: tuple[int, ...]
    dtype: str
    itemsize: int
    strides: tuple[float, ...]
    strides_bytes: tuple[int, ...]
    offset: int
    owner: str
    owns: bool
    shards: tuple[Shard, ...]
    sharding: Any
    committed: bool | None
    memory_kind: str | None
    _array: Any

    @property
    def logical(self) -> int:
        """Bytes of all elements of the array, each counted by itself."""
        return prod(self.shape) * self.itemsize

    @property
    def held(self) -> int:
        """Bytes of the buffers, of which the array may be a part, or which it may repeat."""
        return sum(shard.nbytes for shard in self.shards)

    @property
    def pointers(self) -> tuple[int | None, ...]:
        """The buffers' addresses. Two arrays that live at once and have the same share it."""
        return tuple(shard.pointer for shard in self.shards)

    @property
    def contents(self) -> np.ndarray:
        """A copy of what the buffers hold, in order: (n,); one buffer after the other."""
        return np.concatenate([shard.contents for shard in self.shards])

    def shares_with(self, other: Any) -> bool:
        """Whether an element of each lies in the same byte of memory.

        The addresses compared are those at the time of `storage`: the storage of an array, taken
        before it was donated, shares with the result that took over its buffer.

        Args:
            other: an array, or its Storage.

        Raises:
            TypeError: if `other` is neither.
            ValueError: if a backend does not tell its buffers' addresses.
        """
        theirs = other if isinstance(other, Storage) else storage(other)
        return any(
            place == place_ and _meet(a, b)
            for place, a in self._places()
            for place_, b in theirs._places()
        )

    def _places(self) -> list[tuple[str, np.ndarray]]:
        """The memory taken: which one, and an array that lies there, never to be read."""
        if self.library == "numpy":
            return [("host", self._array)]
        places = []
        for shard in self.shards:
            if shard.pointer is None:
                raise ValueError(f"storage: {shard.device} does not tell its buffers' addresses")
            memory: Any = (ctypes.c_char * shard.nbytes).from_address(shard.pointer)
            places.append((shard._buffer.memory, np.frombuffer(memory, np.uint8)))
        return places

    def __repr__(self) -> str:
        head = f"{self.library} {self.dtype}[{','.join(map(str, self.shape))}]"
        rows = [
            ["strides", f"{self.strides} elements, {self.strides_bytes} bytes"],
            ["itemsize", f"{self.itemsize} bytes"],
            ["logical", both(self.logical)],
            ["held", both(self.held)],
            ["owner", self.owner + (f", {self.offset} bytes in" if self.offset else "")],
        ]
        if self.library == "jax":
            bound = "committed" if self.committed else "not committed"
            rows.append(["placement", f"{self.sharding}, {bound}"])
        for shard in self.shards:
            address = "address not told" if shard.pointer is None else hex(shard.pointer)
            where = f"{shard.device} {address}"
            if len(self.shards) > 1:
                where += f" [{', '.join(map(_slice, shard.index))}]"
            rows += [["buffer", where], ["contents", shard._buffer.shown(_SHOWN)]]
        return table(["array", head], rows)


def storage(x: Any) -> Storage:
    """The memory behind an array of NumPy or JAX: its buffers, and how the array lies in them.

    Nothing is copied and nothing held but `x` itself; contents are read when asked for. (A NumPy
    view of a JAX array's buffer, kept alive, would keep the buffer from being donated.)

    Args:
        x: a NumPy array, or a JAX array outside of a traced function.

    Returns:
        A Storage.

    Raises:
        TypeError: for what is no array, for a tracer and for typed keys.
        ValueError: for an array that was deleted or donated.

    Example:
        Three numbers that look like nine:

        >>> wide = np.broadcast_to(np.array([1.0, 2.0, 3.0], np.float32), (3, 3))
        >>> s = storage(wide)
        >>> s.strides, s.held, s.logical, s.contents.tolist()
        ((0, 1), 12, 36, [1.0, 2.0, 3.0])
        >>> s.shares_with(wide[1]), s.shares_with(wide.copy())
        (True, False)
    """
    if isinstance(x, np.ndarray):
        return _of_numpy(x)
    if isinstance(x, jax.core.Tracer):
        raise TypeError(
            "storage: x is a tracer, which stands for an array and has no memory. Call storage "
            "outside of jit, grad and vmap"
        )
    if not isinstance(x, jax.Array):
        remedy = "Convert it with np.asarray or jnp.asarray"
        raise TypeError(f"storage: x must be an array; got a {type(x).__name__}. {remedy}")
    if jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key):
        raise TypeError("storage: x is an array of keys. Look at jax.random.key_data(x)")
    if x.is_deleted():
        raise ValueError("storage: x has been deleted or donated, and has no memory any more")
    return _of_jax(x)


def _of_numpy(x: np.ndarray) -> Storage:
    buffer, owner = numpy_buffer(x)
    item = x.itemsize
    return Storage(
        library="numpy",
        shape=x.shape,
        dtype=str(x.dtype),
        itemsize=item,
        strides=tuple(s // item if item and s % item == 0 else s / (item or 1) for s in x.strides),
        strides_bytes=x.strides,
        offset=x.ctypes.data - buffer.pointer if buffer.pointer is not None else 0,
        owner=owner or "itself",
        owns=not owner,
        shards=(_shard(buffer, (slice(None),) * x.ndim, x.shape),),
        sharding=None,
        committed=None,
        memory_kind=None,
        _array=x,
    )


def _of_jax(x: jax.Array) -> Storage:
    shards = tuple(_shard(b, s.index, s.data.shape) for s, b in jax_buffers(x))
    part = shards[0].shape if shards else x.shape
    strides = walk(x, part)
    return Storage(
        library="jax",
        shape=x.shape,
        dtype=str(x.dtype),
        itemsize=x.dtype.itemsize,
        strides=strides,
        strides_bytes=tuple(s * x.dtype.itemsize for s in strides),
        offset=0,
        owner="itself",
        owns=True,
        shards=shards,
        sharding=x.sharding,
        committed=x.committed,
        memory_kind=x.sharding.memory_kind,
        _array=x,
    )


def _shard(buffer: Buffer, index: tuple[slice, ...], shape: tuple[int, ...]) -> Shard:
    return Shard(buffer.device, index, shape, buffer.pointer, buffer.nbytes, buffer)


def _meet(a: np.ndarray, b: np.ndarray) -> bool:
    try:
        return np.shares_memory(a, b, max_work=_HARDEST)
    except np.exceptions.TooHardError:
        return np.may_share_memory(a, b)


def _slice(s: slice) -> str:
    return f"{'' if s.start is None else s.start}:{'' if s.stop is None else s.stop}"
