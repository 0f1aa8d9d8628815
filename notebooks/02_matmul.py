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
# # 2. Matmul, five ways
#
# **What it teaches.** A neuron and a layer, and the product they are made of; the product written
# five ways, from three loops to none, what that is worth and why; how to measure time; what
# `einsum` means; and the product's gradient, derived by hand.
#
# **How long it takes.** About 40 minutes to read; it runs in less than a minute on two CPU cores.
#
# **What to install.** `fnnet` with the extras `examples` and `symbolic`, which bring JAX, NumPy,
# matplotlib and SymPy. The next cell does it where they are missing, on Colab too once fnnet is
# on the package index.
#
# What can be asserted is: if a cell runs, what it asserts is so. Times are printed and drawn, and
# only where they differ by far is their order asserted.

# %%
import importlib.util
import pathlib
import subprocess
import sys

needed = ("fnnet", "matplotlib", "sympy", "threadpoolctl")  # what this notebook imports
if any(importlib.util.find_spec(name) is None for name in needed):
    checkout = pathlib.Path.cwd().resolve().parent
    source = str(checkout) if (checkout / "pyproject.toml").is_file() else "fnnet"
    pip = [sys.executable, "-m", "pip", "install", "-q", f"{source}[examples,symbolic]"]
    subprocess.run(pip, check=True)

# %%
import dis
import itertools
import math
import statistics
import time
import tracemalloc

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from threadpoolctl import threadpool_limits  # comes with scikit-learn

from fnnet import backprop, ladder, lin, matmul, ops, plain, register, relu
from fnnet.measure.memory import compiled_memory, residuals
from fnnet.net.ladder_table import duration
from fnnet.proof.symbolic import prove

plt.rcParams.update({"figure.dpi": 110, "font.size": 9})
BLUE, ORANGE, GREY = "#2a78b5", "#e08a1e", "#9a9a9a"
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
# ## A neuron
#
# A neuron multiplies each input by a weight of its own, adds all of it and a bias, and passes the
# sum through an activation function: $\mathrm{out} = f\left(\sum_i x_i w_i + b\right)$. The usual
# one is **relu**, $\max(x, 0)$.


# %%
def relu_of_one(x):
    return x if x > 0 else 0.0


def neuron(inputs, weights, bias):
    return relu_of_one(sum(x * w for x, w in zip(inputs, weights, strict=True)) + bias)


assert neuron([1.0, 2, 3], [0.5, -1, 2], 0.25) == 4.75
assert neuron([1.0, 2, 3], [-0.5, -1, -2], 0.25) == 0
refused(lambda: relu_of_one(np.array([-2.0, 3])))  # for one number; an array has no truth value
assert relu(jnp.array([-2.0, 0, 3])).tolist() == [0, 0, 3]

# %% [markdown]
# ## A dense layer in plain Python
#
# A dense layer is several neurons with the same inputs: every neuron has a weight for every input.
# With neuron $j$'s weights in column $j$ of $w$, and a sample in each row of $x$,
#
# $$y_{pj} = \sum_i x_{pi} w_{ij} + b_j.$$


# %%
def dense(x, w, b):
    """Lists of lists: x (samples, inputs), w (inputs, neurons), b (neurons)."""
    return [
        [
            sum(p * q for p, q in zip(sample, weights, strict=True)) + bias
            for weights, bias in zip(zip(*w), b, strict=True)
        ]
        for sample in x
    ]


x = [[1.0, 2], [3, 4], [5, 6]]
w = [[1.0, 0.5, 2], [0, -1, 2]]
b = [0.0, 1, -1]
print(dense(x, w, b))
assert [neuron(sample, [row[1] for row in w], b[1]) for sample in x] == [
    relu_of_one(row[1]) for row in dense(x, w, b)
], "a column of the layer is a neuron"

# %% [markdown]
# ### The same as a matrix product
#
# The sum is the matrix product `x @ w`; `b` is added, broadcast over the samples. That is
# `fnnet.lin`.

# %%
X, W, B = jnp.array(x), jnp.array(w), jnp.array(b)
assert (X @ W + B).tolist() == dense(x, w, b) == lin(X, W, B).tolist()
assert relu(lin(X, W, B))[:, 1].tolist() == [neuron(row, W[:, 1].tolist(), b[1]) for row in x]

# %% [markdown]
# ### What transposing does
#
# Some libraries store a neuron's weights as a *row*, so that $w$ is (neurons, inputs), and must
# transpose: `x @ w.T + b`. To transpose a matrix is to swap its axes: rows become columns.

# %%
m = jnp.arange(6).reshape(2, 3)
assert m.T.tolist() == [[0, 3], [1, 4], [2, 5]]
assert (m.T.T == m).all() and m.T[2, 1] == m[1, 2]
rows = W.T  # (neurons, inputs)
assert (X @ rows.T + B == X @ W + B).all()

# %% [markdown]
# ### The hidden size
#
# The **hidden size** is the number of neurons of a layer that is neither input nor output: the
# columns of its weights, and the rows of the next layer's. The data fix the two ends, 784 pixels
# and 10 digits say; what is between is chosen.

# %%
first, second = backprop.init_mlp(jax.random.key(0), (784, 50, 10))
assert first.w.shape == (784, 50) and second.w.shape == (50, 10)

# %% [markdown]
# ## The matrix product, and why inner sizes agree
#
# $c_{ij} = \sum_l a_{il} b_{lj}$: each number of $c$ pairs a row of $a$ with a column of $b$,
# number by number. Hence the **inner sizes** must agree: a row of $a$ is as long as $a$ has
# columns, a column of $b$ as long as $b$ has rows, and a number without a partner has no product.

# %%
a, b = np.arange(20).reshape(5, 4), np.array([1, 2, 4, 8])
assert (a @ b).tolist() == [34, 94, 154, 214, 274], "a matrix times a vector: a column of one"
assert b @ b == 85, "a vector times a vector: one number"

refused(lambda: list(zip(range(4), range(3), strict=True)))
refused(lambda: matmul(jnp.ones((5, 4)), jnp.ones((3, 2))))
refused(lambda: ladder.matmul_loops(jnp.ones((5, 4)), jnp.ones((3, 4))))

# %% [markdown]
# ## How to measure time
#
# In a notebook, `%time f()` takes the time of one run, `%timeit f()` the mean of many, and `%%time`
# on top of a cell the cell's. With JAX three things need care.
#
# 1. **The first call compiles.** It is another thing to measure, once.
# 2. **A result is a promise.** JAX returns before the numbers are there. `jax.block_until_ready`
#    waits for them.
# 3. **A machine has other things to do.** One run says little; the median of several is not moved
#    by the one that was interrupted.


# %%
def seconds(f, *args, runs=15):
    """The median time of f(*args), from the call until its result is there."""
    jax.block_until_ready(f(*args))  # the first call, which compiles
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        jax.block_until_ready(f(*args))
        times.append(time.perf_counter() - start)
    return statistics.median(times)


compilations = 0


@jax.jit
def f(x):
    global compilations
    compilations += 1  # Python runs when the function is traced, and never again
    for _ in range(5):
        x = jnp.tanh(x @ x)
    return x


square = jnp.ones((400, 400))
start = time.perf_counter()
jax.block_until_ready(f(square))
first = time.perf_counter() - start
start = time.perf_counter()
promise = f(square)
returned = time.perf_counter() - start
jax.block_until_ready(promise)
print(f"first call {first * 1e3:.1f} ms, with its compilation")
print(f"a later one {seconds(f, square) * 1e3:.2f} ms; it returned after {returned * 1e3:.2f} ms")
assert compilations == 1

# %% [markdown]
# ## Why plain Python is slow
#
# $(m, k)$ times $(k, n)$ takes $m\,k\,n$ multiplications and as many additions. Python does each of
# them in several instructions of its interpreter: fetch two objects, look up what `*` means for
# their types, make a new object for the product. The number itself is 8 bytes of the 24. A compiled
# loop over an array has the numbers side by side, knows their type before it starts, and does
# several of them in one cycle of the processor.


# %%
def inner(row, column):
    total = 0.0
    for x, y in zip(row, column):
        total += x * y
    return total


loop = list(itertools.dropwhile(lambda i: i.opname != "FOR_ITER", dis.get_instructions(inner)))
end = next(n for n, i in enumerate(loop) if i.opname.startswith("JUMP_BACKWARD"))
steps = [i.opname for i in loop[: end + 1]]
print(f"{len(steps)} instructions for one multiplication and one addition:", ", ".join(steps))
assert len(steps) > 5
assert sys.getsizeof(1.0) == 24 and np.ones(1).itemsize == 8

row, column = np.random.default_rng(0).normal(size=(2, 100_000))
python = seconds(inner, row.tolist(), column.tolist())
compiled = seconds(lambda: (row * column).sum())
each = (f"{t / 1e5 * 1e9:.2f} ns" for t in (python, compiled))
print("a product and a sum:", " in Python, ".join(each), "in NumPy")
assert python > 2 * compiled

# %% [markdown]
# ## Five ways
#
# The ladder: the first four rungs leave three, two, one and none of the loops to Python; the fifth
# is the shortest way to write the fourth. (In `fnnet.ladder` they are written with checks, and so
# that they can be compiled and differentiated; here is the heart of them.)


# %%
def loops(a, b):
    c = np.zeros((len(a), len(b[0])))
    for i in range(len(a)):
        for j in range(len(b[0])):
            for l in range(len(b)):
                c[i, j] += a[i, l] * b[l, j]
    return c


def row_times_column(a, b):
    return np.array([[(row * column).sum() for column in b.T] for row in a])


def broadcast(a, b):
    return np.array([(row[:, None] * b).sum(axis=0) for row in a])


def by_einsum(a, b):
    return np.einsum("il,lj->ij", a, b)


def operator(a, b):
    return a @ b


ways = dict(zip(ladder.RUNGS, (loops, row_times_column, broadcast, by_einsum, operator)))
random = np.random.default_rng(1)
a, b = random.normal(size=(5, 784)), random.normal(size=(784, 10))
for rung, own in ways.items():
    assert np.allclose(own(a, b), a @ b, rtol=1e-12, atol=1e-12)
    assert np.allclose(rung.plain(a, b), a @ b, rtol=1e-4, atol=1e-4)  # JAX: float32
    print(f"{rung.name:<17} {seconds(own, a, b, runs=3) * 1e3:9.3f} ms")

# %% [markdown]
# What one operation does, orange, on each rung. $a$ is on the left, $b$ above, $c$ where they meet:

# %%
m, k, n = 4, 5, 3
i, j, l = 1, 1, 2
all_of = slice(None)
covered = [
    ("loops", "one product,\nadded to one sum", (i, l), (l, j), (i, j), m * k * n),
    ("row times column", "k products,\nsummed", (i, all_of), (all_of, j), (i, j), m * n),
    ("broadcast", "k n products: a row of a,\nfor each column of b", (i, all_of),
     (all_of, all_of), (i, all_of), m),
    ("einsum and @", "all of it", *[(all_of, all_of)] * 3, 1),
]
figure, panels = plt.subplots(1, 4, figsize=(12.5, 4), layout="constrained")
for axes, (name, what, in_a, in_b, in_c, times) in zip(panels, covered):
    for label, rows, columns, place, part in (
        ("a", m, k, (0, k + 1), in_a),
        ("b", k, n, (k + 1, 0), in_b),
        ("c", m, n, (k + 1, k + 1), in_c),
    ):
        cells = np.zeros((rows, columns))
        cells[part] = 1
        for (r, c), hit in np.ndenumerate(cells):
            face = ORANGE if hit else "#e9eef3"
            axes.add_patch(plt.Rectangle((place[0] + c, place[1] + r), 1, 1, fc=face, ec="w", lw=2))
        axes.text(place[0] + columns / 2, place[1] - 0.35, label, ha="center", style="italic")
    axes.set(xlim=(-0.2, k + n + 1.2), ylim=(k + m + 1.2, -0.9), aspect="equal")
    axes.set_title(f"{name}\n{what}\ntimes {times}", fontsize=9)
    axes.axis("off")

# %% [markdown]
# ### How elementwise arithmetic speeds up the product
#
# `row * column` multiplies $k$ pairs of numbers in one operation of the array library. Python's
# innermost loop, its $k$ turns and their bookkeeping, is gone: of $m\,k\,n$ steps that Python
# takes, $m\,n$ are left. Nothing less is multiplied; less is *interpreted*. The interpreter can be
# asked to count:


# %%
def instructions(f, *args):
    """How many of the interpreter's instructions a call takes, NumPy's own Python included."""
    count = 0

    def follow(frame, event, argument):
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return follow

    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # Python 3.12 looks for this in the caller
    sys.settrace(follow)
    try:
        f(*args)
    finally:
        sys.settrace(before)
    return count


counts = {own.__name__: instructions(own, a, b) for own in ways.values()}
for name, count in counts.items():
    print(f"{name:<17}{count:>11,} instructions")
assert counts["loops"] > 10 * 5 * 784 * 10
assert counts["row_times_column"] < counts["loops"] / 100
assert counts["operator"] < counts["broadcast"] < counts["row_times_column"]

# %% [markdown]
# ### Why not broadcast everything?
#
# The last loop could go too: `(a[:, :, None] * b).sum(axis=1)`. NumPy then makes all $m\,k\,n$
# products, writes them to memory and reads them again to add them up. Compiled as a whole, the same
# text makes none of them: multiplication and sum become one loop.

# %%
def all_at_once(a, b):
    return (a[:, :, None] * b).sum(axis=1)


a, b = random.normal(size=(100, 200)), random.normal(size=(200, 100))
assert np.allclose(all_at_once(a, b), a @ b)
tracemalloc.start()
all_at_once(a, b)
peak = tracemalloc.get_traced_memory()[1]
tracemalloc.stop()
memory = compiled_memory(all_at_once, *(jnp.asarray(v, "float32") for v in (a, b)))
products = 100 * 200 * 100
print(f"{products:,} products: NumPy needs {peak:,} bytes on the way, XLA {memory.temp}")
assert peak >= 8 * products
if jax.default_backend() == "cpu":  # another compiler may plan otherwise
    assert memory.temp < 4 * products / 20

# %% [markdown]
# ## Compiled, and mapped
#
# Each rung has three forms: as it is written; compiled by `jax.jit`; and mapped over a leading axis
# by `jax.vmap`, and compiled, for many products at once. All fifteen give the same product.

# %%
a = jax.random.normal(jax.random.key(0), (5, 784))
b = jax.random.normal(jax.random.key(1), (784, 10))
for rung in ladder.RUNGS:
    for name, product in (
        ("plain", rung.plain(a, b)),
        ("jit", rung.jit(a, b)),
        ("vmap", rung.vmap(jnp.stack([a, 2 * a]), jnp.stack([b, b]))[1] / 2),
    ):
        assert jnp.allclose(product, a @ b, rtol=1e-4, atol=1e-4), (rung.name, name)

# %% [markdown]
# ## The ladder, timed
#
# At the size of five images and ten digits, and for a large square matrix; each beside NumPy. Where
# a rung would take too long, a few rows are timed and scaled up, or it is left out; the table says
# so. (`python -m fnnet ladder` does the same on your device, at any size.)

# %%
tables = []
for m, k, n in ((5, 784, 10), (512, 512, 512)):
    a = jax.random.normal(jax.random.key(0), (m, k))
    b = jax.random.normal(jax.random.key(1), (k, n))
    tables.append(ladder.time_ladder(a, b, budget_s=0.1))
    print(tables[-1], end="\n\n")

# %%
figure, panels = plt.subplots(1, 2, figsize=(13, 4.6), layout="constrained")
colours = {"plain": GREY, "jit": BLUE, "vmap": ORANGE}
labels = {"plain": "as written", "jit": "jit", "vmap": "jit of vmap, per product"}
for axes, table in zip(panels, tables):
    names = list(dict.fromkeys(row.rung for row in table.rows))
    for row in table.rows:
        offset = 0 if row.rung == "numpy @" else {"plain": -0.27, "jit": 0, "vmap": 0.27}[row.form]
        place = names.index(row.rung) + offset
        if row.seconds is None:
            axes.text(place, 2e-6, "left out", rotation=90, ha="center", fontsize=7)
            continue
        axes.bar(place, row.seconds, width=0.25, color=colours[row.form])
        text = duration(row.seconds)
        axes.text(place, row.seconds * 1.15, text, rotation=90, ha="center", fontsize=7)
    axes.set_xticks(range(len(names)), [name.replace("matmul_", "") for name in names])
    low, high = (f(row.seconds for row in table.rows if row.seconds) for f in (min, max))
    axes.set(yscale="log", ylim=(low / 3, high * 30), ylabel="time of one product (s)")
    axes.set_title(table.title.split(", on")[0])
for form, label in labels.items():
    panels[1].bar(0, 0, color=colours[form], label=label)
panels[1].legend(fontsize=8)
figure.suptitle("Five ways to the same product");

# %%
small, large = ({(row.rung, row.form): row.seconds for row in table.rows} for table in tables)
assert small["matmul_loops", "plain"] > 10 * small["numpy @", "plain"]
assert large["matmul_broadcast", "plain"] > 10 * large["matmul_operator", "jit"]
flops = 2 * 512**3 / large["matmul_operator", "jit"]
print(f"the large product: {flops / 1e9:.0f} billion operations a second")

large_a, large_b = np.asarray(a), np.asarray(b)
with threadpool_limits(1):
    alone = seconds(np.matmul, large_a, large_b, runs=5)
shared = seconds(np.matmul, large_a, large_b, runs=5)
print(f"NumPy's @ on one thread {duration(alone)}, on as many as it likes {duration(shared)}")

# %% [markdown]
# What to read from it:
#
# * *As written*, time goes with the number of steps that are interpreted. JAX's cost more than
#   NumPy's: each is sent to a device and checked, which takes microseconds. The ladder's first rung
#   turns its arrays into Python's own numbers first; the second makes several JAX calls for each of
#   the small product's 50 results, and these take more than Python's own multiplications. JAX is
#   not made for many small steps.
# * *Compiled*, the loops are no longer Python's, and most of the ladder is climbed at once. But a
#   compiler translates the loop it is given. Loops over single elements stay loops.
# * `einsum` and `@` are the same program: both name the *product*, and for that there is code that
#   knows the processor, works in blocks that stay in the cache, and uses all its units. No text of
#   loops becomes that.
# * NumPy's `@` is such code too. Its threads wait for one another without sleeping, so where other
#   processes want the same cores it may be far slower with several threads than with one: look at
#   the last line above before you believe its bar.
# * For the small product all of the last bars are overhead, the time of a call. `vmap` shares it:
#   one call, many products.
#
# ## What einsum means
#
# The product's formula is $c_{ij} = \sum_l a_{il} b_{lj}$. `einsum("il,lj->ij", a, b)` is that
# formula without its signs. All of `einsum` is one loop over all letters:


# %%
def einsum_by_loops(subscripts, *operands):
    """For every value of every letter: multiply what is there, add it where the result says."""
    terms, result = subscripts.split("->")
    terms = terms.split(",")
    sizes = {c: n for term, x in zip(terms, operands) for c, n in zip(term, x.shape)}
    out = np.zeros([sizes[c] for c in result])
    for values in itertools.product(*map(range, sizes.values())):
        at = dict(zip(sizes, values))
        product = math.prod(x[tuple(at[c] for c in term)] for term, x in zip(terms, operands))
        out[tuple(at[c] for c in result)] += product
    return out


specs = {
    "ik,kj->ij": "the matrix product",
    "ij,jk->ki": "the same, transposed",
    "ij,jk->ijk": "its terms, before the sum",
    "i,ij->ij": "each row times its number",
    "i,ij->i": "the same, then each row summed",
    "i,ij->": "the same, then all summed",
    "i,j->ij": "every product of two vectors",
    "i,i->i": "elementwise: repeated, and not summed",
    "i,i->": "the product of two vectors, summed",
    "i,i,i->": "three factors, by the same rule as two",
    "ij->ji": "the transpose",
    "ij->j": "the sum of each column",
    "ii->i": "the diagonal",
    "ii->": "the trace",
    "bij,bjk->bik": "a product for each b",
}
SIZES = dict(i=3, j=3, k=4, b=2)
for spec, what in specs.items():
    terms = spec.split("->")[0].split(",")
    operands = [random.normal(size=[SIZES[c] for c in term]) for term in terms]
    wanted = einsum_by_loops(spec, *operands)
    assert np.allclose(np.einsum(spec, *operands), wanted)
    assert jnp.allclose(jnp.einsum(spec, *map(jnp.asarray, operands)), wanted, rtol=1e-4, atol=1e-5)
    print(f"{spec:<14} {what}")

# %%
a, b = jnp.arange(9.0).reshape(3, 3), jnp.arange(15.0).reshape(3, 5)
product = jnp.einsum("ik,kj->ij", a, b)
assert product.tolist() == (a @ b).tolist() and product[0].tolist() == [25, 28, 31, 34, 37]
assert jnp.einsum("ij,jk->ki", a, b).tolist() == (a @ b).T.tolist()

v, m = jnp.array([1.0, 10]), jnp.arange(6.0).reshape(2, 3)
assert jnp.einsum("i,ij->ij", v, m).tolist() == [[0, 1, 2], [30, 40, 50]]
assert jnp.einsum("i,ij->i", v, m).tolist() == [3, 120]
assert jnp.einsum("i,ij->", v, m) == 123

# %% [markdown]
# ### What a repeated letter means
#
# Axes with the same letter **run together**: they are multiplied where their indices are equal, and
# so must have the same size. That alone is no sum. In `i,i->i` the letter is repeated and kept, in
# `ij->j` it is not repeated and summed. What decides is the *result*: **a letter that the result
# lacks is summed.**
#
# ### The three rules
#
# On paper, with Einstein's convention and no arrow, three rules are often given:
#
# 1. A letter that is repeated in a term is summed over, without a $\sum$.
# 2. A letter stands at most twice in a term.
# 3. Every term of an equation has the same letters that are not repeated.
#
# They make $a_{il} b_{lj}$ say all of the formula. `einsum` is more liberal, because its arrow says
# what is to be kept, and only without an arrow does it use rule 1. Its own three are:
#
# 1. One letter, one size.
# 2. The result's letters are among those of the operands, each once.
# 3. A letter that the result lacks is summed.

# %%
a, b = jnp.asarray(random.normal(size=(2, 3))), jnp.asarray(random.normal(size=(3, 4)))
assert jnp.allclose(jnp.einsum("il,lj", a, b), a @ b), "no arrow: as on paper"
assert jnp.allclose(jnp.einsum("kj,ji", a, b), (a @ b).T), "what is kept, in alphabetical order"
refused(lambda: jnp.einsum("ij,jk->ik", a, a))  # one letter, two sizes
refused(lambda: jnp.einsum("ij->k", a))  # a letter of the result that no operand has
refused(lambda: jnp.einsum("ij->ii", a))  # a letter twice in the result
refused(lambda: jnp.einsum("ijk->i", a))  # more letters than axes

# %% [markdown]
# ## The gradient of the product
#
# Now with batches: $c_{pij} = \sum_k a_{pik} b_{pkj}$, a product for each $p$. Let $g_{pij} =
# \partial l/\partial c_{pij}$ for some loss $l$. Which results does $a_{pik}$ enter, and with what
# factor? All of its row, $c_{pij}$ for every $j$, with $b_{pkj}$. And $b_{pkj}$ enters all of its
# column, $c_{pij}$ for every $i$, with $a_{pik}$. By the chain rule
#
# $$\frac{\partial l}{\partial a_{pik}} = \sum_j g_{pij}\, b_{pkj}, \qquad
# \frac{\partial l}{\partial b_{pkj}} = \sum_i a_{pik}\, g_{pij}.$$
#
# Both are einsums, and the letters can be read off: the result's and the other factor's go in, the
# argument's own come out.


# %%
def product_fwd(a, b):
    return jnp.einsum("pik,pkj->pij", a, b), (a, b)


def product_bwd(kept, g):
    a, b = kept
    return jnp.einsum("pij,pkj->pik", g, b), jnp.einsum("pij,pik->pkj", g, a)


batched = register(lambda a, b: product_fwd(a, b)[0], product_fwd, product_bwd, name="batched")


def loss(product):
    return lambda a, b: jnp.sin(product(a, b)).sum()


keys = jax.random.split(jax.random.key(2))
a, b = jax.random.normal(keys[0], (7, 5, 3)), jax.random.normal(keys[1], (7, 3, 4))
by_hand = jax.grad(loss(batched), (0, 1))(a, b)
automatic = jax.grad(loss(jnp.matmul), (0, 1))(a, b)
for own, other in zip(by_hand, automatic):
    assert own.shape == other.shape and jnp.allclose(own, other, rtol=1e-4, atol=1e-5)

# %% [markdown]
# ### A batch axis that is shared
#
# If $b$ has no $p$, one matrix for the whole batch, as a layer's weights are, then $b_{kj}$ enters
# the products of *every* $p$, and its gradient is the sum over them as well. The notation knows:
# the letter is missing from $b$'s term, so it is summed, `pij,pik->kj`. That is the whole
# difference, and the one that is forgotten. `fnnet.matmul` has it for all batch axes, those of size
# 1 too.

# %%
shared = b[0]
out, kept = ops.matmul_fwd(a, shared)
g = jnp.cos(out)
da, db = ops.matmul_bwd(kept, g)
assert jnp.allclose(da, jnp.einsum("pij,kj->pik", g, shared), rtol=1e-4, atol=1e-5)
assert jnp.allclose(db, jnp.einsum("pij,pik->kj", g, a), rtol=1e-4, atol=1e-5)
automatic = jax.grad(loss(plain(matmul)), (0, 1))(a, shared)
assert all(jnp.allclose(u, v, rtol=1e-4, atol=1e-5) for u, v in zip((da, db), automatic))
assert db.shape == (3, 4)

proof = prove("matmul")
print(proof)
assert proof.exact
print("proved for", ", ".join(f"{s['a']} @ {s['b']}" for s in proof.shapes))

# %% [markdown]
# What must be kept are $a$ and $b$, which the caller has anyway; the result is not needed. And each
# of the two gradients is a product of the same three sizes: forward and backward take three times
# what forward takes.

# %%
kept = residuals(matmul, a, shared)
print(kept)
assert kept.stored == 0 and kept.given == a.nbytes + shared.nbytes


def operations(f, *args):
    return jax.jit(f).lower(*args).compile().cost_analysis().get("flops", 0.0)


def forward_and_backward(a, b, g):
    c, vjp = jax.vjp(matmul, a, b)
    return c, vjp(g)


big = jnp.ones((200, 200))
forward, both = operations(matmul, big, big), operations(forward_and_backward, big, big, big)
print(f"operations: {forward:,.0f} forward, {both:,.0f} forward and backward")
if jax.default_backend() == "cpu":  # elsewhere a product may be a call, which is not counted
    assert abs(both / forward - 3) < 0.05

# %% [markdown]
# ### The gradient of an einsum
#
# The argument did not use that it was a product of matrices. For every operand: the result's term
# and all the other operands' go in, its own comes out. Two cases are left. A letter that this
# operand alone has, and the result lacks, as $i$ in `ij->j`: every element along it does the same,
# so the gradient is repeated along it; a factor of ones supplies the letter. And a letter twice in
# one operand, as in the trace: the gradient lies on the diagonal, which no einsum writes; it is
# left out here.


# %%
def einsum_vjp(subscripts, operands, g):
    terms, result = subscripts.split("->")
    terms = terms.split(",")
    cotangents = []
    for n, (term, x) in enumerate(zip(terms, operands)):
        others = [(t, y) for m, (t, y) in enumerate(zip(terms, operands)) if m != n]
        known = set(result).union(*(t for t, _ in others))
        alone = [(c, jnp.ones(size)) for c, size in zip(term, x.shape) if c not in known]
        inputs = [(result, g), *others, *alone]
        spec = ",".join(t for t, _ in inputs) + "->" + term
        cotangents.append(jnp.einsum(spec, *(y for _, y in inputs)))
    return tuple(cotangents)


some = "ij,jk->ki  i,ij->i  i,ij->ij  i,ij->  ij->j  i,j->ij  i,i,i->  bij,bjk->bik"
for spec in some.split():
    terms = spec.split("->")[0].split(",")
    operands = [jnp.asarray(random.normal(size=[SIZES[c] for c in term])) for term in terms]
    out, vjp = jax.vjp(lambda *xs: jnp.einsum(spec, *xs), *operands)
    g = jnp.cos(1 + out)
    for own, other in zip(einsum_vjp(spec, operands, g), vjp(g), strict=True):
        assert own.shape == other.shape and jnp.allclose(own, other, rtol=1e-4, atol=1e-5)
    print(f"{spec:<14} equal to jax.vjp")
refused(lambda: einsum_vjp("ii->i", [jnp.ones((3, 3))], jnp.ones(3)))

# %% [markdown]
# ## To remember
#
# - A layer is a matrix product and a bias; a product pairs rows with columns.
# - What is slow is interpreting, not multiplying: hand whole arrays to the machine, and name the
#   product where it is one.
# - Time: after the first call, until the result is there, the median of several.
# - `einsum`: same letter, same index; what the result lacks is summed; and its gradient is an
#   einsum with the letters in other places.
#
# Tests that say the same at length: `tests/foundations/test_einsum.py`, `tests/net/test_ladder.py`.
