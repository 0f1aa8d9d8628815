"""What an array really is: rows A5 and A6, donation, and what `storage` refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from fnnet.measure.memory import compiled_memory, storage


def test_a_broadcast_view_holds_three_numbers_and_shows_nine():
    """Row A5: the stride of 0 walks nowhere."""
    row = np.array([10, 20, 30], np.float32)
    s = storage(np.broadcast_to(row, (3, 3)))
    assert s.shape == (3, 3)
    assert s.strides == (0, 1)
    assert s.strides_bytes == (0, 4)
    assert (s.held, s.logical, s.itemsize) == (12, 36, 4)
    assert s.contents.tolist() == [10, 20, 30]
    assert not s.owns
    assert s.shares_with(row)
    assert s.pointers == storage(row).pointers


def test_jax_writes_a_broadcast_down_unless_it_is_compiled_with_its_use(key):
    """Row A5: XLA has no stride of 0; it fuses the broadcast into what reads it."""
    row, m = jnp.arange(3, dtype="float32"), jax.random.normal(key, (1000, 3), "float32")
    wide = jnp.broadcast_to(row, m.shape)
    s = storage(wide)
    assert (s.held, s.strides) == (12_000, (3, 1))
    assert s.contents[:6].tolist() == [0, 1, 2, 0, 1, 2]

    used = compiled_memory(lambda row, m: jnp.broadcast_to(row, m.shape) * m, row, m)
    assert used.argument == 12 + 12_000
    assert (used.output, used.temp) == (12_000, 0), "one array of m's shape, not two"
    assert compiled_memory(lambda row: jnp.broadcast_to(row, (1000, 3)), row).output == 12_000


def test_views_of_numpy_are_shown_truly():
    """Row A6: strides, offset and owner of slices, transposes, and steps backward."""
    a = np.arange(12, dtype=np.float64).reshape(3, 4).copy()
    whole = storage(a)
    assert whole.owns
    assert (whole.strides, whole.held, whole.logical, whole.offset) == ((4, 1), 96, 96, 0)

    for view, strides, offset in (
        (a.T, (1, 4), 0),
        (a[::2, 1:3], (8, 1), 8),
        (a[::-1], (-4, 1), 64),
        (a[1, 2:3], (1,), 48),
        (np.lib.stride_tricks.sliding_window_view(a, 2, axis=1), (4, 1, 1), 0),
        (a.T.reshape(2, 2, 3), (2, 1, 4), 0),
    ):
        s = storage(view)
        assert (s.strides, s.offset) == (strides, offset)
        assert s.strides_bytes == view.strides
        assert s.logical == view.size * 8
        # the last is a view or a copy, as NumPy finds possible; here it is a view
        assert s.held == 96
        assert s.pointers == whole.pointers
        assert s.contents.tolist() == list(range(12))
        assert s.shares_with(a)
        assert not s.owns

    # two views of one buffer that have no byte in common
    assert not storage(a[:, ::2]).shares_with(a[:, 1::2])
    assert storage(a[:, ::2]).shares_with(storage(a[:, 2]))
    assert not whole.shares_with(a.copy())
    # the order in memory, not that of the indices
    assert storage(np.asfortranarray(a)).contents[:3].tolist() == [0, 4, 8]


def test_contents_are_a_copy_and_current():
    a = np.zeros(3)
    s = storage(a)
    contents = s.contents
    a[1] = 5
    assert contents.tolist() == [0, 0, 0]
    assert s.contents.tolist() == [0, 5, 0]
    contents[0] = s.shards[0].contents[0] = 9
    assert a[0] == 0


def test_memory_that_no_array_owns():
    data = bytes(range(8))
    s = storage(np.frombuffer(data, "<u2", offset=2))
    assert (s.owner, s.offset, s.held, s.logical) == ("bytes", 2, 8, 6)
    assert s.contents.tolist() == list(range(8))
    x = jnp.arange(4.0, dtype="float32")
    view = np.asarray(x)
    assert storage(view).owner.startswith("memoryview")
    assert storage(view).pointers == storage(x).pointers
    assert storage(view[1:]).shares_with(x)
    assert not storage(x).shares_with(np.array(view))


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,), (2, 0, 3)], ids=str)
@pytest.mark.parametrize("make", [np.ones, jnp.ones], ids=["numpy", "jax"])
def test_scalars_and_empty_arrays(make, shape):
    x = make(shape, "float32")
    s = storage(x)
    assert s.logical == s.held == x.size * 4
    assert s.contents.tolist() == [1] * x.size
    assert s.shares_with(x) == (x.size > 0)
    assert f"{s.held} bytes" in repr(s)


@pytest.mark.parametrize(
    ("dtype", "itemsize"), [("bool", 1), ("bfloat16", 2), ("float64", 8), ("complex64", 8)]
)
def test_dtypes_of_jax(dtype, itemsize):
    s = storage(jnp.ones((2, 5), dtype))
    assert (s.dtype, s.itemsize, s.held) == (dtype, itemsize, 10 * itemsize)
    assert s.strides_bytes == (5 * itemsize, itemsize)
    assert s.contents.tolist() == [1] * 10
    assert s.contents.dtype == jnp.dtype(dtype)


def test_a_jax_array_owns_what_it_holds(key):
    """Transposes and slices are arrays of their own, in row order."""
    x = jax.random.normal(key, (3, 4))
    for y in (x.T, x[::2], jnp.broadcast_to(x, (2, 3, 4))):
        s = storage(y)
        assert s.held == s.logical == y.size * 8
        assert s.contents.tolist() == np.asarray(y).ravel().tolist()
        assert not s.shares_with(x)
    assert storage(x).shares_with(x)


def test_shards_of_an_array_on_several_devices():
    mesh = jax.make_mesh((2, 4), ("d", "m"), devices=jax.devices()[:8])
    x = jnp.arange(32.0, dtype="float32").reshape(4, 8)
    s = storage(jax.device_put(x, NamedSharding(mesh, PartitionSpec("d", "m"))))
    assert s.committed
    assert storage(x).committed is False
    assert (s.logical, s.held, len(s.shards)) == (128, 128, 8)
    assert s.strides == (2, 1), "those within one device's part"
    for shard in s.shards:
        assert shard.shape == (2, 2)
        assert shard.contents.tolist() == np.asarray(x)[shard.index].ravel().tolist()
    assert len(set(s.pointers)) == 8
    assert len({shard.device for shard in s.shards}) == 8

    copies = storage(jax.device_put(x, NamedSharding(mesh, PartitionSpec("d"))))
    assert (copies.logical, copies.held) == (128, 4 * 128)
    whole = storage(jax.device_put(x, NamedSharding(mesh, PartitionSpec())))
    assert whole.contents.tolist() == list(range(32)) * 8
    assert "PartitionSpec" in repr(s) or "P(" in repr(s)
    assert repr(s).count("buffer") == 8
    assert "[2:4, 0:2]" in repr(s)


def _update(x):
    return x.at[0].set(7.0)


@pytest.mark.parametrize("looked_at", [False, True])
def test_a_donated_buffer_is_used_again(looked_at):
    """`.at[].set` is an update in place just if the argument is donated."""
    x = jax.block_until_ready(jnp.arange(1000.0) + 0)
    before = storage(x)
    if looked_at:
        assert before.contents[1] == 1
        assert "0. 1. 2." in repr(before)
    y = jax.jit(_update, donate_argnums=0)(x)
    assert x.is_deleted()
    assert storage(y).pointers == before.pointers
    assert before.shares_with(y)
    assert storage(y).contents[:3].tolist() == [7, 1, 2]
    assert "deleted or donated" in repr(before)
    with pytest.raises(ValueError, match="deleted or donated since"):
        _ = before.contents
    with pytest.raises(ValueError, match="storage: x has been deleted or donated"):
        storage(x)


def test_without_donation_the_update_is_a_new_array():
    x = jnp.arange(1000.0)
    y = jax.jit(_update)(x)
    assert storage(y).pointers != storage(x).pointers
    assert not storage(x).shares_with(y)
    assert storage(x).contents[:2].tolist() == [0, 1]
    kept = compiled_memory(jax.jit(_update), x)
    given = compiled_memory(jax.jit(_update, donate_argnums=0), x)
    assert (kept.argument, kept.output, kept.alias, kept.total) == (8000, 8000, 0, 16_000)
    assert (given.argument, given.output, given.alias, given.total) == (8000, 8000, 8000, 8000)


def test_the_repr():
    lines = repr(storage(np.broadcast_to(np.arange(2000.0)[::2], (3, 1000)))).splitlines()
    assert lines[0].split(None, 1) == ["array", "numpy float64[3,1000]"]
    text = "\n".join(lines)
    assert "(0, 2) elements, (0, 16) bytes" in text
    assert "24,000 bytes (23.4 KiB)" in text
    assert "16,000 bytes (15.6 KiB)" in text
    assert "another array, float64[2000]" in text
    assert "[ 0. 1. 2. 3. 4. 5. 6. 7. 8. 9. 10. 11. ...] of 2,000" in text
    assert "not committed" in repr(storage(jnp.ones(3)))


def test_what_has_no_storage(key):
    for x in ([1.0], 3.0, np.float32(1), None, "text"):
        with pytest.raises(
            TypeError, match=f"storage: x must be an array; got a {type(x).__name__}"
        ):
            storage(x)
    with pytest.raises(TypeError, match=r"x is a tracer.*Call storage outside"):
        jax.jit(storage)(jnp.ones(3))
    with pytest.raises(TypeError, match=r"array of keys. Look at jax.random.key_data"):
        storage(key)
    with pytest.raises(TypeError, match="x must be an array"):
        storage(np.ones(2)).shares_with([1.0])
