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
# # 8. Where deriving by hand pays
#
# **What it teaches.** What a backward pass can save that automatic differentiation does not: what
# is stored, what is computed, and where it is summed; how memory is counted exactly and time
# measured honestly; seven gradients by hand beside autodiff's and beside `jax.checkpoint`; where it
# does not pay; how to measure all of it on your own device.
#
# **How long it takes.** About 40 minutes to read; it runs in less than a minute on two CPU cores.
#
# **What to install.** `fnnet` with the extra `examples`, which brings JAX, optax and matplotlib.
# The next cell does it where it is missing, on Colab too once fnnet is on the package index.
#
# Claims about memory are asserted: the compiler counts it, and there is no noise in it. They are
# about XLA's programs for CPUs. Times are measured, printed and drawn; on another machine they are
# others.

# %%
import importlib.util
import pathlib
import subprocess
import sys

needed = ("fnnet", "matplotlib", "optax")  # what this notebook imports
if any(importlib.util.find_spec(name) is None for name in needed):
    checkout = pathlib.Path.cwd().resolve().parent
    source = str(checkout) if (checkout / "pyproject.toml").is_file() else "fnnet"
    pip = [sys.executable, "-m", "pip", "install", "-q", f"{source}[examples]"]
    subprocess.run(pip, check=True)

# %%
import functools
import os
import statistics
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # "cuda" or "tpu": other programs, other claims

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from jax import lax

from fnnet import attention, glu_mlp, layer_norm, lin, linear_cross_entropy, max_pool, ops
from fnnet import plain, register, rnn
from fnnet.check import check_vjp
from fnnet.measure.memory import compiled_memory, residuals
from fnnet.measure.timing import race

plt.rcParams.update({"figure.dpi": 110, "font.size": 9})
MIB = 1 << 20
print(f"JAX {jax.__version__}, on {jax.default_backend()}, {os.cpu_count()} cores")


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng([seed, *shape]).normal(size=shape), jnp.float32)


# %% [markdown]
# ## What there is to save
#
# Automatic differentiation treats every operation by itself: it stores what the operation's own
# rule asks for, and runs the rules backwards. That is right, and never knows that
#
# - a thing stored can be **computed again** from less: a matrix of probabilities from one number a
#   row;
# - terms **cancel or combine** on paper: softmax and logarithm to $p - t$;
# - a sum can be taken **outside of a loop**, as one large product instead of many small ones;
# - **less information** is needed than the operation's arguments hold: of a maximum, which it was.
#
# `jax.checkpoint` does the first of these automatically: as used here, without a policy, it stores
# the inputs and runs the forward pass again. It is the fair comparison for memory, and is beside
# every figure below.
#
# ## How to count memory
#
# `residuals(f, *args)` lists what the forward pass stores for the backward pass, by name. Of a
# softmax, by hand ($z$, which the caller has anyway, and of each row its greatest number, so that
# the probabilities can be made again) and by autodiff:

# %%
z = normal(256, 100)
print("by hand\n", residuals(ops.softmax, z), "\n\nby autodiff\n", sep="")
print(residuals(plain(ops.softmax), z))

# %% [markdown]
# That is what is asked for. What is needed in the end is for the compiler to say, which fuses
# operations and reuses memory: `compiled_memory(f, *args)`, of which `temp` is the scratch memory.
# It runs nothing, and can be asked about sizes that would not fit.


# %%
def backward(f):
    """The value of f and its gradients, for a cotangent g."""

    def run(g, *args):
        out, pull = jax.vjp(f, *args)
        return out, pull(g)

    return run


def temp(f, *args):
    """Scratch memory of value and gradients, in MiB."""
    return compiled_memory(backward(f), jax.eval_shape(f, *args), *args).temp / MIB


huge = jax.ShapeDtypeStruct((100_000, 10_000), jnp.float32)
assert temp(jnp.sin, huge) == 0
print(compiled_memory(backward(jnp.sin), huge, huge))

# %% [markdown]
# ## How to measure time
#
# Three mistakes. The **first call** compiles. A call returns **before the result is there**: one
# has to wait for it. And the machine's speed changes from second to second, by more than the
# difference one is after: so the functions are called **in turns**, and what counts is the median
# of the ratios of neighbours. (`%timeit` in a notebook is fine for the size of a time, with
# `.block_until_ready()`; not for a comparison.)

# %%
f, a = jax.jit(lambda a: a @ a @ a), normal(700, 700)


def seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


first = seconds(lambda: f(a).block_until_ready())
waited = statistics.median(seconds(lambda: f(a).block_until_ready()) for _ in range(9))
promised = []
for _ in range(9):
    promised.append(seconds(lambda: f(a)))
    f(a).block_until_ready()
promised = statistics.median(promised)
assert first > waited
for name, taken in {"the first": first, "a later one": waited, "not waited for": promised}.items():
    print(f"{name:<16}{1e3 * taken:>8.2f} ms")

# %% [markdown]
# `race` does it: rounds in which each function is called in turns, until the ratios are known or
# the time is used up. A function against itself shows what a ratio means here:

# %%
again = jax.jit(lambda a: a @ a @ a)
times = race({"f": lambda: f(a), "the same": lambda: again(a)}, budget_s=0.5)
ratio = times.ratio("f", "the same")
print(f"{ratio.median:.3f}, with 95 % between {ratio.sure_low:.3f} and {ratio.sure_high:.3f}")
assert 0.5 < ratio.median < 2

# %%
results = {}


def contest(name, hand, autodiff, *args, checkpointed=None, budget_s=0.3):
    """Value and gradients by hand, by autodiff and by jax.checkpoint: memory and time."""
    functions = {
        "hand": hand,
        "autodiff": autodiff,
        "checkpoint": checkpointed or jax.checkpoint(autodiff),
    }
    shape = jax.eval_shape(hand, *args)
    g = jnp.asarray(np.random.default_rng(1).normal(size=shape.shape), shape.dtype)
    programs = {n: jax.jit(backward(f)).lower(g, *args).compile() for n, f in functions.items()}
    one, *others = (program(g, *args) for program in programs.values())
    for other in others:
        for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other)):
            assert jnp.abs(x - y).max() <= 1e-4 * jnp.abs(y).max(), "they agree"
    times = race(
        {n: lambda p=p: p(g, *args) for n, p in programs.items()}, budget_s=budget_s, least=7
    )
    results[name] = {
        n: {
            "temp": programs[n].memory_analysis().temp_size_in_bytes / MIB,
            "stored": residuals(f, *args).stored / MIB,
            "seconds": times.time(n).median,
            "ratio": times.ratio("hand", n).median,
        }
        for n, f in functions.items()
    }
    print(f"{name:<24}{'stored':>12}{'scratch':>12}{'time':>12}{'hand / this':>14}")
    for n, r in results[name].items():
        memory = f"{r['stored']:>8.3f} MiB{r['temp']:>8.2f} MiB"
        print(f"    {n:<20}{memory}{1e3 * r['seconds']:>9.2f} ms{r['ratio']:>14.2f}")
    return results[name]


# %% [markdown]
# ## Logits that are never all there
#
# The last layer of a language model has a class for each word. Of 4,096 tokens and 8,192 words the
# logits are 128 MiB, and their gradient as much again; the loss is one number. On paper:
#
# $$L = \frac1n\sum_p\Big(\log\sum_k e^{z_{pk}} - z_{p y_p}\Big),\quad z = x w
# \quad\Rightarrow\quad \frac{\partial L}{\partial z_{pk}} = \frac{P_{pk} - [k = y_p]}{n}$$
#
# For a chunk of tokens that is known as soon as its logits are: the chunk's share of the gradients
# of $x$ and $w$ can be added up **in the forward pass**, and the logits thrown away. The backward
# pass multiplies by $g$. `linear_cross_entropy` does this.


# %%
def all_logits(x, w, labels):
    return optax.losses.softmax_cross_entropy_with_integer_labels(x @ w, labels).mean()


def loss_temp(f, n, c=8192, d=64):
    """Scratch memory of the gradients in x and w, in MiB."""
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((n, d), (d, c))]
    labels = jax.ShapeDtypeStruct((n,), jnp.int32)
    return compiled_memory(jax.grad(f, (0, 1)), *shapes, labels).temp / MIB


tokens = [1024, 2048, 4096]
loss_memory = {
    "by hand": [loss_temp(linear_cross_entropy, n) for n in tokens],
    "by hand, chunk=256": [
        loss_temp(functools.partial(linear_cross_entropy, chunk=256), n) for n in tokens
    ],
    "autodiff of all logits": [loss_temp(all_logits, n) for n in tokens],
}
assert loss_memory["autodiff of all logits"][-1] >= 4096 * 8192 * 4 / MIB == 128
assert loss_memory["by hand"][-1] < 1.1 * loss_memory["by hand"][0]
assert loss_memory["by hand, chunk=256"][-1] < 11

# %%
labels = jnp.asarray(np.random.default_rng(0).integers(8192, size=1024))
found = contest(
    "linear_cross_entropy",
    lambda x, w: linear_cross_entropy(x, w, labels),
    lambda x, w: all_logits(x, w, labels),
    normal(1024, 64),
    normal(64, 8192) / 8,
)
assert found["hand"]["temp"] < 0.7 * found["autodiff"]["temp"]


# %% [markdown]
# ## Attention in blocks
#
# $o_i = \sum_j p_{ij} v_j$ with $p = \mathrm{softmax}(z)$, $z = q k^\top / \sqrt d$ of $d$ features
# a head: for $t$ positions a matrix of $t^2$ numbers for each head, which autodiff stores more than
# once. By hand one number $l_i$ a query is enough, the logarithm of the sum:
# $p_{ij} = e^{z_{ij} - l_i}$ can be made again, block by block. And the one sum over all of $p$
# that softmax's rule needs is known without it:
# $\sum_j p_{ij}\,\partial L/\partial p_{ij} = \sum_j p_{ij}\, g_i\!\cdot\! v_j = g_i\cdot o_i$.


# %%
def whole_attention(q, k, v):
    z = jnp.einsum("nthd,nshd->nhts", q, k) / q.shape[-1] ** 0.5
    return jnp.einsum("nhts,nshe->nthe", jax.nn.softmax(z), v)


positions = [1024, 2048, 4096]


def attention_temp(f, t):
    q = jax.ShapeDtypeStruct((1, t, 2, 32), jnp.float32)
    return temp(f, q, q, q)


attention_memory = {
    "by hand": [attention_temp(attention, t) for t in positions],
    "autodiff of the whole": [attention_temp(whole_attention, t) for t in positions],
}
whole = attention_memory["autodiff of the whole"]
assert whole[-1] > 8 * whole[0], "it grows with the square: four times the positions"
assert attention_memory["by hand"][-1] < 2.5 * attention_memory["by hand"][0]
assert attention_memory["by hand"][-1] < whole[-1] / 30

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
for axis, sizes, memory, words in (
    (axes[0], tokens, loss_memory, ("tokens", "loss over 8,192 classes, 64 features")),
    (axes[1], positions, attention_memory, ("positions", "attention, 2 heads of 32")),
):
    for (name, values), colour in zip(memory.items(), ("#2a78b5", "#7fb3d9", "#e08a1e")[-3:]):
        colour = "#e08a1e" if "autodiff" in name else colour
        axis.loglog(sizes, values, "o-", color=colour, label=name, base=2)
    axis.set(xlabel=words[0], title=words[1], ylabel="scratch memory (MiB)")
    axis.set_xticks(sizes, sizes)
    ticks = [2**i for i in range(2, 10)]
    axis.set_yticks(ticks, ticks)
    axis.legend()

# %%
found = contest(
    "attention", attention, whole_attention, *(normal(1, 1024, 2, 32, seed=i) for i in range(3))
)
assert found["hand"]["temp"] < found["autodiff"]["temp"] / 8


# %% [markdown]
# The checkpoint of all of it stores little and needs the whole matrices in the backward pass all
# the same.
#
# ## What a layer keeps
#
# In a deep net what counts is what every layer **keeps** until its turn comes in the backward pass.
# The gated block of transformers, $y = (\varphi(x w_g) \odot x w_u)\,w_d$, by autodiff and by hand:

# %%
x, gate, up, down = normal(256, 64), normal(64, 192) / 8, normal(64, 192) / 8, normal(192, 64) / 14
print("autodiff\n", residuals(plain(glu_mlp), x, gate, up, down), sep="")
print("\nby hand\n", residuals(glu_mlp, x, gate, up, down), sep="")
assert residuals(glu_mlp, x, gate, up, down).stored == 2 * 256 * 192 * 4, "two of 256 x 192"

# %% [markdown]
# The two products $a = x w_g$ and $u = x w_u$ are kept; $\varphi(a)$, its derivative and
# $\varphi(a) u$ are made again, number by number, which costs next to nothing. Layer norm keeps
# only its input. Eight layers of each, in a loop (`lax.scan`), as in deep nets:


# %%
def deep(op):
    def layers(x, *stacked):
        return lax.scan(lambda x, parameters: (op(x, *parameters), None), x, stacked)[0]

    return layers


stacked = [jnp.stack([w] * 8) for w in (gate, up, down)]
found = contest(
    "glu_mlp, 8 layers",
    deep(glu_mlp),
    deep(plain(glu_mlp)),
    x,
    *stacked,
    checkpointed=deep(jax.checkpoint(plain(glu_mlp))),
)
assert found["hand"]["temp"] < 0.5 * found["autodiff"]["temp"]
assert found["checkpoint"]["temp"] < found["hand"]["temp"], "at the price of the products again"

# %%
found = contest(
    "layer_norm, 8 layers",
    deep(layer_norm),
    deep(plain(layer_norm)),
    normal(256, 256),
    1 + 0.1 * normal(8, 256),
    0.1 * normal(8, 256),
    checkpointed=deep(jax.checkpoint(plain(layer_norm))),
)
inputs, numbers = 8 * 256 * 256 * 4 / MIB, 8 * 256 * 4 * 4 / MIB
assert found["hand"]["stored"] <= inputs + numbers, "the eight inputs, and four numbers a row"
assert found["hand"]["temp"] < 0.5 * found["autodiff"]["temp"]


# %% [markdown]
# ## Computed again, and yet stored
#
# A trap. A rule that computes something again saves memory only if it really is computed *again*.
# In straight-line code the compiler sees the same expression twice, in the forward pass and in the
# backward pass, computes it once, and keeps it: as if there were no rule. In a loop forward and
# backward are two loops, and cannot be merged.
#
# `lax.optimization_barrier` forbids the merger: what went through it is another value, to the
# compiler. The residuals must pass it **together with the cotangent**, or the compiler is free to
# compute again at once, long before it is needed. `jax.checkpoint` does the same.


# %%
def block(x, w1, w2):
    return jnp.tanh(x @ w1) @ w2


def block_fwd(x, w1, w2):
    return block(x, w1, w2), (x, w1, w2)


def block_bwd(res, g):
    x, w1, w2 = res
    h = jnp.tanh(x @ w1)  # again
    da = (g @ w2.T) * (1 - h * h)
    return da @ w1.T, x.T @ da, h.T @ g


def block_bwd_behind_a_barrier(res, g):
    return block_bwd(*lax.optimization_barrier((res, g)))


def straight(op):
    def loss(x, *layers):
        for w1, w2 in layers:
            x = op(x, w1, w2)
        return (x**2).mean()

    return loss


forms = {
    "autodiff": block,
    "computed again": register(block, block_fwd, block_bwd),
    "again, barrier": register(block, block_fwd, block_bwd_behind_a_barrier),
    "jax.checkpoint": jax.checkpoint(block),
}
x, w1, w2 = normal(512, 64), normal(6, 64, 1024) / 8, normal(6, 1024, 64) / 32
layers = list(zip(w1, w2))
grads = [jax.jit(jax.grad(straight(op)))(x, *layers) for op in forms.values()]
for other in grads[1:]:
    assert jnp.abs(grads[0] - other).max() < 1e-5 * jnp.abs(grads[0]).max()
in_line = {n: temp(straight(op), x, *layers) for n, op in forms.items()}
in_loop = {
    n: temp(lambda *a, op=op: (deep(op)(*a) ** 2).mean(), x, w1, w2) for n, op in forms.items()
}

one = 512 * 1024 * 4 / MIB  # what one layer's tanh(x @ w1) is
assert in_line["computed again"] == in_line["autodiff"] > 6 * one, "merged: nothing is saved"
assert in_line["again, barrier"] <= in_line["autodiff"]
assert in_line["again, barrier"] == in_line["jax.checkpoint"], "as JAX does it"
assert in_loop["computed again"] < in_loop["autodiff"] / 3, "in a loop it is saved"
honoured = in_line["again, barrier"] < in_line["autodiff"] / 2
print(
    "this XLA", "keeps the barrier" if honoured else "removes the barrier, that of checkpoint too"
)

# %%
figure, axis = plt.subplots(figsize=(7.5, 3.3), layout="constrained")
places = np.arange(len(forms))
for shift, memory, name, colour in (
    (-0.2, in_line, "straight-line code", "#e08a1e"), (0.2, in_loop, "a loop (scan)", "#2a78b5")
):  # fmt: skip
    bars = axis.bar(places + shift, memory.values(), 0.38, color=colour, label=name)
    axis.bar_label(bars, fmt="%.1f", fontsize=8)
axis.set_xticks(places, forms)
axis.set(
    ylabel="scratch memory (MiB)", title="six layers of tanh(x w1) w2: 512 × 64, 1024 hidden units"
)
axis.legend();

# %% [markdown]
# (XLA for CPUs of JAX 0.10 removes barriers before it merges, so that even a checkpoint in
# straight-line code saves nothing there; that of JAX 0.12 keeps them.) That is why the layers above
# were measured in a loop, and why one should always look at the compiled program.
#
# ## A sum outside of the loop
#
# A recurrent layer, $h_t = \tanh(x_t w_x + h_{t-1} w_h + b)$. Backward, $a_t$ being what is inside
# the tanh, $\partial L/\partial w_h = \sum_t h_{t-1}^\top\, \partial L/\partial a_t$. Autodiff of a
# loop adds this up step by step: 256 small products, and 256 times the whole matrix read and
# written. By hand the loop only leaves $\partial L/\partial a_t$ behind, and the sum over all steps
# is **one** product of long matrices. And of the states, $\tanh' = 1 - h^2$ needs nothing but the
# result.

# %%
steps, sequences, n_in, n_h = 256, 16, 64, 128
found = contest(
    "rnn, 256 steps",
    rnn,
    plain(rnn),
    normal(steps, sequences, n_in),
    jnp.zeros((sequences, n_h)),
    normal(n_in, n_h) / n_in**0.5,
    normal(n_h, n_h) / n_h**0.5,
    jnp.zeros(n_h),
)
assert found["hand"]["stored"] == steps * sequences * n_h * 4 / MIB, "the states, and nothing more"
assert found["hand"]["temp"] < 0.75 * found["autodiff"]["temp"]

# %% [markdown]
# ## One byte for a maximum
#
# Of a window of 2 × 2 pixels the largest goes on. For the backward pass one must know **which** it
# was: two bits, kept in one byte. Autodiff of `lax.reduce_window` keeps the image, and searches it
# again.


# %%
def by_reduce_window(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def pool(x):
    return max_pool(x, 2)


images = normal(32, 28, 28, 16)
assert residuals(pool, images).total == 32 * 14 * 14 * 16, "a byte for each output"
assert residuals(by_reduce_window, images).total >= images.nbytes
found = contest("max_pool, 2 × 2", pool, by_reduce_window, images)
assert found["hand"]["temp"] <= found["autodiff"]["temp"]


# %% [markdown]
# ## One of your own
#
# All squared distances between two sets of points, $d_{ij} = \sum_k (x_{ik} - y_{jk})^2$. As
# written it has three axes; notebook 1 showed that the forward pass never stores them, as `jit`
# fuses the difference with the sum. Autodiff's backward pass does: it wants the differences. On
# paper they vanish:
#
# $$\frac{\partial L}{\partial x_{ik}} = 2\sum_j g_{ij}(x_{ik} - y_{jk})
# = 2\Big(x_{ik}\sum_j g_{ij} - \sum_j g_{ij}\,y_{jk}\Big)$$


# %%
def distances(x, y):
    return ((x[:, None] - y[None]) ** 2).sum(-1)


def distances_bwd(res, g):
    x, y = res
    return 2 * (x * g.sum(1)[:, None] - g @ y), 2 * (y * g.sum(0)[:, None] - g.T @ x)


mine = register(distances, lambda x, y: (distances(x, y), (x, y)), distances_bwd)
assert check_vjp(mine, (normal(5, 3), normal(4, 3, seed=1))).verdict == "correct"

found = contest("distances", mine, distances, normal(1000, 32), normal(500, 32, seed=1))
assert temp(distances, normal(1000, 32), normal(500, 32)) >= 1000 * 500 * 32 * 4 / MIB
assert found["hand"]["temp"] < 1, "nothing of three axes is left"

# %% [markdown]
# ## Where it does not pay
#
# Autodiff's backward pass of a linear layer is the one that everybody derives: the same two
# products. There is nothing to gain, and a hand-written rule has to take care not to lose.

# %%
found = contest("lin", lin, plain(lin), normal(256, 784), normal(784, 256) / 28, normal(256))
assert found["hand"]["stored"] == found["autodiff"]["stored"] == 0
assert found["hand"]["temp"] <= found["autodiff"]["temp"]

# %% [markdown]
# ## All of them
#
# Memory is exact; time is a median of ratios, on this machine, while it did other things too.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained", sharey=True)
places = np.arange(len(results))
for shift, other, colour in ((-0.2, "autodiff", "#e08a1e"), (0.2, "checkpoint", "#8a6bb5")):
    pairs = [(r["hand"]["temp"], r[other]["temp"]) for r in results.values()]
    memory = [h / o if o else 1.0 for h, o in pairs]
    for axis, values in ((left, [r[other]["ratio"] for r in results.values()]), (right, memory)):
        bars = axis.barh(places + shift, values, 0.38, color=colour, label=f"by hand / {other}")
        axis.bar_label(bars, fmt="%.2f", fontsize=7, padding=2)
for axis, what in ((left, "time"), (right, "scratch memory")):
    axis.axvline(1, color="k", lw=0.8)
    axis.set_xlabel(f"{what}: by hand / other (less than 1: by hand is better)")
    axis.margins(x=0.12)
left.set_yticks(places, results)
left.invert_yaxis()
figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2);

# %% [markdown]
# The checkpoint of a whole scanned layer needs less memory than the rule of `glu_mlp`, which keeps
# two products rather than computing them again: that is a choice, and one can put
# `jax.checkpoint` around a hand-written rule as well.

# %%
both = temp(deep(jax.checkpoint(glu_mlp)), normal(256, 64), *stacked)
alone = results["glu_mlp, 8 layers"]
assert both < 0.5 * alone["hand"]["temp"]
print(f"the rule under a checkpoint {both:.2f} MiB, the rule alone {alone['hand']['temp']:.2f} MiB")

# %% [markdown]
# ## On your own device
#
# `python -m fnnet bench` measures every op, in sizes that are worth it, beside autodiff, checkpoint
# and the functions of other libraries, and `python -m fnnet check` asks whether each gradient is
# right, on whatever device JAX finds. `--op` chooses one, `--json` writes the figures, `--plot`
# draws them.


# %%
def command(*words):
    print("$ python -m fnnet", *words, flush=True)
    done = subprocess.run([sys.executable, "-m", "fnnet", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    return done.stdout


said = command("bench", "--op", "mse", "--quick")
assert "by hand" in said and "stored: hand" in said

# %%
said = command("check", "--op", "mse")
assert "correct" in said

# %% [markdown]
# ## To remember
#
# - Ask of a gradient: what is stored, could it be computed from less, does a sum belong outside of
#   the loop, do terms vanish on paper?
# - Count memory with the compiler, and in a loop; measure time in turns, and give the median ratio.
# - Compare with `jax.checkpoint` too: it is one line.
# - Most gradients are not worth it. Those with a large array between small ones are.
#
# At full size, and on both versions of JAX: the tables of `README.md`.
