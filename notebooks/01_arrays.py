# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 1. Arrays, broadcasting and memory
#
# **What it teaches.** What an array is made of; arithmetic on whole arrays; the broadcasting rules
# and the mistakes they hide; where an array's numbers lie, and what a view, a result and an update
# cost in memory: in NumPy, and in JAX.
#
# **How long it takes.** About 40 minutes to read; it runs in less than a minute on two CPU cores.
#
# **What to install.** `fnnet` with the extra `examples`, which brings JAX, NumPy and matplotlib. The
# next cell does it where it is missing, on Colab too once fnnet is on the package index.
#
# What can be asserted is: if a cell runs, what it asserts is so.

# %%
import importlib.util
import pathlib
import subprocess
import sys

needed = ("fnnet", "matplotlib")  # what this notebook imports
if any(importlib.util.find_spec(name) is None for name in needed):
    checkout = pathlib.Path.cwd().resolve().parent
    source = str(checkout) if (checkout / "pyproject.toml").is_file() else "fnnet"
    pip = [sys.executable, "-m", "pip", "install", "-q", f"{source}[examples]"]
    subprocess.run(pip, check=True)

# %%
import tracemalloc

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from fnnet import mse, norm
from fnnet.measure.memory import compiled_memory, storage

plt.rcParams.update({"figure.dpi": 110, "font.size": 9})
print(f"JAX {jax.__version__}, NumPy {np.__version__}, on {jax.default_backend()}")


def refused(call):
    """The error that `call` raises, in one line; it is a mistake here if there is none."""
    try:
        call()
    except Exception as error:
        print(f"{type(error).__name__}: {str(error).splitlines()[0][:150]}")
    else:
        raise AssertionError("this was expected to fail")


# %% [markdown]
# ## Making arrays
#
# An array is numbers of one kind (its `dtype`) along some axes (its `shape`). NumPy's default is
# 64 bits, JAX's is 32: accelerators are made for that.

# %%
x = jnp.arange(12)
assert (x.shape, x.size, x.dtype) == ((12,), 12, "int32")
assert np.arange(12).dtype == "int64"

m = x.reshape(3, 4)
assert (m == x.reshape(-1, 4)).all(), "-1 stands for whatever is left over"
refused(lambda: x.reshape(-1, 5))

assert jnp.zeros((2, 3, 4)).sum() == 0
assert jnp.ones((2, 3, 4)).sum() == 24
listed = jnp.array([[2.0, 1, 4, 3], [1, 2, 3, 4], [4, 3, 2, 1]])
assert listed.shape == (3, 4), "the outermost list is axis 0"
m

# %% [markdown]
# Random numbers come from a key, which is a value: the same key gives the same numbers, always.
# There is no generator whose state changes behind one's back. A key that has been split or drawn
# from is not used again. (Here one is drawn from twice, to show that nothing changes.)

# %%
key = jax.random.key(0)
a, b, c = jax.random.split(key, 3)
assert (jax.random.normal(a, (3,)) == jax.random.normal(a, (3,))).all()
assert (jax.random.normal(a, (3,)) != jax.random.normal(b, (3,))).all()
draws = jax.random.normal(c, (10_000,))
assert abs(draws.mean()) < 0.05 and abs(draws.std() - 1) < 0.05
print(f"10,000 draws: mean {draws.mean():+.3f}, standard deviation {draws.std():.3f}")

# %% [markdown]
# ## Elementwise arithmetic
#
# An operator acts on the elements that are in the same place, and on no others.

# %%
a, b = jnp.array([10.0, 6, -4]), jnp.array([2.0, 8, 7])
assert (a + b).tolist() == [12, 14, 3]
assert (a < b).tolist() == [False, True, True]
assert (a < b).any() and not (a < b).all()

mean = (a + b).mean()
assert mean.shape == (), "no axes: rank 0"
assert isinstance(mean.item(), float)
print(mean.item())

refused(lambda: jnp.ones((3, 3)) * jnp.ones((2, 3)))

# %% [markdown]
# ## What an array really is
#
# A NumPy array is a row of numbers in memory, the *buffer*, and a way to walk through it: for each
# axis a *stride*, how far the next one along it is: `storage` counts in elements, NumPy's own
# `x.strides` in bytes. To transpose, to slice or to broadcast is to walk otherwise through the same
# buffer. Nothing is copied.

# %%
x = np.arange(12.0, dtype=np.float32).reshape(3, 4)
print(storage(x))
i, j = 2, 1
row_stride, column_stride = storage(x).strides
assert x[i, j] == storage(x).contents[row_stride * i + column_stride * j]
assert x.strides == (row_stride * x.itemsize, column_stride * x.itemsize)

# %%
row = np.array([10.0, 20, 30], np.float32)
views = {
    "x": (x, x),
    "x.T": (x, x.T),
    "x[:, ::2]": (x, x[:, ::2]),
    "broadcast_to(row, (3, 3))": (row, np.broadcast_to(row, (3, 3))),
}
for name, (owner, view) in views.items():
    s = storage(view)
    assert s.shares_with(owner)
    assert s.contents.tolist() == owner.ravel().tolist()
    print(
        f"{name:<26} strides {s.strides!s:<8} shows {view.size:>2} numbers, "
        f"its buffer holds {s.contents.size}"
    )

# %% [markdown]
# The same as a picture. Colours are places in the buffer, which is the strip below each array. The
# broadcast row shows nine numbers and stores three: to go down a row is a step of 0.


# %%
def draw(array_axes, buffer_axes, name, view):
    """A view, coloured by where its numbers lie; below, its buffer."""
    s = storage(view)
    places = np.add.outer(*(np.arange(n) * step for n, step in zip(view.shape, s.strides)))
    for axes, colours, numbers in (
        (array_axes, places + s.offset // s.itemsize, view),
        (buffer_axes, np.arange(s.contents.size)[None], s.contents[None]),
    ):
        axes.imshow(colours, cmap="viridis", vmin=0, vmax=s.contents.size - 1, aspect="equal")
        for place, number in np.ndenumerate(numbers):
            dark = colours[place] < 0.6 * s.contents.size
            axes.text(*place[::-1], f"{number:g}", ha="center", va="center", color="w" if dark else "k")
        axes.set_xticks(range(numbers.shape[1]))
        axes.set_yticks(range(numbers.shape[0]))
    array_axes.set(title=f"{name}\nstrides {s.strides}", xlabel="axis 1", ylabel="axis 0")
    buffer_axes.set(xlabel="place in the buffer (elements)")
    buffer_axes.set_yticks([])


figure, axes = plt.subplots(2, 4, figsize=(13, 4.2), height_ratios=[4, 1], layout="constrained")
for column, (name, (_, view)) in zip(axes.T, views.items()):
    draw(*column, name, view)

# %% [markdown]
# A print shows the elements, not the memory. And a small view keeps its whole buffer alive:

# %%
part = np.arange(1_000_000.0)[:2]
assert part.nbytes == 16
assert storage(part).held == 8_000_000
print(storage(part))

# %% [markdown]
# **JAX arrays have no strides.** Each owns its buffer, on a CPU in row order; a transpose or a
# broadcast that is asked for by itself is written out. They can afford it, as we will see: what is
# compiled together is fused, and the views in between are never made.

# %%
y = jnp.arange(12.0).reshape(3, 4)
for other in (y.T, y[0], jnp.broadcast_to(y, (2, 3, 4))):
    assert not storage(other).shares_with(y)
    assert storage(other).held == other.nbytes
print(storage(y.T))

# %% [markdown]
# ## Broadcasting
#
# Arrays of different shapes can be combined if their shapes fit. The rules, in full:
#
# 1. shapes are laid **right-aligned**; a missing axis counts as size 1;
# 2. two sizes fit if they are equal or one of them is 1;
# 3. along an axis of size 1 the one element serves for all.


# %%
def broadcast_shapes(a, b):
    ndim = max(len(a), len(b))
    a, b = (1,) * (ndim - len(a)) + a, (1,) * (ndim - len(b)) + b
    for m, n in zip(a, b):
        if m != n and 1 not in (m, n):
            raise ValueError(f"{a} and {b} do not fit: {m} against {n}")
    return tuple(n if m == 1 else m for m, n in zip(a, b))


for a, b in [((), (3,)), ((3,), (3, 3)), ((3, 1), (1, 2)), ((256, 256, 3), (3,))]:
    assert broadcast_shapes(a, b) == np.broadcast_shapes(a, b)
    print(f"{a!s:>14} with {b!s:<7} gives {broadcast_shapes(a, b)}")
refused(lambda: broadcast_shapes((2,), (2, 3)))

# %%
m = jnp.arange(1.0, 10).reshape(3, 3)
scaled = (m - 5) / 2.73
assert round(float(scaled[0, 0]), 4) == -1.4652 and round(float(scaled[2, 2]), 4) == 1.4652

c = jnp.array([10.0, 20, 30])
assert (m + c).tolist() == [[11, 22, 33], [14, 25, 36], [17, 28, 39]], "c is added to each row"
column = c[:, None]
assert column.shape == jnp.expand_dims(c, 1).shape == (3, 1)
assert (m + column).tolist() == [[11, 12, 13], [24, 25, 26], [37, 38, 39]], "to each column"
assert (jnp.arange(3)[:, None] + jnp.arange(2)[None]).tolist() == [[0, 1], [1, 2], [2, 3]]
refused(lambda: jnp.ones(2) + jnp.ones((2, 3)))

# %% [markdown]
# ### The mistakes it hides
#
# Dividing each row by its sum: the sum has lost an axis, and the last axes meet. With a square
# matrix that is no error, only wrong.

# %%
a = jnp.arange(20.0).reshape(5, 4)
refused(lambda: a / a.sum(axis=1))
assert jnp.allclose((a / a.sum(axis=1, keepdims=True)).sum(axis=1), 1)

square = jnp.arange(25.0).reshape(5, 5)
wrong = square / square.sum(axis=1)
print("sums of the rows, which should be 1:", wrong.sum(axis=1))
assert not jnp.allclose(wrong.sum(axis=1), 1)

# %% [markdown]
# And the classic: predictions `(n, 1)` minus targets `(n,)` is `(n, n)`, and its mean square a
# plausible number. JAX can be told to refuse missing axes. `fnnet.mse` broadcasts nothing: a last
# axis of size 1 of the predictions is dropped, and all other shapes are refused.

# %%
prediction, target = jnp.arange(4.0)[:, None], jnp.arange(4.0)
assert (prediction - target).shape == (4, 4)
print("the loss of a perfect prediction:", ((prediction - target) ** 2).mean())
assert mse(prediction, target) == 0
refused(lambda: mse(target, prediction))
with jax.numpy_rank_promotion("raise"):
    refused(lambda: prediction - target)
    assert ((prediction - target[:, None]) ** 2).mean() == 0

# %% [markdown]
# ## Does broadcasting cost memory?
#
# The view does not. The result does, whole. Take every difference of 30,000 and 20 vectors of 10
# numbers:

# %%
MIB = 1 << 20
x, y = jnp.ones((30_000, 1, 10)), jnp.ones((20, 10))
before = storage(x).held + storage(y).held
after = before + storage(x - y).held
assert round(before / MIB, 3) == 1.145 and round(after / MIB, 2) == 24.03
print(f"the two arrays: {before / MIB:.3f} MiB; with their difference: {after / MIB:.2f} MiB")

# %% [markdown]
# NumPy computes one operation at a time. In `a[:] = b[:, :, None] - c` the difference is made first,
# as an array of its own, and then copied: twice the memory, though nothing was broadcast in vain.
# With `out=` it is written in place. (The case is from a real question, with 1,192,953 rows: 59 GB
# became 118. Here are 400.)

# %%
n = 400
a, b, c = np.zeros((n, 192, 32)), np.zeros((n, 192)), np.zeros((192, 32))


def numpy_peak(f):
    """The most bytes that NumPy held at once during f, beyond what it held before."""
    tracemalloc.start()
    f()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def assign():
    a[:] = b[:, :, None] - c


with jax.enable_x64(True):
    b_, c_ = jnp.asarray(b)[:, :, None], jnp.asarray(c)[None]
    jax_alone = compiled_memory(jnp.subtract, b_, c_)
    jax_used = compiled_memory(lambda b, c: jnp.sum((b - c) ** 2, axis=1), b_, c_)

beyond = {
    "NumPy\na[:] = b - c": numpy_peak(assign),
    "NumPy\nsubtract(b, c, out=a)": numpy_peak(lambda: np.subtract(b[:, :, None], c, out=a)),
    "JAX\nb - c": jax_alone.temp,
    "JAX\nsum((b - c)²)": jax_used.temp,
}
result = [a.nbytes, a.nbytes, jax_alone.output, jax_used.output]
assert a.nbytes <= beyond["NumPy\na[:] = b - c"] < 1.1 * a.nbytes, "the result, twice"
assert beyond["NumPy\nsubtract(b, c, out=a)"] < a.nbytes / 10
assert jax_alone.temp == 0
assert jax_used.output + jax_used.temp < a.nbytes / 50, "the differences are never written down"

# %%
figure, axes = plt.subplots(figsize=(8, 3.4), layout="constrained")
places = range(len(beyond))
axes.bar(places, [r / MIB for r in result], label="the result", color="#2a78b5")
scratch = [t / MIB for t in beyond.values()]
axes.bar(places, scratch, bottom=[r / MIB for r in result], label="on the way to it", color="#e08a1e")
for place, total in enumerate(np.add([r / MIB for r in result], scratch)):
    axes.text(place, total + 0.4, f"{total:.2f}", ha="center")
axes.set_xticks(places, beyond)
axes.set(ylabel="memory (MiB)", title=f"({n}, 192, 1) minus (192, 32) in float64", ylim=(0, 45))
axes.legend();

# %% [markdown]
# The last bar is what compiling is for. `jit` sees the whole of `sum((b - c)²)`, makes one loop of
# it, and the large array of differences, as well as the broadcast `c`, exists nowhere. In the
# compiled program there is a fusion, and no broadcast beside it:

# %%
row, matrix = jnp.ones(1000), jnp.ones((1000, 1000))


def total(row, matrix):
    return jnp.sum(jnp.broadcast_to(row, matrix.shape) * matrix)


memory = compiled_memory(total, row, matrix)
assert memory.temp < matrix.nbytes / 100
program = jax.jit(total).lower(row, matrix).compile().as_text()
entry = program[program.index("ENTRY") :]
assert "fusion(" in entry and "f32[1000,1000]{1,0} broadcast(" not in entry
print(memory)

# %% [markdown]
# ## Joining, indexing, changing
#
# JAX arrays never change. `.at[].set` gives a new array. With `.at[].add`, an index that comes
# twice is added twice; an index out of bounds is no error, as compiled code cannot raise one: reads
# are held back to the edge, writes are dropped.

# %%
x = jnp.arange(12.0).reshape(3, 4)
y = jnp.array([[2.0, 1, 4, 3], [1, 2, 3, 4], [4, 3, 2, 1]])
assert jnp.concatenate([x, y], axis=0).shape == (6, 4)
assert jnp.concatenate([x, y], axis=1)[0].tolist() == [0, 1, 2, 3, 2, 1, 4, 3]
assert [jnp.stack([x, y], axis=i).shape for i in range(3)] == [(2, 3, 4), (3, 2, 4), (3, 4, 2)]


def assign_item():
    x[1, 2] = 9


refused(assign_item)
z = x.at[1, 2].set(9)
assert (x[1, 2], z[1, 2]) == (6, 9)
assert jnp.zeros(3).at[jnp.array([0, 0, 2])].add(1).tolist() == [2, 0, 1]
assert x[0, 99] == 3 and (x.at[0, 99].set(5) == x).all()

# %% [markdown]
# ### What "in place" means
#
# In NumPy, `y = y + x` makes another array and gives it the old name; `y[:] = y + x` and `y += x`
# write into the old one. The buffer's address tells them apart (Python's `id` tells objects apart,
# not memory).

# %%
x, y = np.ones(3), np.ones(3)
address = storage(y).pointers
y += x
assert storage(y).pointers == address
y = y + x
assert storage(y).pointers != address

# %% [markdown]
# In JAX, an update in place is the compiler's choice, and the caller allows it by **donating** the
# argument: "I will not use this array again, take its memory". Parameters of a training step are
# donated, or they would need their memory twice.

# %%
def update(x):
    return x.at[1].set(9.0)


x = jax.block_until_ready(jnp.zeros(1000) + 0)
address = storage(x).pointers
kept = jax.jit(update)(x)
assert storage(kept).pointers != address and x[1] == 0

given = jax.jit(update, donate_argnums=0)(x)
if jax.default_backend() == "cpu":
    assert storage(given).pointers == address, "the same bytes"
assert x.is_deleted()
refused(lambda: np.asarray(x))

plain = compiled_memory(jax.jit(update), kept)
donated = compiled_memory(jax.jit(update, donate_argnums=0), kept)
assert plain.total == 2 * donated.total == 2 * kept.nbytes
print("without donation\n", plain, "\n\nwith donation\n", donated, sep="")

# %% [markdown]
# ## Sums, products, norms
#
# The axis that is named is the axis that goes.

# %%
a = jnp.arange(24.0).reshape(2, 3, 4)
assert [a.sum(axis=i).shape for i in range(3)] == [(3, 4), (2, 4), (2, 3)]
assert (a.sum(axis=0) == a[0] + a[1]).all()
assert (jnp.arange(20).reshape(5, 4) @ jnp.array([1, 2, 4, 8])).tolist() == [34, 94, 154, 214, 274]

u = jnp.array([3.0, -4.0])
assert (norm(u), norm(u, 1), norm(u, jnp.inf)) == (5, 7, 4)
assert abs(norm(a) - 65.7571) < 1e-4, "of all entries, whatever the shape: Frobenius"

# %% [markdown]
# A norm has a kink at 0: its gradient there is 0/0, unless somebody decides. `fnnet.norm` is derived
# by hand, decides for 0, and squares nothing that would not fit.

# %%
zero = jnp.zeros(3)
assert jnp.isnan(jax.grad(jnp.linalg.norm)(zero)).all()
assert jax.grad(norm)(zero).tolist() == [0, 0, 0]
assert jnp.isfinite(jax.hessian(norm)(zero)).all()
large = jnp.array([3e30, 4e30])
assert jnp.isinf(jnp.linalg.norm(large)) and jnp.isclose(norm(large), 5e30)

# %%
line = jnp.arange(-20, 21) / 20
grid = jnp.stack(jnp.meshgrid(line, line), -1)
figure, axes = plt.subplots(1, 3, figsize=(11, 4.6), layout="constrained", sharey=True)
for axis, ord in zip(axes, (1, 2, jnp.inf)):
    values = norm(grid, ord, -1)
    slopes = jax.grad(lambda x: norm(x, ord, -1).sum())(grid)
    assert jnp.isfinite(slopes).all() and (slopes[20, 20] == 0).all()
    contours = axis.contour(line, line, values, levels=[0.25, 0.5, 0.75, 1], colors="#2a78b5")
    axis.clabel(contours, fmt="%.2f")
    some = slice(2, None, 6)
    arrows = axis.quiver(
        *(np.asarray(v) for v in (line[some], line[some], *jnp.moveaxis(slopes[some, some], -1, 0))),
        color="#e08a1e",
        label="gradient",
    )
    axis.plot(0, 0, "ko", ms=4, label="gradient 0, chosen")
    axis.set(title=f"norm of order {ord}", xlabel="$x_0$", aspect="equal", xticks=[-1, 0, 1])
axes[0].set_ylabel("$x_1$")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2);

# %% [markdown]
# ## To remember
#
# - An array is a buffer and strides; a view is other strides over the same buffer.
# - Shapes meet from the right. A missing `keepdims` or a missing axis is often no error.
# - A broadcast costs nothing; its result does, unless it is compiled together with its use.
# - JAX arrays do not change; donation is how memory is used again.
#
# Tests that say the same at length: `tests/foundations`.
