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
# # 3. A layer, its initialisation, and fifty of them
#
# **What it teaches.** What a layer does to the scale of the numbers that pass it, and what fifty
# layers make of that; the standard deviation that first weights must have, with and without relu,
# derived and measured; why weights must not start equal; and what else keeps a deep net alive.
#
# **How long it takes.** About 40 minutes to read; it runs in less than a minute on two CPU cores.
#
# **What to install.** `fnnet` with the extras `examples` and `symbolic`, which bring JAX, NumPy,
# matplotlib and SymPy. The next cell does it where they are missing, on Colab too once fnnet is
# on the package index.
#
# What can be asserted is: if a cell runs, what it asserts is so. What is random is compared with
# theory, over several keys and within bands.

# %%
import importlib.util
import pathlib
import subprocess
import sys

needed = ("fnnet", "matplotlib", "sympy")  # what this notebook imports
if any(importlib.util.find_spec(name) is None for name in needed):
    checkout = pathlib.Path.cwd().resolve().parent
    source = str(checkout) if (checkout / "pyproject.toml").is_file() else "fnnet"
    pip = [sys.executable, "-m", "pip", "install", "-q", f"{source}[examples,symbolic]"]
    subprocess.run(pip, check=True)

# %%
import math
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import sympy

from fnnet import backprop, init, layer_norm, lin, mse, norm, relu

plt.rcParams.update({"figure.dpi": 110, "font.size": 9})
BLUE, ORANGE, GREEN, RED, GREY = "#2a78b5", "#d9730d", "#3d9a5f", "#c23b3b", "#8a8a8a"
print(f"JAX {jax.__version__}, NumPy {np.__version__}, on {jax.default_backend()}")


def near(measured, theory, band):
    """Whether the two agree, within this part of the theory."""
    return bool(np.all(np.abs(np.asarray(measured) / theory - 1) < band))


# %% [markdown]
# ## What a layer does to the scale
#
# One result of a linear layer is a sum over its $n$ inputs, $z_j = \sum_i x_i w_{ij}$. Let the
# weights be drawn independently with mean 0 and standard deviation $s$. In $E[z_j^2]$ every mixed
# term $x_i x_k\,E[w_{ij} w_{kj}]$ is 0, and what is left is
#
# $$E[z_j^2] = \sum_i E[x_i^2]\,E[w_{ij}^2] = n\,s^2\,E[x^2].$$
#
# So a layer multiplies the scale by $s\sqrt n$: by 10, if 100 inputs meet weights of $N(0, 1)$. It
# does not matter how $x$ is distributed; only its mean square counts.

# %%
kx, kw = jax.random.split(jax.random.key(0))
x, w = jax.random.normal(kx, (2000, 100)), jax.random.normal(kw, (100, 100))
z = lin(x, w)
print(f"weights of deviation 1: mean {z.mean():+.3f}, deviation {z.std():.2f}; theory 0 and 10")
assert abs(z.mean()) < 0.3 and near(z.std(), 10, 0.05)

# %%
inputs, random = [10, 30, 100, 300, 1000, 3000], np.random.default_rng(0)
figure, axes = plt.subplots(figsize=(5.6, 3.6), layout="constrained")
for s, colour in ((1.0, RED), (0.1, BLUE), (0.01, ORANGE)):
    measured = []
    for n in inputs:
        z = random.normal(0, 1, (200, n)) @ random.normal(0, s, (n, 200))
        measured.append(z.std())
    theory = s * np.sqrt(inputs)
    assert near(measured, theory, 0.15)
    axes.loglog(inputs, theory, color=colour)
    axes.loglog(inputs, measured, "o", color=colour, label=f"weights of deviation {s}")
axes.plot([], [], "k-", label=r"theory, $s\sqrt{n}$")
axes.axhline(1, color=GREY, lw=0.8, ls=":")
axes.set(xlabel="inputs, n", ylabel="deviation of the layer's result", ylim=(0.02, 5000))
axes.set_title("One layer, inputs of deviation 1")
axes.legend();

# %% [markdown]
# ### The formula
#
# The scale stays as it is at $s^2 = 1/n$. Backward the same argument holds with the roles changed:
# $\partial l/\partial x_i = \sum_j g_j w_{ij}$ is a sum over the $m$ *outputs*, so the gradient's
# scale stays at $s^2 = 1/m$. Both at once cannot be had unless $n = m$. The names:
#
# | initialiser | $s^2$ | for |
# |---|---|---|
# | `init.lecun_normal` | $1/n$ | a plain linear layer, forward |
# | `init.xavier_normal` | $2/(n + m)$ | between forward and backward (Glorot and Bengio) |
# | `init.kaiming_normal` | $2/n$ | a layer followed by relu (He and others), see below |
#
# Introductions often call $1/n$ "Xavier". For square matrices the two agree. For a layer from 784
# to 50 they do not:

# %%
n, m = 784, 50
keys = jax.random.split(jax.random.key(1), 3)
x, g = jax.random.normal(keys[0], (500, n)), jax.random.normal(keys[1], (500, m))
print(f"{'784 to 50':<16}{'s':>8}{'forward':>10}{'theory':>10}{'backward':>10}{'theory':>10}")
for name, variance in (("lecun", 1 / n), ("xavier", 2 / (n + m)), ("kaiming", 2 / n)):
    for law in ("normal", "uniform") if name != "lecun" else ("normal",):
        w = getattr(init, f"{name}_{law}")(keys[2], (n, m))
        z, back = jax.vjp(lambda x: lin(x, w), x)
        row = w.std(), z.std(), (n * variance) ** 0.5, back(g)[0].std(), (m * variance) ** 0.5
        print(f"{name + '_' + law:<16}{row[0]:8.4f}" + "".join(f"{v:>10.3f}" for v in row[1:]))
        assert near(row[0], variance**0.5, 0.03)
        assert near(row[1], row[2], 0.05) and near(row[3], row[4], 0.05)

# %% [markdown]
# The shape of the distribution does not enter the derivation, only its variance: the uniform ones
# draw from $\pm\sqrt3\,s$ and do the same.
#
# ## What relu does to it
#
# relu throws the negative half away. If $z$ is normal with mean 0 and deviation $\sigma$, the mean
# of $\mathrm{relu}(z)$ is no longer 0, and its mean square is half of $z$'s. SymPy does the
# integrals:

# %%
t, sigma = sympy.symbols("z sigma", positive=True)
density = sympy.exp(-(t**2) / (2 * sigma**2)) / (sigma * sympy.sqrt(2 * sympy.pi))
mean = sympy.simplify(sympy.integrate(t * density, (t, 0, sympy.oo)))
square = sympy.simplify(sympy.integrate(t**2 * density, (t, 0, sympy.oo)))
assert sympy.simplify(mean - sigma / sympy.sqrt(2 * sympy.pi)) == 0
assert sympy.simplify(square - sigma**2 / 2) == 0
print("mean        ", mean)
print("mean square ", square)
print("deviation   ", sympy.simplify(sympy.sqrt(square - mean**2)))

# %% [markdown]
# With inputs of deviation 1 and weights of $s^2 = 1/n$, $z$ has deviation 1, and relu's result the
# mean 0.3989 and the deviation 0.5838. To keep the mean square at 1, the weights must make up for
# the half: $s^2 = 2/n$. Then mean and deviation are 0.5642 and 0.8256, and $0.5642^2 + 0.8256^2 =
# 1$.
#
# So the formula: **$\sqrt{1/n}$ for a plain linear layer, $\sqrt{2/n}$ for one followed by relu.**
# One of them is not the other's approximation: over many layers a factor of 2 each is everything,
# as we will see.

# %%
KEYS = 20
unit_mean, unit_deviation = 1 / math.sqrt(2 * math.pi), math.sqrt(1 / 2 - 1 / (2 * math.pi))
assert (round(unit_mean, 4), round(unit_deviation, 4)) == (0.3989, 0.5838)
root = math.sqrt(2)
assert (round(root * unit_mean, 4), round(root * unit_deviation, 4)) == (0.5642, 0.8256)


@partial(jax.jit, static_argnums=0)
def one_layer(initialiser, keys):
    def of_key(key):
        kx, kw = jax.random.split(key)
        return lin(jax.random.normal(kx, (200, 100)), initialiser(kw, (100, 50)))

    return jax.vmap(of_key)(keys)


figure, both = plt.subplots(1, 2, figsize=(11, 3.6), sharey=True, sharex=True, layout="constrained")
for axes, (name, factor) in zip(both, (("lecun_normal", 1.0), ("kaiming_normal", root))):
    z = one_layer(getattr(init, name), jax.random.split(jax.random.key(2), KEYS))
    a = np.asarray(relu(z))
    assert near(a.mean(), factor * unit_mean, 0.02) and near(a.std(), factor * unit_deviation, 0.02)
    each = a.reshape(KEYS, -1)
    print(
        f"{name:<15} mean {a.mean():.4f} ({factor * unit_mean:.4f}), "
        f"deviation {a.std():.4f} ({factor * unit_deviation:.4f}); single keys' deviations "
        f"{each.std(1).min():.3f} to {each.std(1).max():.3f}"
    )
    bins = np.linspace(-5, 5, 101)
    axes.hist(np.ravel(z), bins, density=True, color="#c9d8e6", label=f"z, deviation {z.std():.2f}")
    axes.hist(a[a > 0], bins, weights=np.full((a > 0).sum(), 10 / a.size), color=BLUE, alpha=0.6,
              label="relu(z) where it is not 0")
    grid = np.linspace(-5, 5, 200)
    law = np.exp(-((grid / factor) ** 2) / 2) / factor / math.sqrt(2 * math.pi)
    axes.plot(grid, law, "k", lw=0.8, label="normal law")
    axes.axvline(a.mean(), color=ORANGE, label=f"mean of relu(z), {a.mean():.3f}")
    axes.set(xlabel="z and relu(z)", title=f"{name}: weights of deviation {factor / 10:.3f}")
    axes.legend(fontsize=8)
both[0].set_ylabel("density");

# %% [markdown]
# ## Fifty layers
#
# A factor each layer is a power after fifty. In layer $l$, without an activation function,
#
# $$\text{deviation} = (s\sqrt n)^l, \qquad\text{with relu}\quad
# \sqrt{E[x^2]} = \left(s\sqrt{n/2}\right)^l.$$
#
# With $n = 100$ and $s = 1$ that is $10^{50}$, beyond float32, which ends at $3.4\cdot10^{38}$.
# With $s = 0.01$ it is $10^{-50}$, below everything that float32 can tell from 0. The downside of a
# deviation far from 1 is not that the numbers are inconvenient: a few dozen layers later there are
# no numbers left.
#
# Let us run it: 200 samples, 50 layers of 100 by 100, 16 keys, and the same draws for every line.
# The same run gives the *gradient's* scale at each layer's result, for a random gradient of
# deviation 1 at the end.

# %%
SAMPLES, N, LAYERS, KEYS = 200, 100, 50, 16


def rms(x):
    return norm(x) / math.sqrt(x.size)  # fnnet's norm squares nothing that would not fit


@jax.jit
def draws(key):
    """Of deviation 1: the samples, fifty layers' weights, and a gradient at the end."""
    kx, kw, kg = jax.random.split(key, 3)
    shapes = ((kx, (SAMPLES, N)), (kw, (LAYERS, N, N)), (kg, (SAMPLES, N)))
    return [jax.random.normal(k, shape) for k, shape in shapes]


@partial(jax.jit, static_argnums=0)
def fifty(f, s, drawn):
    """By key and layer: deviation of the result, rms of its gradient, whether all is finite."""

    def of_key(drawn):
        x, weights, g = drawn

        def layer(x, w_and_zero):
            w, zero = w_and_zero
            x = f(lin(x, s * w)) + zero  # the gradient in this zero is the gradient in x
            return x, (rms(x - x.mean()), jnp.isfinite(x).all())

        def net(zeros):
            return jax.lax.scan(layer, x, (weights, zeros))

        out, back, (deviation, finite) = jax.vjp(net, jnp.zeros((LAYERS, *g.shape)), has_aux=True)
        (gradients,) = back(g)
        return deviation, jax.vmap(rms)(gradients), finite, out

    return jax.lax.map(of_key, drawn)


def no_activation(z):
    return z


def leaky(slope):
    def leaky_relu(z):
        return jnp.where(z > 0, z, slope * z)

    return leaky_relu


def clipped(z):
    return jnp.clip(z, -1, 1)


def batch_normalised(z):
    """Each unit by its own mean and deviation over the batch, then relu."""
    z = z - z.mean(axis=0)
    return relu(z / jnp.sqrt((z**2).mean(axis=0)))


def layer_normalised(z):
    """Each sample by its own mean and deviation over the units, then relu."""
    return relu(layer_norm(z, eps=0.0))


leaky_02, SLOPE = leaky(0.2), 0.2
own_gain = math.sqrt(2 / (1 + SLOPE**2) / N)
naive, tiny, xavier, kaiming = 1.0, 0.01, math.sqrt(1 / N), math.sqrt(2 / N)
panels = {
    "no activation function": {
        "N(0, 1)": (no_activation, naive, RED),
        "0.01": (no_activation, tiny, ORANGE),
        "Xavier, $\\sqrt{1/n}$": (no_activation, xavier, BLUE),
        "Kaiming, $\\sqrt{2/n}$": (no_activation, kaiming, GREEN),
    },
    "relu": {
        "N(0, 1)": (relu, naive, RED),
        "0.01": (relu, tiny, ORANGE),
        "Xavier, $\\sqrt{1/n}$": (relu, xavier, BLUE),
        "Kaiming, $\\sqrt{2/n}$": (relu, kaiming, GREEN),
    },
    "what else there is": {
        "N(0, 1), clipped to ±1": (clipped, naive, RED),
        "N(0, 1), batch statistics, relu": (batch_normalised, naive, "#8052a0"),
        "0.01, layer norm, relu": (layer_normalised, tiny, ORANGE),
        "Xavier, leaky relu 0.2": (leaky_02, xavier, BLUE),
        "leaky relu 0.2, its own gain": (leaky_02, own_gain, GREEN),
    },
}
drawn = jax.lax.map(draws, jax.random.split(jax.random.key(3), KEYS))
runs = {
    panel: {name: [np.asarray(v) for v in fifty(f, s, drawn)] for name, (f, s, _) in cases.items()}
    for panel, cases in panels.items()
}


# %%
def draw(index, ylabel, title, ranges, place):
    """Medians over the keys as lines, from the least to the greatest as bands; a row per range."""
    rows = len(ranges)
    options = dict(figsize=(13, 4.2 * rows + 0.4), squeeze=False, sharex=True, sharey="row")
    figure, grid = plt.subplots(rows, 3, layout="constrained", **options)
    depth = np.arange(1, LAYERS + 1)
    for three, limits in zip(grid, ranges):
        for axes, (panel, cases) in zip(three, panels.items()):
            for name, (_, _, colour) in cases.items():
                values = runs[panel][name][index].astype(float)
                alive = (np.isfinite(values) & (values > 0)).all(0)
                shown = np.where(alive, values, np.nan)[:, alive]
                median = np.median(shown, 0)
                axes.plot(depth[alive], median, color=colour, lw=1.8, label=name)
                bands = shown.min(0), shown.max(0)
                axes.fill_between(depth[alive], *bands, color=colour, alpha=0.2, lw=0)
                if not alive.all():
                    end = -1 if alive[0] else 0
                    axes.plot(depth[alive][end], median[end], "x", color=colour, ms=9, mew=2)
            axes.axhline(1, color="k", lw=0.6, ls=":")
            axes.set(yscale="log", ylim=limits)
        three[0].set_ylabel(ylabel)
    for panel, top, bottom in zip(panels, grid[0], grid[-1]):
        top.set_title(panel)
        top.legend(loc=place, fontsize=8)
        bottom.set_xlabel("layer")
    figure.suptitle(title)


title = "Fifty layers of 100 by 100, and below the same near 1; ×: after it, inf or 0 in some key"
draw(0, "deviation of the layer's result", title, [(1e-46, 1e52), (0.02, 50)], "upper left")

# %% [markdown]
# Lines are medians over 16 keys, the bands reach from the least to the greatest; the dotted line is
# 1. What the figure shows was predicted:


# %%
def last(panel, name):
    return runs[panel][name][0][:, -1]


plain_panel, relu_panel, other_panel = panels
first = runs[plain_panel]["N(0, 1)"][0][:, 0]
assert near(first, 10, 0.1), "the first layer: 10"

broken = (runs[plain_panel]["N(0, 1)"][2]).sum(1) + 1
assert np.median(broken) == 38 and set(broken) <= {37, 38, 39}, "the first inf is in layer 38"
assert np.isnan(runs[plain_panel]["N(0, 1)"][3]).all(), "and in the end all is NaN"
assert (runs[plain_panel]["0.01"][3] == 0).all(), "exactly 0"

root_mean_square = {
    panel: {name: np.median([float(rms(out)) for out in run[3]]) for name, run in cases.items()}
    for panel, cases in runs.items()
}
names = {s: name for name, (_, s, _) in panels[relu_panel].items()}
checks = [
    (plain_panel, names[xavier], 1.0),
    (plain_panel, names[kaiming], 2.0**25),
    (relu_panel, names[xavier], 2.0**-25),
    (relu_panel, names[kaiming], 1.0),
    (other_panel, "Xavier, leaky relu 0.2", ((1 + SLOPE**2) / 2) ** 25),
    (other_panel, "leaky relu 0.2, its own gain", 1.0),
    (other_panel, "N(0, 1), batch statistics, relu", 0.5**0.5),
    (other_panel, "0.01, layer norm, relu", 0.5**0.5),
]
print(f"{'after 50 layers, √E[x²]':<62}{'median':>10}{'theory':>10}")
for panel, name, theory in checks:
    median = root_mean_square[panel][name]
    print(f"{panel + ': ' + name:<62}{median:10.1e}{theory:10.1e}")
    assert 0.25 * theory < median < 1.6 * theory
assert 1e30 < np.median(runs[relu_panel]["N(0, 1)"][0][:, 36]), "relu: √50 a layer, a little later"
assert near(last(other_panel, "N(0, 1), clipped to ±1"), 0.95, 0.05), "nearly all at -1 or 1"

# %% [markdown]
# * Without an activation function Xavier's $\sqrt{1/n}$ is right, and Kaiming's too large by
#   $\sqrt2$ a layer: $2^{25} = 3\cdot10^7$ at the end.
# * With relu it is the other way round: Xavier ends at $2^{-25} = 3\cdot10^{-8}$, Kaiming stays.
#
# ### Why medians, and why a band
#
# The theory is about a mean of squares, over all possible weights. One draw of weights is one
# walk: each layer multiplies the squared length of a sample by a random number of mean 1, and what
# adds up is its logarithm. For one sample, $x W$ is nothing but $n$ independent normals of variance
# $s^2 |x|^2$, so $|x W|^2/|x|^2$ is $\chi^2_n/n$, of variance $2/n$; with relu and Kaiming it has
# the variance $5/n$. A logarithm of a number $1 + \varepsilon$ has the mean
# $-\mathrm{Var}(\varepsilon)/2$. After $L$ layers, the median and the spread of $\sqrt{E[x^2]}$ are
#
# $$e^{-vL/4n}\quad\text{and}\quad e^{\pm\sqrt{vL/n}/2},\qquad v = 2 \text{ or } 5.$$
#
# So a wide spread is no mistake in the code, and no single draw can refute a formula.


# %%
@partial(jax.jit, static_argnums=0)
def walks(f, gain):
    """The rms of one sample after 50 layers, for 4000 draws of all the weights."""

    def layer(x, key):
        length = jnp.sqrt((x**2).mean(axis=1, keepdims=True))
        return f(gain * length * jax.random.normal(key, x.shape)), None

    keys = jax.random.split(jax.random.key(4), LAYERS)
    return jax.vmap(rms)(jax.lax.scan(layer, jnp.ones((4000, N)), keys)[0])


figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
for f, gain, v, colour, label in (
    (no_activation, 1.0, 2, BLUE, "linear, Xavier"),
    (relu, root, 5, GREEN, "relu, Kaiming"),
):
    ends = np.log(np.asarray(walks(f, gain)))
    centre, width = -v * LAYERS / (4 * N), math.sqrt(v * LAYERS / N) / 2
    assert abs(np.median(ends) - centre) < 0.08 and near(ends.std(), width, 0.08)
    axes.hist(ends, 80, density=True, color=colour, alpha=0.45, label=f"{label}: 4000 draws")
    grid = np.linspace(-4, 3, 200)
    normal = np.exp(-(((grid - centre) / width) ** 2) / 2) / width / math.sqrt(2 * math.pi)
    axes.plot(grid, normal, color=colour, label=f"theory: median {math.exp(centre):.2f}")
    print(f"{label}: median {math.exp(np.median(ends)):.2f} ({math.exp(centre):.2f}), "
          f"9 of 10 draws from {np.exp(np.quantile(ends, 0.05)):.2f} "
          f"to {np.exp(np.quantile(ends, 0.95)):.2f}")
ticks = [0.03, 0.1, 0.3, 1, 3, 10]
axes.set_xticks(np.log(ticks), ticks)
axes.set(xlabel=r"$\sqrt{E[x^2]}$ of one sample after 50 layers", xlim=(-3.8, 2.6))
axes.set_ylabel("density (of the logarithm)")
axes.legend(fontsize=8);

# %% [markdown]
# ## The gradient's way back
#
# Backward the factor is $m\,s^2\,E[f'(z)^2]$ a layer, with $m$ outputs. For relu half of the slopes
# are 1 and half are 0: the same half as forward. With $n = m$, as here, whatever is right for the
# values is right for the gradients, and what explodes forward explodes backward. (With relu the
# two worst have no gradient at all: a result that is NaN, or 0, is not positive, and nothing passes
# it.)

# %%
title = "The gradient, from layer 50 back to layer 1; ×: before it, inf or 0 in some key"
draw(1, "rms of the gradient in the layer's result", title, [(1e-46, 1e52)], "upper right")


# %%
def back_to_first(panel, name):
    return np.median(runs[panel][name][1][:, 0])


print(f"{'gradient in the first layer':<62}{'median':>10}{'theory':>10}")
for panel, name, theory in checks[:6]:
    theory = theory ** (49 / 50)  # 49 layers lie between
    print(f"{panel + ': ' + name:<62}{back_to_first(panel, name):10.1e}{theory:10.1e}")
    assert 0.25 * theory < back_to_first(panel, name) < 1.7 * theory
for name in ("N(0, 1), clipped to ±1", "N(0, 1), batch statistics, relu"):
    print(f"{other_panel + ': ' + name:<62}{back_to_first(other_panel, name):10.1e}")
assert back_to_first(other_panel, "N(0, 1), clipped to ±1") > 1e15
assert 1e3 < back_to_first(other_panel, "N(0, 1), batch statistics, relu") < 1e5

# %% [markdown]
# ## What else keeps it alive
#
# The third panels show three more ways, and what each of them costs.
#
# **Clipping the values** to ±1 keeps them within bounds whatever the weights. That is all it keeps:
# with $s = 1$ nearly all units stick at -1 or 1, where the slope is 0, while the few others pass
# 100 weights of size 1 on. Forward it looks healthy; backward it explodes.
#
# **Leaky relu** passes a part of the negative half. Its factor is $(1 + c^2)/2$ instead of
# $\frac12$, so it dies more slowly, and with $s^2 = 2/(1 + c^2)/n$ not at all. What it is for is
# another thing: a relu whose $z$ is negative for every sample has no gradient, and never gets one.
# A leaky one does.

# %%
kx, kw, ky, kd = jax.random.split(jax.random.key(5), 4)
x, w = jax.random.normal(kx, (64, N)), init.kaiming_normal(kw, (N, 50))
dead = jnp.full(50, -100.0)  # a bias that has been pushed too far


def total(b, f):
    return (f(lin(x, w, b)) ** 2).mean()


assert (jax.grad(total)(dead, relu) == 0).all()
assert (jax.grad(total)(dead, leaky(0.01)) < 0).all(), "a step against it lifts every bias"

# %% [markdown]
# **Normalisation** divides by the scale itself, measured: over the batch for each unit, or over the
# units for each sample (`fnnet.layer_norm`, whose gradient is derived by hand). Then the scale of
# the weights has no effect on the values any more. It is no licence, though: batch statistics let
# the gradient grow from layer to layer, as the purple line above shows; and by the chain rule
# the gradient in weights that are 100 times too small is 100 times too large.

# %%
z = lin(x, w)
for scale in (1e-6, 1.0, 1e6):
    assert near(layer_norm(scale * z, eps=0.0).std(), 1, 1e-3)


def loss_of(w):
    return (layer_norm(lin(x, w), eps=0.0) ** 3).mean()


ratio = jax.grad(loss_of)(w / 100) / jax.grad(loss_of)(w)
print(f"weights / 100: gradient times {jnp.median(ratio):.1f}")
assert near(jnp.median(ratio), 100, 0.01)

# %% [markdown]
# **Clipping the gradient** bounds the step, not the values. If the whole gradient, over all
# parameters, is longer than $c$, it is shortened to $c$, and its direction is kept:
# $g \leftarrow g \cdot \min(1, c/|g|)$. Here is a net of 50 relu layers whose weights are too large
# by $\sqrt2$, so that its gradient is $10^{12}$ and more:


# %%
def deep_loss(weights, x, y):
    x, _ = jax.lax.scan(lambda x, w: (relu(lin(x, w)), None), x, weights[:-1])
    return mse(lin(x, weights[-1]), y)


@partial(jax.jit, static_argnums=1)
def descent(weights, limit):
    def step(weights, _):
        loss, g = jax.value_and_grad(deep_loss)(weights, x, y)
        length = norm(g)
        g = g * jnp.minimum(1, limit / length)
        return weights - 0.1 * g, (loss, length, norm(0.1 * g))

    return jax.lax.scan(step, weights, None, length=40)[1]


y = jax.random.normal(ky, (64, N))
weights = 0.2 * jax.random.normal(kd, (LAYERS, N, N))
free, bound = (np.asarray(descent(weights, limit)) for limit in (jnp.inf, 1.0))
assert free[1, 0] > 1e12 and not np.isfinite(free[0, 1:]).any(), "one step, and all is lost"
assert np.isfinite(bound).all() and near(bound[2], 0.1, 1e-4), "every step has length 0.1"
assert bound[0, -1] < 0.1 * bound[0, 0]

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.3), layout="constrained")
for axes, row, label in ((left, 0, "mean squared error"), (right, 1, "length of the gradient")):
    axes.semilogy(bound[row], color=BLUE, label="clipped to length 1")
    mark = dict(color=RED, ms=9, mew=2, label="not clipped: NaN after one step")
    axes.semilogy(0, free[row, 0], "x", **mark)
    axes.set(xlabel="step", ylabel=label)
    axes.legend()
figure.suptitle("Gradient descent on 50 layers whose weights are too large");

# %% [markdown]
# Clipping cannot bring back what is no number. With weights of $N(0, 1)$ the values end in NaN, and
# so does the gradient, in the last layers. (In those before it is 0: relu lets a gradient through
# where its result is positive, and NaN is not.) The length of the whole is then NaN, and shortening
# by NaN makes NaN of all.

# %%
g = jax.grad(deep_loss)(5 * weights, x, y)
print(f"{jnp.isnan(g).mean():.0%} of the gradient is NaN, {(g == 0).mean():.0%} is 0")
assert jnp.isnan(g).any() and jnp.isnan(g * jnp.minimum(1, 1 / norm(g))).all()

# %% [markdown]
# ## Why not start at zero?
#
# A bias may. Weights may not, for two reasons.
#
# *Zero stops the gradient.* In a net of two layers, $w_2 = 0$ lets no gradient through to the first
# layer, and relu(0) = 0 leaves none for $w_2$. All that ever moves is the last bias.
#
# *Equal stays equal.* Give all weights of every layer one value other than 0: then all units of a
# hidden layer compute the same, receive the same gradient, and stay the same for ever. The layer is
# one unit, however wide. What must be broken is the symmetry; random numbers break it.


# %%
def equal(key, shape, dtype=jnp.float32):
    return jnp.full(shape, 0.1, dtype)


@partial(jax.jit, static_argnums=0)
def train(initialiser):
    x = jax.random.normal(jax.random.key(6), (128, 4))
    y = jnp.abs(x).sum(axis=1)

    def step(params, _):
        loss, g = backprop.forward_and_backward(params, x, y)
        return jax.tree.map(lambda p, g: p - 0.05 * g, params, g), loss

    params = backprop.init_mlp(jax.random.key(7), (4, 16, 1), initialiser)
    return params, *jax.lax.scan(step, params, None, length=300)


figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
units, final = {}, {}
for name, initialiser, colour in (
    ("zeros", init.zeros, RED),
    ("all 0.1", equal, ORANGE),
    ("Kaiming", init.kaiming_normal, GREEN),
):
    before, after, losses = train(initialiser)
    units[name] = len(np.unique(np.asarray(after[0].w), axis=1).T)
    final[name] = float(losses[-1])
    axes.semilogy(losses, color=colour, label=f"{name}: {units[name]} different units of 16")
    if name == "zeros":
        leaves = zip(jax.tree.leaves(before)[:3], jax.tree.leaves(after))
        assert all((a == b).all() for a, b in leaves)
        assert after[1].b != 0, "the last bias alone"
axes.set(xlabel="step of gradient descent", ylabel="mean squared error")
axes.set_title("Learning $\\Sigma|x_i|$ from three beginnings")
axes.legend()
assert units == {"zeros": 1, "all 0.1": 1, "Kaiming": 16}
assert final["Kaiming"] < 0.3 * final["all 0.1"] <= 0.3 * final["zeros"] * 1.01

# %% [markdown]
# ## To remember
#
# - A layer multiplies the scale by $s\sqrt n$, relu by another $\sqrt{1/2}$. Fifty layers make
#   powers of that.
# - $\sqrt{1/n}$ for a linear layer, $\sqrt{2/n}$ with relu; weights random, biases 0.
# - One draw is one walk: judge by medians over keys, beside the theory.
# - Clipping, leaks and normalisation help, each with a price; none replaces the right scale.
#
# Tests that say the same at length: `tests/net/test_init.py`, `tests/net/test_stabilisers.py`.
