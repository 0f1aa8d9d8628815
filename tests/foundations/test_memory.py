"""Rows A5-A8: where an array's numbers lie, what a view costs, and what "in place" means."""

import re
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnnet.measure.memory import compiled_memory, storage

MIB = 1 << 20


# A5: broadcasting without copying


def test_A5_a_numpy_view_of_stride_zero():
    c = np.array([10.0, 20, 30], np.float32)
    wide = np.broadcast_to(c, (3, 3))
    assert wide.tolist() == [[10, 20, 30]] * 3
    s = storage(wide)
    assert s.contents.tolist() == [10, 20, 30]  # what is stored
    assert (s.strides, s.shape) == ((0, 1), (3, 3))  # to go down a row is to stay where one is
    assert (s.held, s.logical) == (12, 36)
    assert s.shares_with(c)

    columns = storage(np.broadcast_to(c[:, None], (3, 3)))
    assert columns.strides == (1, 0)
    assert columns.held == 12
    with pytest.raises(ValueError, match="read-only"):  # one number in three places
        wide[0, 0] = 1


def test_A5_a_jax_array_has_no_strides():
    """Asked for by itself, a broadcast is written out: JAX arrays hold what they show."""
    c = jnp.array([10, 20, 30], jnp.float32)
    s = storage(jnp.broadcast_to(c, (3, 3)))
    assert s.contents.tolist() == [10, 20, 30] * 3
    assert (s.strides, s.held, s.logical) == ((3, 1), 36, 36)
    assert not s.shares_with(c)


def test_A5_in_a_compiled_function_a_broadcast_is_fused():
    """Inside jit it is part of the loop that uses it, and is never written down."""
    n = 1000
    c, m = jnp.ones(n, jnp.float32), jnp.ones((n, n), jnp.float32)

    def total(c, m):
        return jnp.sum(jnp.broadcast_to(c, m.shape) * m)

    memory = compiled_memory(total, c, m)
    assert memory.output == 4
    assert memory.temp < m.nbytes / 100
    program = jax.jit(total).lower(c, m).compile().as_text()
    whole = program[program.index("ENTRY") :]  # what is run, one line an operation
    assert "fusion(" in whole
    assert not re.search(r"f32\[1000,1000\]\S* broadcast\(", whole)

    # where the broadcast itself is wanted, there is nothing to fuse it with
    alone = compiled_memory(lambda c: jnp.broadcast_to(c, (n, n)), c)
    assert alone.output == m.nbytes


# A6: the memory behind an array


def test_A6_the_actual_memory_of_an_array():
    x = np.arange(27.0).reshape(3, 3, 3)
    s = storage(x)
    assert s.contents.tolist() == list(range(27))  # one row of numbers, the last axis fastest
    assert (s.strides, s.strides_bytes) == ((9, 3, 1), (72, 24, 8))
    i, j, k = 2, 0, 1
    assert x[i, j, k] == s.contents[9 * i + 3 * j + 1 * k]
    assert s.held == s.logical == 27 * 8

    for view, strides, offset in (
        (x.T, (1, 3, 9), 0),
        (x[1], (3, 1), 9 * 8),
        (x[:, ::2, 1], (9, 6), 8),
        (x[::-1], (-9, 3, 1), 18 * 8),
        (x.reshape(-1), (1,), 0),
    ):
        t = storage(view)
        assert (t.strides, t.offset) == (strides, offset)
        assert t.contents.tolist() == list(range(27))  # the same buffer
        assert t.shares_with(x)
    assert not storage(x.T.copy()).shares_with(x)


def test_A6_what_an_array_shows_is_not_what_it_holds():
    """Printing an array, or making a list of it, is no way to see its memory."""
    wide = np.broadcast_to(np.float32([1, 2, 3]), (4, 3))
    assert len(wide.ravel().tolist()) == 12
    assert len(storage(wide).contents) == 3
    part = np.arange(1000.0)[:2]
    assert part.nbytes == 16
    assert storage(part).held == 8000  # two numbers keep a thousand alive


def test_A6_jax_arrays_share_nothing():
    x = jnp.arange(12.0).reshape(3, 4)
    assert storage(x).shares_with(x)
    for y in (x.T, x[0], x.reshape(-1) + 0, x[::-1]):
        assert not storage(y).shares_with(x)
        assert storage(y).contents.tolist() == np.asarray(y).ravel().tolist()
    # but NumPy can look at a JAX buffer where it lies
    seen = np.asarray(x)
    assert storage(seen).pointers == storage(x).pointers
    with pytest.raises(ValueError, match="read-only"):
        seen[0, 0] = 1


# A7: does broadcasting cost memory?


def test_A7_the_result_costs_and_nothing_else():
    x, y = jnp.ones((30_000, 1, 10), jnp.float32), jnp.ones((1, 20, 10), jnp.float32)
    held = storage(x).held + storage(y).held
    assert round(held / MIB, 3) == 1.145
    assert round((held + storage(x - y).held) / MIB, 2) == 24.03
    memory = compiled_memory(jnp.subtract, x, y)
    assert (memory.argument, memory.temp) == (held, 0)
    assert round(memory.total / MIB, 2) == 24.03
    # compiled with what is made of it, the large result is not written down either
    squares = compiled_memory(lambda x, y: jnp.sum((x - y) ** 2, -1), x, y)
    assert squares.total < 4 * MIB


def numpy_peak(f):
    """The most bytes that NumPy held at once while f ran, beyond what it held before."""
    tracemalloc.start()
    try:
        f()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_A7_why_numpy_needs_the_result_twice():
    """a[:] = b[:, :, None] - c: the difference is made first, then copied."""
    n = 100  # of 1,192,953: 59 GB become 4.9 MB
    a, b, c = np.zeros((n, 192, 32)), np.zeros((n, 192)), np.zeros((192, 32))

    def assigned():
        a[:] = b[:, :, None] - c[None]

    def written_into():
        np.subtract(b[:, :, None], c[None], out=a)

    assert a.nbytes == n * 192 * 32 * 8
    assert a.nbytes <= numpy_peak(assigned) < 1.1 * a.nbytes
    assert numpy_peak(written_into) < a.nbytes / 10
    # not the broadcast costs: its operand is a view of stride 0
    wide = storage(np.broadcast_to(b[:, :, None], a.shape))
    assert (wide.strides, wide.held, wide.logical) == ((192, 1, 0), b.nbytes, a.nbytes)


def test_A7_the_same_in_jax():
    n = 100
    b, c = jnp.ones((n, 192, 1)), jnp.ones((1, 192, 32))
    memory = compiled_memory(jnp.subtract, b, c)
    assert (memory.output, memory.temp) == (n * 192 * 32 * 8, 0)
    a = jax.ShapeDtypeStruct((n, 192, 32), "float64")
    # a result that takes over an array that is not needed any more
    into = compiled_memory(
        jax.jit(lambda a, b, c: a.at[:].set(b - c), donate_argnums=0, keep_unused=True), a, b, c
    )
    assert into.alias == into.output
    assert into.total == memory.total


# A8: joining, indexing, and change without change


@pytest.mark.parametrize("xp", [np, jnp], ids=["numpy", "jax"])
def test_A8_joining(xp):
    x = xp.arange(12.0).reshape(3, 4)
    y = xp.array([[2.0, 1, 4, 3], [1, 2, 3, 4], [4, 3, 2, 1]])
    down, across = xp.concatenate([x, y], axis=0), xp.concatenate([x, y], axis=1)
    assert down.shape == (6, 4)
    assert down.tolist() == x.tolist() + y.tolist()
    assert across[0].tolist() == [0, 1, 2, 3, 2, 1, 4, 3]
    assert [xp.stack([x, y], axis=i).shape for i in range(3)] == [(2, 3, 4), (3, 2, 4), (3, 4, 2)]
    assert xp.stack([x, y])[1].tolist() == y.tolist()
    with pytest.raises((TypeError, ValueError)):
        xp.concatenate([x, y[:, :2]], axis=0)
    assert x[-1].tolist() == [8, 9, 10, 11]
    assert x[1:3].tolist() == [[4, 5, 6, 7], [8, 9, 10, 11]]


def test_A8_functional_update():
    x = jnp.arange(12.0).reshape(3, 4)
    with pytest.raises(TypeError, match="immutable"):
        x[1, 2] = 9
    y = x.at[1, 2].set(9)
    assert (float(x[1, 2]), float(y[1, 2])) == (6, 9)  # a new array; the old one stands
    assert y.at[0:2].set(12).tolist() == [[12] * 4, [12] * 4, [8, 9, 10, 11]]
    assert x.at[0].multiply(10)[0].tolist() == [0, 10, 20, 30]

    # an index that comes twice is added twice; NumPy's += adds once
    counts = jnp.zeros(3).at[jnp.array([0, 0, 2])].add(1)
    assert counts.tolist() == [2, 0, 1]
    once = np.zeros(3)
    once[[0, 0, 2]] += 1
    assert once.tolist() == [1, 0, 1]

    # no index is out of bounds: compiled code cannot raise. Reads are held back, writes dropped
    assert float(x[0, 99]) == 3
    assert (x.at[0, 99].set(5) == x).all()
    assert jnp.isnan(x.at[0, 99].get(mode="fill"))


def test_A8_in_place_in_numpy():
    """A name bound anew is another array; an assignment into it is the same."""
    x, y = np.ones((3, 4)), np.ones((3, 4))
    before = storage(y)
    y = y + x
    assert storage(y).pointers != before.pointers
    for in_place in ("y[:] = x + y", "y += x", "np.add(x, y, out=y)"):
        before = storage(y)
        scope = {"x": x, "y": y, "np": np}
        exec(in_place, scope)
        assert storage(scope["y"]).pointers == before.pointers, in_place


def test_A8_in_place_in_jax_is_donation():
    """The compiled function may use its argument's memory, if the caller gives it away."""

    def update(x):
        return x.at[1].set(9.0)

    x = jax.block_until_ready(jnp.zeros(1000) + 0)
    before = storage(x)
    y = jax.jit(update)(x)
    assert storage(y).pointers != before.pointers
    assert float(x[1]) == 0

    z = jax.jit(update, donate_argnums=0)(x)
    assert storage(z).pointers == before.pointers  # the same bytes
    assert before.shares_with(z)
    assert x.is_deleted()
    with pytest.raises(RuntimeError, match="deleted"):
        np.asarray(x)

    kept = compiled_memory(jax.jit(update), y)
    given = compiled_memory(jax.jit(update, donate_argnums=0), y)
    assert (kept.alias, kept.total) == (0, 2 * y.nbytes)
    assert (given.alias, given.total) == (y.nbytes, y.nbytes)


def test_A8_x_plus_equals_is_no_update_in_place():
    """In JAX `x += y` binds the name anew: another array, and who held the old one keeps it."""
    x = y = jnp.ones(3)
    before = storage(x)
    x += 1
    assert storage(x).pointers != before.pointers
    assert y.tolist() == [1, 1, 1]


def test_A8_a_training_step_needs_its_parameters_once():
    w, g = jnp.ones((500, 500)), jnp.ones((500, 500))

    def step(w, g):
        return w - 0.1 * g

    plain = compiled_memory(step, w, g)
    donated = compiled_memory(jax.jit(step, donate_argnums=0), w, g)
    assert plain.total - donated.total == w.nbytes
