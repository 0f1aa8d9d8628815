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
# # 10. Many devices
#
# **What it teaches.** How an array lies on several devices; a batch shared out, and weights shared
# out; who adds up the gradient of a weight that every device has a copy of, and when nobody does;
# what hand-written gradients must do about it; how a gradient is taken to a machine that one does
# not have.
#
# **How long it takes.** About 40 minutes to read; it runs in less than a minute on two CPU cores.
# It needs one CPU: the next cell makes eight devices of it.
#
# **What to install.** `fnnet` with the extra `examples`, which brings JAX, NumPy and matplotlib;
# and `flatbuffers`, with which JAX saves an exported program. The second cell does it where one of
# them is missing, on Colab too once fnnet is on the package index.
#
# What can be asserted is: if a cell runs, what it asserts is so.

# %%
# before JAX starts: devices are counted once. If it has, restart the kernel and begin here
import os

os.environ["JAX_PLATFORMS"] = "cpu"
flags = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=8"

# %%
import importlib.util
import pathlib
import subprocess
import sys

needed = ("fnnet", "matplotlib", "flatbuffers")  # what this notebook imports
if any(importlib.util.find_spec(name) is None for name in needed):
    checkout = pathlib.Path.cwd().resolve().parent
    source = str(checkout) if (checkout / "pyproject.toml").is_file() else "fnnet"
    pip = [sys.executable, "-m", "pip", "install", "-q", f"{source}[examples]", "flatbuffers"]
    subprocess.run(pip, check=True)

# %%
import re

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax import export, lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from fnnet import cross_entropy, lin, plain, register, relu
from fnnet.check import check_vjp

assert jax.device_count() == 8, "restart the kernel, and run the first cell before all others"
plt.rcParams.update({"figure.dpi": 110, "font.size": 9})
print(f"JAX {jax.__version__}, {jax.device_count()} devices: {jax.devices()}")


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng([seed, *shape]).normal(size=shape), jnp.float32)


def refused(call):
    """The error that `call` raises, in one line; it is a mistake here if there is none."""
    try:
        call()
    except Exception as error:
        words = re.sub(r" at \S+:\d+", "", str(error).strip().splitlines()[0])  # no paths
        print(f"{type(error).__name__}: {words[:300]}")
    else:
        raise AssertionError("this was expected to fail")


def same(tree, other, near=1e-5):
    """Whether all leaves are equal to rounding, wherever they lie."""
    for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert np.abs(a - b).max() <= near * np.abs(b).max(), np.abs(a - b).max()


# %% [markdown]
# ## Meshes, and how an array lies on them
#
# Eight devices, which here are threads of one CPU: nothing gets faster by it, but programs are the
# same as on eight GPUs. A **mesh** arranges devices along named axes; a `PartitionSpec` names, for
# each axis of an array, the mesh axis along which it is cut. What is not named is copied.

# %%
mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
numbers = np.vectorize(lambda device: device.id)(mesh.devices)
print("data ↓  model →\n", numbers, sep="")


def put(array, *spec, mesh=mesh):
    return jax.device_put(array, NamedSharding(mesh, P(*spec)))


def draw(axis, array, title):
    """Which device holds which part of an array of one or two axes."""
    rows, columns = (*array.shape, 1)[:2]
    blocks = {}
    for device, index in array.sharding.devices_indices_map(array.shape).items():
        row, column = (*index, slice(None))[:2]
        edges = *row.indices(rows)[:2], *column.indices(columns)[:2]
        blocks.setdefault(edges, []).append(device.id)
    for (top, bottom, left, right), held_by in blocks.items():
        shared = len(held_by) == jax.device_count()
        colour = "#d9d9d9" if shared else plt.cm.Set2(min(held_by))
        size = (right - left) / columns, (bottom - top) / rows
        corner = left / columns, 1 - bottom / rows
        axis.add_patch(plt.Rectangle(corner, *size, facecolor=colour, edgecolor="k"))
        words = "all" if shared else " ".join(map(str, sorted(held_by)))
        middle = corner[0] + size[0] / 2, corner[1] + size[1] / 2
        axis.text(*middle, words, ha="center", va="center", fontsize=8)
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=[], yticks=[])
    axis.set_title(title, fontsize=8)
    axis.set_xlabel(f"{columns} columns", fontsize=8)
    axis.set_ylabel(f"{rows} rows", fontsize=8)


a = jnp.arange(64.0).reshape(8, 8)
layouts = {
    'P("data")': put(a, "data"),
    'P(None, "model")': put(a, None, "model"),
    'P("data", "model")': put(a, "data", "model"),
    'P(("data", "model"))': put(a, ("data", "model")),
    "P()": put(a),
}
figure, axes = plt.subplots(1, 5, figsize=(12, 2.7), layout="constrained")
for axis, (name, array) in zip(axes, layouts.items()):
    draw(axis, array, name)
figure.suptitle(
    "an array of 8 × 8 on a mesh of 4 × 2: the devices that hold each part", fontsize=9
);

# %%
parts = {name: array.addressable_shards[0].data.shape for name, array in layouts.items()}
assert list(parts.values()) == [(2, 8), (8, 4), (2, 4), (1, 8), (8, 8)]
for name, array in layouts.items():
    assert (np.asarray(array) == np.asarray(a)).all(), "whole, it is the same array"
    times = sum(shard.data.nbytes for shard in array.addressable_shards) / a.nbytes
    print(f"{name:<22} a device holds {parts[name]!s:<7}, all together {times:.0f} times the array")

# %% [markdown]
# ## A batch shared out
#
# The net of the other notebooks, all of its gradients by hand. **Data parallel**: each device gets
# its share of the batch and all of the weights. One writes nothing else: `jit` sees where the
# arguments lie, and compiles a program for all devices.


# %%
def loss(params, x, y):
    (w1, b1), (w2, b2) = params
    return cross_entropy(lin(relu(lin(x, w1, b1)), w2, b2), y)


params = [
    (normal(32, 128) / 4, 0.1 * normal(128)),
    (normal(128, 10, seed=1) / 8, 0.1 * normal(10)),
]
x, y = normal(64, 32), jnp.asarray(np.random.default_rng(0).integers(10, size=64))

step = jax.jit(jax.value_and_grad(loss))
alone = step(params, x, y)  # on one device
same(alone, jax.value_and_grad(plain(loss))(params, x, y))

shared_batch = (jax.tree.map(put, params), put(x, "data"), put(y, "data"))
together = step(*shared_batch)
same(together, alone)
assert all(g.sharding.is_fully_replicated for g in jax.tree.leaves(together))

# %% [markdown]
# The gradient of a weight is a sum over the batch, $\mathrm{d}w = x^\top g$, and each device has
# seen its own samples only. So the compiler has put in a sum over devices, an *all-reduce*: it
# alone knows that the axis that is summed is the one that is cut. The rule of `lin` says `x.T @ g`,
# nothing more.


# %%
def talk(f, *args):
    """How often the devices talk to each other in the compiled program, by kind."""
    text = jax.jit(f).lower(*args).compile().as_text()
    kinds = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
    count = {kind: len(re.findall(rf" {kind}(?:-start)?\(", text)) for kind in kinds}
    return {kind: n for kind, n in count.items() if n}


gradient = jax.value_and_grad(loss)
assert talk(gradient, params, x, y) == {}, "alone there is nobody to talk to"
print("data parallel:", talk(gradient, *shared_batch))
assert talk(gradient, *shared_batch).keys() == {"all-reduce"}


# %% [markdown]
# ## Weights shared out
#
# A weight that fits on no device is cut. **Tensor parallel**: the first matrix by columns, so that
# each device computes some of the hidden units, for which it needs no other; the second by rows, so
# that it uses just those. What comes out are parts of a sum: one all-reduce for two layers.

# %%
COLUMNS_THEN_ROWS = [(P(None, "model"), P("model")), (P("model", None), P())]


def place(params, specs, mesh=mesh):
    return jax.tree.map(
        lambda p, s: jax.device_put(p, NamedSharding(mesh, s)),
        params,
        specs,
    )


cut_weights = (place(params, COLUMNS_THEN_ROWS), put(x), put(y))
both = (place(params, COLUMNS_THEN_ROWS), put(x, "data"), put(y, "data"))
for name, arguments in {"tensor parallel": cut_weights, "data and tensor": both}.items():
    same(step(*arguments), alone)
    w1 = arguments[0][0][0]
    assert w1.addressable_shards[0].data.nbytes == w1.nbytes / 2
    print(f"{name}: {talk(gradient, *arguments)}")

figure, axes = plt.subplots(2, 4, figsize=(10, 4.6), layout="constrained")
for row, (name, arguments) in zip(
    axes, {"data parallel": shared_batch, "data and tensor": both}.items()
):
    (w1, _), (w2, _) = arguments[0]
    hidden = jax.jit(lambda p, x: relu(lin(x, *p[0])))(*arguments[:2])
    for axis, (what, array) in zip(
        row, {"x": arguments[1], "w1": w1, "hidden": hidden, "w2": w2}.items()
    ):
        draw(axis, array, f"{name}: {what}")

# %% [markdown]
# Where parameters are too large even so, they are cut along the axis of the batch as well, and put
# together just before they are used (an *all-gather*). It is a change of the specs, and of nothing
# else:

# %%
everywhere = [(P(("data", "model")), P("data")), (P(("data", "model")), P())]
fully_cut = (place(params, everywhere), put(x, ("data", "model")), put(y, ("data", "model")))
same(step(*fully_cut), alone)
assert "all-gather" in talk(gradient, *fully_cut)
assert fully_cut[0][0][0].addressable_shards[0].data.nbytes == params[0][0].nbytes / 8
print("all cut:", talk(gradient, *fully_cut))


# %% [markdown]
# ## Explicit axes: sharding in the type
#
# Above the compiler chose how results lie. `jax.make_mesh` by default makes **explicit** axes: how
# an array lies is part of its type, results follow from arguments by rule, and where there are two
# possibilities JAX asks instead of guessing.

# %%
explicit = jax.make_mesh((4, 2), ("data", "model"))
assert explicit.axis_types == (AxisType.Explicit, AxisType.Explicit)


def on_explicit(array, *spec):
    return put(array, *spec, mesh=explicit)


u, w = on_explicit(x, "data"), on_explicit(params[0][0], None, "model")
print(jax.typeof(u), "times", jax.typeof(w), "is", jax.typeof(u @ w))
assert str(jax.typeof(u @ w)) == "float32[64@data,128@model]"

# %% [markdown]
# Here a backward rule from a textbook fails. In $g w^\top$, and in $x^\top g$ too, the axis that is
# summed is cut on both sides: is the result to be summed over devices, or left in parts? Autodiff
# knows the answer, as the gradient must lie as its argument does. So does `register`, and every op
# of fnnet.


# %%
def linear(x, w, b):
    return x @ w + b


def linear_fwd(x, w, b):
    return linear(x, w, b), (x, w)


def linear_bwd(res, g):
    x, w = res
    return g @ w.T, x.T @ g, g.sum(0)


textbook = jax.custom_vjp(linear)
textbook.defvjp(linear_fwd, linear_bwd)
registered = register(linear, linear_fwd, linear_bwd)
b = params[0][1]


def gradients(op):
    return jax.grad(lambda x, w, b: (op(x, w, b) ** 2).mean(), (0, 1, 2))


def lies_as(array, other):
    return array.sharding.is_equivalent_to(other.sharding, array.ndim)


want = gradients(linear)(x, params[0][0], b)
lying = u, w, on_explicit(b, "model")
refused(lambda: jax.jit(gradients(textbook))(*lying))
for op in (linear, registered, lin):
    got = jax.jit(gradients(op))(*lying)
    same(got, want)
    for cotangent, argument in zip(got, lying):
        assert lies_as(cotangent, argument)
print(*(jax.typeof(d) for d in got))

# %% [markdown]
# And the whole net. Its second product is ambiguous already in the forward pass, if both sides are
# cut along the hidden units: JAX asks, and one answers. Here: each device gets all hidden units of
# its samples (`reshard`, an all-gather), and a copy of the second matrix, which is small.


# %%
def explicit_loss(params, x, y):
    first, second = params
    hidden = jax.reshard(relu(lin(x, *first)), P("data", None))
    return cross_entropy(lin(hidden, *second), y)


COLUMNS = [(P(None, "model"), P("model")), (P(), P())]
explicit_both = (
    place(params, COLUMNS, explicit),
    on_explicit(x, "data"),
    on_explicit(y, "data"),
)
ambiguous = place(params, COLUMNS_THEN_ROWS, explicit), *explicit_both[1:]
refused(lambda: step(*ambiguous))
refused(lambda: jax.jit(plain(loss))(*ambiguous))

with jax.set_mesh(explicit):
    value, grads = jax.jit(jax.value_and_grad(explicit_loss))(*explicit_both)
same((value, grads), alone)
for g, p in zip(jax.tree.leaves(grads), jax.tree.leaves(explicit_both[0])):
    assert lies_as(g, p)
for name, g in zip(("dw1", "db1", "dw2", "db2"), jax.tree.leaves(grads)):
    print(name, jax.typeof(g))

# %% [markdown]
# The other answer is Megatron's: let each device multiply its own columns' hidden units by its own
# rows, and add the parts up. That is one all-reduce for two layers, as above; on explicit axes the
# result's sharding is said with `out_sharding`, as for `jnp.matmul`. The gradient follows from it.


# %%
def megatron_loss(params, x, y, linear=lin):
    first, second = params
    hidden = relu(linear(x, *first))
    return cross_entropy(linear(hidden, *second, out_sharding=P("data")), y)


def automatic_linear(x, w, b, out_sharding=None):
    return jnp.matmul(x, w, out_sharding=out_sharding) + b


megatron = jax.value_and_grad(megatron_loss)
automatic = jax.value_and_grad(lambda *a: megatron_loss(*a, linear=automatic_linear))
with jax.set_mesh(explicit):
    same(jax.jit(megatron)(*ambiguous), alone)
    by_hand, by_jax = (talk(f, *ambiguous) for f in (megatron, automatic))
print("column- then row-parallel, by hand:", by_hand)
print("                      by autodiff:", by_jax)
assert "all-gather" not in by_hand


# %% [markdown]
# ## shard_map: what one device does
#
# The third way is to write the program of **one** device, and to say when it talks. Inside
# `jax.shard_map` an array is the device's own part. With `check_vma=True`, the default, its type
# says over which mesh axes its values *vary* from device to device (`V:data`), and forgetting to
# add up is an error.

# %%
line = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
SPECS = (P("data"), P(), P())  # samples shared out, weights and bias copied
w, b = params[0]
seen = []


def my_part(x, w, b):
    seen.extend(str(jax.typeof(v)) for v in (x, w, x @ w))
    return lax.pmean((linear(x, w, b) ** 2).mean(), "data")  # the devices' mean


value = jax.shard_map(my_part, mesh=line, in_specs=SPECS, out_specs=P())(x, w, b)
assert jnp.allclose(value, (linear(x, w, b) ** 2).mean())
assert seen == ["float32[8,32]{V:data}", "float32[32,128]", "float32[8,128]{V:data}"]
print("x, w and x @ w on one device:", *seen, sep="\n    ")


# %% [markdown]
# ## The sum that a copied weight needs
#
# Each device's $x^\top g$ is the share of its own samples. The gradient of the weight, of which all
# have a copy, is the sum over devices: a `psum`. Who puts it in?
#
# - `grad` **of** the mapped function, **unchecked**: `shard_map` itself, as the weight goes in as
#   `P()`, a copy.
# - With `check_vma=True`, outside or inside: autodiff, since the cotangent of a thing that does not
#   vary must not vary; a rule of your own must do it too.
# - `grad` **inside**, unchecked: nobody. Each device gets its own share, and has to add up itself.
#
# First outside: with the check a textbook rule is refused, since its `x.T @ g` varies and `w` does
# not. `register` adds the psum that is missing.


# %%
def outside(op, check_vma):
    def local(x, w, b):
        return lax.pmean((op(x, w, b) ** 2).mean(), "data")

    mapped = jax.shard_map(local, mesh=line, in_specs=SPECS, out_specs=P(), check_vma=check_vma)
    return jax.jit(jax.grad(mapped, (0, 1, 2)))(x, w, b)


refused(lambda: outside(textbook, True))
for check_vma in (True, False):
    for op in (linear, registered, lin):
        same(outside(op, check_vma), want)
same(outside(textbook, False), want)


# %% [markdown]
# Then inside. What each device has as $\mathrm{d}w$, side by side:


# %%
def inside(op, check_vma):
    def local(x, w, b):
        dw = jax.grad(lambda w: (op(x, w, b) ** 2).mean())(w)
        return dw[None]  # a new axis, along which the devices' answers are laid side by side

    specs = {"mesh": line, "in_specs": SPECS, "out_specs": P("data"), "check_vma": check_vma}
    return jax.jit(jax.shard_map(local, **specs))(x, w, b)


checked, unchecked = inside(lin, True), inside(lin, False)
assert checked.shape == (8, 32, 128)
assert all(jnp.array_equal(checked[0], other) for other in checked), "the same on all devices"
same(checked[0] / 8, want[1])  # the sum of 8 means over 8 samples; the mean over all is 1/8 of it
apart = jnp.abs(unchecked[0] - unchecked[1]).max() / jnp.abs(unchecked[0]).max()
assert apart > 0.1, "another one on each device"
same(unchecked.mean(0), want[1])
same([checked, unchecked], [inside(linear, True), inside(linear, False)])  # autodiff does the same

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3.2), sharey=True, layout="constrained")
for axis, (name, each) in zip(
    axes, {"check_vma=True": checked, "check_vma=False": unchecked}.items()
):
    for device in range(8):
        axis.plot(
            range(8),
            each[device, :8, 0],
            "o-",
            ms=3,
            lw=0.8,
            color=plt.cm.Set2(device),
            label=f"device {device}",
        )
    axis.plot(range(8), 8 * want[1][:8, 0], "k_", ms=14, label="sum over devices")
    axis.set(xlabel="element of dw[:, 0]", title=f"grad inside shard_map, {name}")
axes[0].set_ylabel("each device's gradient")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center");

# %% [markdown]
# Unchecked, a forgotten psum is no error, only a wrong gradient: the devices' copies drift apart,
# and what is saved is device 0's. `check_vjp` looks at all copies, if there are several devices:


# %%
def spread(local, out_specs, check_vma=True, in_specs=(P("data"), P())):
    return jax.shard_map(
        local, mesh=line, in_specs=in_specs, out_specs=out_specs, check_vma=check_vma
    )


def product(x, w):
    return spread(jnp.matmul, P("data"))(x, w)


def forgets(res, g):
    shares = (P("data"), P(), P("data"))
    local = lambda x, w, g: (g @ w.T, x.T @ g)
    return spread(local, (P("data"), P()), False, shares)(*res, g)


forgetful = jax.custom_vjp(product)
forgetful.defvjp(lambda x, w: (product(x, w), (x, w)), forgets)
report = check_vjp(forgetful, (normal(16, 6), normal(6, 4)), stop_early=True)
assert (report.verdict, report.diagnosis) == ("wrong", "missing_psum")
print(report.wrong[0].detail)

report = check_vjp(lin, (normal(16, 6), normal(6, 4), normal(4)))
sharded = [finding for finding in report.findings if finding.check.startswith("sharded")]
assert report.verdict == "correct" and sharded
print({finding.check: finding.verdict for finding in sharded})

# %% [markdown]
# ## Training on the mesh
#
# Nothing is left to do: place parameters and batch, and train. On eight devices, batch and weights
# cut, explicit axes; and on one.


# %%
def losses(loss, params, x, y, steps=30):
    @jax.jit
    def update(params, x, y):
        value, grads = jax.value_and_grad(loss)(params, x, y)
        return jax.tree.map(lambda p, g: p - 0.3 * g, params, grads), value

    history = []
    for _ in range(steps):
        params, value = update(params, x, y)
        history.append(float(value))
    return params, history


one = losses(loss, params, x, y)
with jax.set_mesh(explicit):
    many = losses(explicit_loss, *explicit_both)
assert np.allclose(one[1], many[1], rtol=1e-4) and one[1][-1] < 0.5 * one[1][0]
same(many[0], one[0], near=1e-3)
assert many[0][0][0].sharding.spec == P(None, "model"), "and they stay where they were put"

figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
axis.plot(one[1], color="#2a78b5", label="one device")
axis.plot(many[1], "o", ms=4, mfc="none", color="#e08a1e", label="eight devices, 4 × 2")
axis.set(xlabel="iteration", ylabel="loss", title="the same training")
axis.legend();

# %% [markdown]
# ## For devices that are not here
#
# `jax.export` lowers a function for platforms that this machine need not have: the gradient by
# hand, for CPU, CUDA and TPU, as a program that can be saved. Loaded, it needs neither fnnet nor
# its Python; exported with its derivative, it is still differentiated by our rule.

# %%
exported = export.export(step, platforms=["cpu", "cuda", "tpu"])(params, x, y)
assert exported.platforms == ("cpu", "cuda", "tpu")
saved = exported.serialize()
same(export.deserialize(saved).call(params, x, y), alone)
print(f"value and gradient, for {', '.join(exported.platforms)}: {len(saved):,} bytes")

forwards = export.export(jax.jit(registered))(x, w, b).serialize(vjp_order=1)
loaded = export.deserialize(forwards).call
same(gradients(loaded)(x, w, b), want)

# %%
(n,) = export.symbolic_shape("n")
any_batch = export.export(jax.jit(jax.grad(lambda w, x: lin(x, w).sum())))(
    w, jax.ShapeDtypeStruct((n, 32), jnp.float32)
)
for batch in (3, 50):
    got = any_batch.call(w, normal(batch, 32))
    same(got, jnp.repeat(normal(batch, 32).sum(0)[:, None], 128, axis=1))
print("exported once, for any size of the batch")

# %% [markdown]
# ## To remember
#
# - A mesh names devices; a spec says along which of its axes each axis of an array is cut. The
#   program stays the same.
# - The gradient of a copied weight is a sum over devices. Under `jit` the compiler adds it up,
#   under `shard_map` JAX does; unchecked, and differentiated inside, you do.
# - A textbook rule does not know meshes. `register` does, so that rules can stay as in a textbook.
# - Test on eight virtual devices what is to run on eight real ones.
#
# Every op, under each of these: `tests/ops/test_meshes.py`, `tests/ops/test_export.py`. A net
# trained so, with one flag: `examples/mnist.py --mesh data=4,model=2`.
