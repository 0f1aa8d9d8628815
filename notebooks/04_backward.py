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
# # 4. The backward pass by hand
#
# **What it teaches.** How the gradient of a net is computed: the chain rule, drawn; the rule of
# each function, derived on paper, proved by algebra and then run; two layers by hand, every
# gradient on the way; in which order, and why; what must be stored for it, and what that costs.
#
# **How long it takes.** About an hour to read; it runs in less than a minute on two CPU cores.
#
# **What to install.** `fnnet` with the extras `examples` and `symbolic`, which bring JAX, NumPy,
# matplotlib and SymPy. The next cell does it where they are missing, on Colab too once fnnet is
# on the package index.
#
# What can be asserted is: if a cell runs, what it asserts is so.

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
import itertools
import math

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import sympy

from fnnet import backprop, lin, mse, ops, plain, relu
from fnnet.measure.memory import residuals
from fnnet.net.layers import LinearParams
from fnnet.proof import reference
from fnnet.proof.symbolic import Instance, Sym, prove

try:
    from IPython.display import Math, display
except ImportError:  # run as a script
    Math, display = str, print

jax.config.update("jax_enable_x64", True)  # JAX's default is float32; here digits are counted
plt.rcParams.update({"figure.dpi": 110, "font.size": 9})
BLUE, ORANGE, GREY = "#2a78b5", "#d9730d", "#9a9a9a"
print(f"JAX {jax.__version__}, NumPy {np.__version__}, on {jax.default_backend()}")


def refused(call):
    """The error that `call` raises, in one line; it is a mistake here if there is none."""
    try:
        call()
    except Exception as error:
        print(f"{type(error).__name__}: {str(error).splitlines()[0][:150]}")
    else:
        raise AssertionError("this was expected to fail")


def same(a, b, rtol=1e-13):
    """Whether two trees of arrays agree to rounding in float64, each by its largest entry."""
    a, b = (jax.tree.leaves(t) for t in (a, b))
    assert len(a) == len(b) and [np.shape(x) for x in a] == [np.shape(x) for x in b]
    return all(np.abs(x - y).max() <= rtol * np.abs(y).max() for x, y in zip(a, b))


# %% [markdown]
# ## Forward and backward
#
# The net of this notebook: 200 samples of 100 numbers, 50 hidden units, one output, and the mean
# squared error as its loss.
#
# $$z = \mathrm{lin}(x, w_1, b_1), \quad a = \mathrm{relu}(z), \quad
# o = \mathrm{lin}(a, w_2, b_2), \quad l = \mathrm{mse}(o, y)$$
#
# The **forward pass** goes from the inputs to the loss. The **backward pass** goes from the loss to
# its gradient in every parameter: how much $l$ changes if that parameter does. Neither changes a
# parameter; that is the optimiser's step, which comes after. Forward, backward and that step, on
# one batch, are an iteration.

# %%
keys = jax.random.split(jax.random.key(0), 4)
x = jax.random.normal(keys[0], (200, 100))
y = jax.random.normal(keys[1], (200,))
w1, b1 = jax.random.normal(keys[2], (100, 50)) * math.sqrt(2 / 100), jnp.zeros(50)
w2, b2 = jax.random.normal(keys[3], (50, 1)) * math.sqrt(2 / 50), jnp.zeros(1)
params = [LinearParams(w1, b1), LinearParams(w2, b2)]  # pairs, whose members have names


def net(params, x, y):
    (w1, b1), (w2, b2) = params
    return mse(lin(relu(lin(x, w1, b1)), w2, b2), y)


z = lin(x, w1, b1)
a = relu(z)
o = lin(a, w2, b2)
l = mse(o, y)
assert (z.shape, a.shape, o.shape, l.shape) == ((200, 50), (200, 50), (200, 1), ())
assert l == net(params, x, y)
print(f"the loss: {l:.3f}")

# %% [markdown]
# ### Why the loss needs squeeze
#
# The net gives $(200, 1)$, a column, and the targets are $(200,)$. Subtracted as they are, every
# prediction meets every target: 40,000 differences, and a mean that looks like a loss. So the last
# axis has to go, and that axis only: without its number, `squeeze` removes *every* axis of size 1,
# and of a batch of one sample the batch's axis too. `mse` does it, and refuses all other shapes.

# %%
wrong = ((o - y) ** 2).mean()
right = ((o.squeeze(-1) - y) ** 2).mean()
assert (o - y).shape == (200, 200)
assert jnp.isclose(right, l, rtol=1e-14) and not jnp.isclose(wrong, l, rtol=0.01)
print(f"all against all: {wrong:.3f}; each against its own: {right:.3f}")

one_sample = o[:1]
assert one_sample.squeeze(-1).shape == (1,)
assert one_sample.squeeze().shape == (), "the batch has gone as well"
refused(lambda: mse(y, o))

# %% [markdown]
# ## The chain rule
#
# A function of a function changes as fast as the outer one does, times as fast as the inner one:
#
# $$(g \circ f)'(x) = g'(f(x))\,f'(x), \qquad\text{or}\qquad
# \frac{dy}{dx} = \frac{dy}{du}\frac{du}{dx}.$$
#
# For example $\sin(x^2 + 1)$, by rule, by SymPy and by machine:

# %%
s = sympy.Symbol("x")
by_symbols = sympy.diff(sympy.sin(s**2 + 1), s)
print(by_symbols)
assert by_symbols == sympy.cos(s**2 + 1) * 2 * s
by_hand = math.cos(0.7**2 + 1) * 2 * 0.7
assert math.isclose(jax.grad(lambda x: jnp.sin(x**2 + 1))(0.7), by_hand, rel_tol=1e-14)

# %% [markdown]
# If $x$ reaches the loss in several ways, through $u_1$, $u_2$ and so on, what it does on all of
# them adds up:
#
# $$\frac{\partial l}{\partial x} =
# \sum_k \frac{\partial l}{\partial u_k}\frac{\partial u_k}{\partial x}.$$
#
# That is all there is to it. Every rule below is this sum, and the work lies in seeing which $u_k$
# a number enters, and with what factor.
#
# ### The chain, drawn
#
# Values are round, functions square. The forward pass follows the blue arrows. The backward pass
# follows the orange ones: each carries the gradient of $l$ in the value it leads to, an array of
# that value's own shape, and each function turns the gradient of its result into those of its
# arguments.

# %%
figure, axes = plt.subplots(figsize=(13, 3.9), layout="constrained")
chain = ["x", "lin", "z", "relu", "a", "lin", "o", "mse", "l"]
shapes = {"x": x, "z": z, "a": a, "o": o, "l": l}
sides = {1: ["w_1", "b_1"], 5: ["w_2", "b_2"], 7: ["y"]}
side_shapes = {"w_1": w1, "b_1": b1, "w_2": w2, "b_2": b2, "y": y}


def spot(place, text, function=False):
    style = "square,pad=0.5" if function else "round,pad=0.45"
    face = "#eeeeee" if function else "white"
    box = dict(boxstyle=style, fc=face, ec="k", lw=0.8)
    axes.text(*place, text, ha="center", va="center", bbox=box, zorder=3, size=11)


def arrow(start, end, colour, label="", shift=(0, 0), room=(20, 20), size=11):
    start, end = np.add(start, shift), np.add(end, shift)
    style = dict(arrowstyle="-|>", color=colour, lw=1.6, shrinkA=room[0], shrinkB=room[1])
    axes.annotate("", end, start, arrowprops=style)
    if label:
        text, offset = label
        box = dict(fc="white", ec="none", pad=1)
        place = (start + end) / 2 + offset
        axes.text(*place, text, color=colour, ha="center", va="center", size=size, bbox=box)


for i, name in enumerate(chain):
    function = i % 2 == 1
    size = "" if function else f"\n{shapes[name].shape}"
    spot((i, 0), name if function else f"${name}${size}", function)
    if i:
        room = (35, 21) if function else (21, 35)  # a value takes more than a function's name
        arrow((i - 1, 0), (i, 0), BLUE, shift=(0, 0.09), room=room)
        value = chain[i - 1] if function else name
        label = (rf"$\frac{{\partial l}}{{\partial {value}}}$", (0, -0.3))
        arrow((i, 0), (i - 1, 0), ORANGE, label, (0, -0.09), room[::-1], size=15)
    for k, side in enumerate(sides.get(i, ())):
        place = (i + 1.1 * (k - (len(sides[i]) - 1) / 2), -1.5)
        spot(place, f"${side}$\n{side_shapes[side].shape}")
        arrow(place, (i, 0), BLUE, shift=(-0.05, 0))
        if side != "y":
            label = (rf"$\frac{{\partial l}}{{\partial {side}}}$", (0.22, -0.12))
            arrow((i, 0), place, ORANGE, label, (0.05, 0), size=15)
axes.plot([], [], color=BLUE, label="forward: values")
axes.plot([], [], color=ORANGE, label="backward: gradients of l")
axes.set(xlim=(-0.5, 8.5), ylim=(-1.9, 0.65), title="The net as a chain")
axes.legend(loc="upper left", ncols=2)
axes.axis("off");

# %% [markdown]
# The target $y$ has a gradient too. Nobody asks for it, and it is left out here.
#
# In what follows $g$ stands for the gradient of $l$ in a function's *result*. Its backward rule
# maps $g$, and whatever it needs to remember, to the gradients in its *arguments*. Three rules are
# enough.
#
# ## The rule of the mean squared error
#
# With $d_q = o_q - y_q$ over all $n$ elements, $l = \frac1n \sum_q d_q^2$. The prediction $o_q$
# enters one term only, $d_q^2/n$, and $\partial d_q/\partial o_q = 1$. So
#
# $$\frac{\partial l}{\partial o_q} = g\,\frac{2}{n}\,(o_q - y_q), \qquad
# \frac{\partial l}{\partial y_q} = -g\,\frac{2}{n}\,(o_q - y_q),$$
#
# where $g = \partial l/\partial l = 1$, because here the chain begins.
#
# **Proved**: `prove` lets SymPy differentiate $g \cdot \mathrm{mse}(o, y)$ in every entry, and
# simplifies the difference to the rule, written once more in NumPy: it must be exactly 0. The
# formulas are what it found.

# %%
proof = prove("mse")
assert proof.exact
print(proof)
display(Math(proof.latex))

# %% [markdown]
# **Run**: each op of `fnnet` comes with its two passes. `NAME_fwd` gives the result and what the
# backward pass will need, its residuals; `NAME_bwd` takes these and $g$.

# %%
loss, mse_kept = ops.mse_fwd(o, y)
do, dy = ops.mse_bwd(mse_kept, jnp.ones(()))
assert loss == l
assert same(do, 2 / 200 * (o - y[:, None]))
assert same((do, dy), jax.grad(plain(mse), (0, 1))(o, y))

# %% [markdown]
# ### Why a batch's mean gives 1/n
#
# The loss of the batch is the mean of the samples' losses, and the derivative of a mean is the mean
# of the derivatives. So the gradient of a batch is the *mean gradient of its samples*; each
# sample's own gradient of $(o_q - y_q)^2$ knows nothing of $n$. With a sum instead, twice as many
# samples would make steps twice as long. With the mean, a larger batch changes nothing but how sure
# one can be: the error of a mean of $n$ falls like $1/\sqrt n$.


# %%
def of_sample(params, x, y):
    return net(params, x[None], y[None])


each = jax.vmap(jax.grad(of_sample), (None, 0, 0))(params, x, y)
batch = jax.grad(net)(params, x, y)
assert same(batch, jax.tree.map(lambda g: g.mean(0), each))

twice = jax.grad(net)(params, jnp.tile(x, (2, 1)), jnp.tile(y, 2))
assert same(twice, batch), "every sample twice: the same mean"

sizes = [1, 4, 16, 64, 256, 1024]
rows = np.random.default_rng(0).integers(0, 200, (400, max(sizes)))
one_weight = np.asarray(each[0][0][:, 0, 0])
errors = [(one_weight[rows[:, :n]].mean(1) - one_weight.mean()).std() for n in sizes]
theory = [one_weight.std() / n**0.5 for n in sizes]
assert np.allclose(errors, theory, rtol=0.15)

figure, axes = plt.subplots(figsize=(5.6, 3.3), layout="constrained")
axes.loglog(sizes, errors, "o", color=ORANGE, label="400 batches of each size")
axes.loglog(sizes, theory, color=BLUE, label=r"theory, $\sigma/\sqrt{n}$")
axes.set(xlabel="samples in the batch, n", ylabel=r"error of $\partial l/\partial w_1[0,0]$")
axes.set_title("The gradient of a batch is a mean, and errs as one")
axes.legend();

# %% [markdown]
# The $n$ is the number of *elements* of the mean, not of samples. With one output a sample they are
# equal; with $m$ outputs, dividing by the samples alone makes the gradient $m$ times too long. The
# proof says so at once, for shapes (2, 2):


# %%
def by_samples(pred, targ, g):
    d = (pred.reshape(targ.shape) - targ) * 2 * g / (len(targ) if targ.ndim else 1)
    return d.reshape(pred.shape), -d


assert prove("mse", vjp=by_samples, cases=[Instance({"pred": Sym(2, 1), "targ": Sym(2)})]).exact
refuted = prove("mse", vjp=by_samples, cases=[Instance({"pred": Sym(2, 2), "targ": Sym(2, 2)})])
assert not refuted.exact and len(refuted.differences) == 8
print("\n".join(str(refuted).splitlines()[:6]))

# %% [markdown]
# ## The rule of the linear layer
#
# Sample $p$, input $i$, output $j$:
#
# $$y_{pj} = \sum_i x_{pi}\,w_{ij} + b_j, \qquad g_{pj} = \frac{\partial l}{\partial y_{pj}}.$$
#
# For each argument: which results does it enter, and with what factor?
#
# * $x_{pi}$ enters the results of its own sample, $y_{pj}$ for **every $j$**, with the factor
#   $w_{ij}$;
# * $w_{ij}$ enters the $j$-th result of **every sample $p$**, with the factor $x_{pi}$;
# * $b_j$ enters the $j$-th result of **every sample $p$**, with the factor 1.
#
# What is summed is what the argument's own name lacks:
#
# $$\frac{\partial l}{\partial x_{pi}} = \sum_j g_{pj} w_{ij}, \qquad
# \frac{\partial l}{\partial w_{ij}} = \sum_p x_{pi} g_{pj}, \qquad
# \frac{\partial l}{\partial b_j} = \sum_p g_{pj}.$$

# %%
panels = [
    (r"$x_{pi}$", r"$y_{p%s}$", [rf"$w_{{i{k}}}$" for k in (1, 2, 3)], r"$g_{p%s}$",
     r"$\partial l/\partial x_{pi} = \sum_j\ g_{pj}\, w_{ij}$"),
    (r"$w_{ij}$", r"$y_{%sj}$", [rf"$x_{{{k}i}}$" for k in (1, 2, 3)], r"$g_{%sj}$",
     r"$\partial l/\partial w_{ij} = \sum_p\ g_{pj}\, x_{pi}$"),
    (r"$b_j$", r"$y_{%sj}$", ["$1$"] * 3, r"$g_{%sj}$",
     r"$\partial l/\partial b_j = \sum_p\ g_{pj}$"),
]
figure, panel_axes = plt.subplots(1, 3, figsize=(12, 3), layout="constrained")
for axes, (source, result, factors, gradient, title) in zip(panel_axes, panels):
    spot((0, 0), source)
    spot((2, 0), "$l$")
    for k, factor in enumerate(factors, 1):
        height = 2 - k
        spot((1, height), result % k)
        arrow((0, 0), (1, height), BLUE, (factor, (0, 0)))
        arrow((2, 0), (1, height), ORANGE, (gradient % k, (0, 0)))
    axes.set(xlim=(-0.3, 2.3), ylim=(-1.4, 1.4), title=title)
    axes.axis("off")
figure.suptitle("All ways from an argument to the loss: blue the factor, orange what comes back");

# %% [markdown]
# And now the code. A sum over a shared letter is a matrix product; a product wants the shared
# letter last in the one and first in the other, and where it is not, a transpose puts it there:
#
# | index notation | letters | matrices |
# |---|---|---|
# | $\sum_j g_{pj} w_{ij}$ | `pj,ij->pi` | `g @ w.T` |
# | $\sum_p x_{pi} g_{pj}$ | `pi,pj->ij` | `x.T @ g` |
# | $\sum_p g_{pj}$ | `pj->j` | `g.sum(0)` |
#
# Where all sizes differ, the shapes admit nothing else: `w.T @ g` does not fit.

# %%
proof = prove("lin", cases=[Instance({"x": Sym(2, 1), "w": Sym(1, 2), "b": Sym(2)})])
assert proof.exact and prove("lin").exact
print(prove("lin"))
display(Math(proof.latex))

# %%
o_, lin2_kept = ops.lin_fwd(a, w2, b2)
da, dw2, db2 = ops.lin_bwd(lin2_kept, do)
assert (o_ == o).all()
assert same((da, dw2, db2), (do @ w2.T, a.T @ do, do.sum(0)))
letters = [("pj,ij->pi", (do, w2)), ("pi,pj->ij", (a, do)), ("pj->j", (do,))]
assert same((da, dw2, db2), [jnp.einsum(*[s, *arrays]) for s, arrays in letters])
refused(lambda: w2.T @ do)

# %% [markdown]
# ## The rule of relu
#
# $a = \max(z, 0)$, one element at a time. Where $z > 0$ the graph is the diagonal, of slope 1;
# where $z < 0$ it is flat, of slope 0. So
#
# $$\frac{\partial l}{\partial z} = \begin{cases} g & z > 0 \\ 0 & \text{else.}\end{cases}$$
#
# At 0 there is a kink and no derivative. Any number from 0 to 1 is a slope of a line that stays
# below the graph, and 0 is chosen. (Autodiff of `maximum(x, 0)` treats it as a tie and takes 1/2.)
# The proof holds on either side of the kink.

# %%
proof = prove("relu", cases=[Instance({"x": Sym(2)}, signs=("x",))])
assert proof.exact and len(proof.claims) == 4
print(proof)
display(Math(proof.claims[1].latex))

line = jnp.arange(-100, 101) / 100
slope = jax.vmap(jax.grad(relu))(line)
assert slope.tolist() == [0.0] * 101 + [1.0] * 100
assert jax.grad(relu)(0.0) == 0 and jax.grad(lambda x: jnp.maximum(x, 0.0))(0.0) == 0.5

figure, axes = plt.subplots(figsize=(4.6, 2.8), layout="constrained")
axes.plot(line, relu(line), color=BLUE, label="relu(z)")
for part in (slice(0, 101), slice(101, None)):
    label = "its slope" if part.start else None
    axes.plot(line[part], slope[part], "--", color=ORANGE, label=label)
axes.plot(0, 0, "o", color=ORANGE, ms=5, label="slope 0 at 0, chosen")
axes.set(xlabel="z", ylabel="relu(z), slope")
axes.legend();

# %% [markdown]
# The rule asks only where $z > 0$; and $z > 0$ exactly where $a > 0$. So it need not keep $z$: the
# activations will do, which the next layer keeps anyway.

# %%
a_, relu_kept = ops.relu_fwd(z)
(dz,) = ops.relu_bwd(relu_kept, da)
assert (a_ == a).all() and (relu_kept == a).all()
assert (dz == da * (z > 0)).all()
print(f"{jnp.mean(dz != 0):.0%} of the gradient passes; the other units were off")
assert 0.4 < jnp.mean(dz != 0) < 0.6, "half of a symmetric z is positive"

# %% [markdown]
# ## The gradients of mse(lin(a, w2, b2), y)
#
# Two rules in a row. Written as the chain rule for $b_2$, with the result between them:
#
# $$\frac{\partial l}{\partial b_2}
# = \frac{\partial\,\mathrm{mse}(o, y)}{\partial o}\cdot
#   \frac{\partial\,\mathrm{lin}(a, w_2, b_2)}{\partial b_2},$$
#
# and the same first factor for $a$ and $w_2$. Each factor is a table of derivatives, a *Jacobian*.
# The rules give the product without making the tables: that of $o$ in $w_2$ alone has
# 200 · 50 numbers.

# %%
def first(*arguments):
    return mse(lin(*arguments), y)


d_mse = jax.jacrev(lambda o: mse(o, y))(o)
for argnum, by_rule in enumerate((da, dw2, db2)):
    d_lin = jax.jacrev(lin, argnum)(a[:, :], w2, b2)
    assert same(jnp.tensordot(d_mse, d_lin, 2), by_rule, rtol=1e-12)
    print(f"factors {d_mse.shape} and {d_lin.shape}: {d_lin.size:>9,} numbers; "
          f"product {by_rule.shape}")
assert same((da, dw2, db2), jax.grad(plain(first), (0, 1, 2))(a, w2, b2), rtol=1e-12)

# %% [markdown]
# Here the composed loss itself, written out by SymPy and differentiated as a whole, at two samples
# and two inputs: each derivative is the product of the two rules, symbol for symbol.

# %%
def table(name, *shape):
    """An array of this shape, of one symbol an entry."""
    return np.array([sympy.Symbol(f"{name}_{k}") for k in range(math.prod(shape))]).reshape(shape)


A, W, B, Y = table("a", 2, 2), table("w", 2, 1), table("b", 1), table("y", 2)
whole = reference.mse(reference.lin(A, W, B), Y)
g, _ = reference.mse_vjp(reference.lin(A, W, B), Y, sympy.Integer(1))
for arguments, gradients in zip((A, W, B), reference.lin_vjp(A, W, B, g)):
    for argument, gradient in zip(arguments.ravel(), gradients.ravel()):
        assert sympy.expand(sympy.diff(whole, argument) - gradient) == 0
        display(Math(rf"\frac{{\partial l}}{{\partial {sympy.latex(argument)}}} = "
                     rf"{sympy.latex(sympy.factor(gradient))}"))

# %% [markdown]
# ## Two layers, every gradient
#
# The whole pass, with nothing automatic in it. Forward, each step keeps what its rule will need;
# backward, the rules are called, four times in all, from the loss to the inputs.


# %%
def forward_and_backward(params, x, y):
    (w1, b1), (w2, b2) = params
    z, lin1 = ops.lin_fwd(x, w1, b1)
    a, relu1 = ops.relu_fwd(z)
    o, lin2 = ops.lin_fwd(a, w2, b2)
    l, mse1 = ops.mse_fwd(o, y)

    do, _ = ops.mse_bwd(mse1, jnp.ones(()))
    da, dw2, db2 = ops.lin_bwd(lin2, do)
    (dz,) = ops.relu_bwd(relu1, da)
    dx, dw1, db1 = ops.lin_bwd(lin1, dz)
    return l, {"o": do, "a": da, "w2": dw2, "b2": db2, "z": dz, "x": dx, "w1": dw1, "b1": db1}


loss, by_hand = forward_and_backward(params, x, y)

# %% [markdown]
# Autodiff gives the gradients in parameters and inputs. To have those in the values between, too,
# add a zero to each and ask for the gradient in the zero. `plain` takes `fnnet`'s rules away, so
# that what is compared with is JAX's own differentiation and not our rules once more.


# %%
def tapped(leaves, taps):
    z = lin(leaves["x"], leaves["w1"], leaves["b1"]) + taps["z"]
    a = relu(z) + taps["a"]
    o = lin(a, leaves["w2"], leaves["b2"]) + taps["o"]
    return mse(o, y)


leaves = {"x": x, "w1": w1, "b1": b1, "w2": w2, "b2": b2}
taps = {name: jnp.zeros(value.shape) for name, value in (("z", z), ("a", a), ("o", o))}
of_leaves, of_taps = jax.grad(plain(tapped), (0, 1))(leaves, taps)
automatic = of_leaves | of_taps

print(f"{'gradient in':<12}{'shape':<12}{'largest entry':>14}{'greatest difference':>22}")
for name, gradient in by_hand.items():
    wanted = automatic[name]
    difference = jnp.abs(gradient - wanted).max()
    print(f"{name:<12}{wanted.shape!s:<12}{jnp.abs(wanted).max():>14.2e}{difference:>22.1e}")
    assert difference <= 1e-14 * jnp.abs(wanted).max() * 100
assert by_hand.keys() == automatic.keys()

# %% [markdown]
# ## The order of the calls
#
# mse, second lin, relu, first lin: backward. Each rule takes the gradient of its *result*, and
# whoever used the result must give it. Of the 24 orders of the four calls one is possible:

# %%
gives = {"mse_bwd": "o", "lin2_bwd": "a", "relu_bwd": "z", "lin1_bwd": "x"}
needs = {"mse_bwd": "l", "lin2_bwd": "o", "relu_bwd": "a", "lin1_bwd": "z"}


def possible(order):
    known = {"l"}  # ∂l/∂l = 1
    for call in order:
        if needs[call] not in known:
            return False
        known.add(gives[call])
    return True


orders = [order for order in itertools.permutations(gives) if possible(order)]
assert orders == [("mse_bwd", "lin2_bwd", "relu_bwd", "lin1_bwd")]
print(" → ".join(orders[0]))

# %% [markdown]
# But why from the loss at all? On paper
#
# $$\frac{\partial l}{\partial w_1} = \frac{\partial l}{\partial o}\cdot
# \frac{\partial o}{\partial a}\cdot\frac{\partial a}{\partial z}\cdot
# \frac{\partial z}{\partial w_1}$$
#
# can be multiplied from either end, and the result is the same. What differs is what lies between.
# From the left every partial product is the derivative of *one number*, the loss, in a value: an
# array of the value's shape. From the right it is the derivative of a whole layer in a whole matrix
# of weights. And the partial products from the left serve all the parameters before, those from the
# right serve $w_1$ alone.

# %%
n, n_in, hidden = 200, 100, 50
weights = n_in * hidden
from_left = {"∂l/∂o": n, "∂l/∂a": n * hidden, "∂l/∂z": n * hidden, "∂l/∂w₁": weights}
from_right = {
    "∂z/∂w₁": n * hidden * weights,
    "∂a/∂w₁": n * hidden * weights,
    "∂o/∂w₁": n * weights,
    "∂l/∂w₁": weights,
}
assert list(from_left.values()) == [automatic[v].size for v in ("o", "a", "z", "w1")]

figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
for offset, numbers, colour, label in (
    (0, from_left, ORANGE, "from the loss (backward, reverse mode)"),
    (5, from_right, GREY, "from the weights (forward mode)"),
):
    places = [offset + i for i in range(4)]
    axes.bar(places, numbers.values(), color=colour, label=label)
    for place, count in zip(places, numbers.values()):
        axes.text(place, count * 1.3, f"{count:,}", ha="center", fontsize=8)
axes.set_xticks([*range(4), *range(5, 9)], [*from_left, *from_right])
axes.set(yscale="log", ylim=(50, 3e10), ylabel="numbers in the partial product")
axes.set_title("The same product, from either end")
axes.legend(loc="upper left");

# %% [markdown]
# At a small size both ends can be run. They agree:

# %%
small = [(w1[:4, :3], b1[:3]), (w2[:3], b2)]
x4, y4 = x[:5, :4], y[:5]
z4 = lin(x4, *small[0])
a4 = relu(z4)
steps = [
    jax.jacrev(lambda o: mse(o, y4))(lin(a4, *small[1])),
    jax.jacrev(lambda a: lin(a, *small[1]))(a4),
    jax.jacrev(relu)(z4),
    jax.jacrev(lambda w: lin(x4, w, small[0][1]))(small[0][0]),
]
left = right = None
for step in steps:
    left = step if left is None else jnp.tensordot(left, step, 2)
for step in reversed(steps):
    right = step if right is None else jnp.tensordot(step, right, 2)
assert same(left, right) and same(left, jax.grad(net)(small, x4, y4)[0][0])

# %% [markdown]
# ## Why the loss itself is not needed
#
# Look at what the four calls take: no call takes $l$. The derivative of $\frac1n\sum d^2$ is
# $\frac2n d$, made of the difference and not of its mean square, and the chain starts at
# $\partial l/\partial l = 1$ whatever $l$ may be. A loss that is 1000 larger has the same gradient.
# The number is computed to be looked at.

# %%
_, kept = ops.mse_fwd(o, y)
assert [k.shape for k in jax.tree.leaves(kept) if k.size] == [(200,)], "the differences, and no l"
lifted = jax.grad(lambda params: net(params, x, y) + 1000)(params)
assert same(lifted, jax.grad(net)(params, x, y), rtol=1e-15)


def gradients_only(params, x, y):
    return forward_and_backward(params, x, y)[1]["w1"]


def operations(f):
    return jax.jit(f).lower(params, x, y).compile().cost_analysis().get("flops", 0.0)


with_loss = operations(lambda *args: (forward_and_backward(*args)[0], gradients_only(*args)))
without = operations(gradients_only)
if jax.default_backend() == "cpu":  # another compiler may count otherwise
    assert without <= with_loss <= 1.001 * without
print(f"operations, compiled: {without:,.0f} without the loss, {with_loss:,.0f} with it")

# %% [markdown]
# ## What is stored, and why
#
# The derivative of a product in one factor is the other factor. So the gradient of $w_2$ contains
# $a$, whole; the gradient of $a$ contains $w_2$; relu's rule must know where $a > 0$; and that of
# mse is the difference. These must live until the backward pass comes by. Set the activations to 0
# after the forward pass, and the gradient of $w_2$ is 0:

# %%
kept_a, kept_w, *rest = lin2_kept
assert (kept_a == a).all() and (kept_w == w2).all()
_, forgotten, _ = ops.lin_bwd((0 * kept_a, kept_w, *rest), do)
assert (forgotten == 0).all() and not (dw2 == 0).any()

# the same result, two gradients: what went in cannot be had back from what came out
w = jnp.array([[1.0], [1.0]])
one, two = jnp.array([[1.0, 2]]), jnp.array([[2.0, 1]])
slopes = [jax.grad(lambda w, x=x: lin(x, w).sum())(w).ravel().tolist() for x in (one, two)]
assert lin(one, w) == lin(two, w) and slopes == [[1, 2], [2, 1]]

# %% [markdown]
# `residuals` lists it, for any function, without computing anything:

# %%
kept = residuals(lambda params: net(params, x, y), params)
print(kept)
stored = {row.shape: row.name for row in kept if row.kind == "stored"}
assert set(stored) == {(200, 50), (200,)}
assert kept.stored == (200 * 50 + 200) * 8
assert {row.shape for row in kept if row.kind != "stored"} == {(200, 100), (50, 1)}, "x and w2"

# %% [markdown]
# Neither $z$ nor $o$ is in the list, and $a$ once, though two rules need it. How long each array
# lives follows from who makes it and who uses it last. Below, time goes from left to right; what
# crosses the turn is what costs memory.

# %%
calls = [  # the pass above: what each call uses, and what it makes
    ("lin_fwd", ["x", "w1", "b1"], ["z"]),
    ("relu_fwd", ["z"], ["a"]),
    ("lin_fwd", ["a", "w2", "b2"], ["o"]),
    ("mse_fwd", ["o", "y"], ["l", "o − y"]),
    ("mse_bwd", ["o − y"], ["do"]),
    ("lin_bwd", ["do", "a", "w2"], ["da", "dw2", "db2"]),
    ("relu_bwd", ["da", "a"], ["dz"]),
    ("lin_bwd", ["dz", "x"], ["dw1", "db1"]),
]
made = {name: i for i, (_, _, makes) in enumerate(calls) for name in makes}
used = {name: i for i, (_, uses, _) in enumerate(calls) for name in uses}
crossing = {name for name in made if made[name] <= 3 < used.get(name, 0)}
assert crossing == {"a", "o − y"}

figure, axes = plt.subplots(figsize=(9, 4.4), layout="constrained")
names = sorted({*made, *used}, key=lambda name: (made.get(name, -1), name))
for row, name in enumerate(names):
    given, answer = name not in made, name[:2] in ("dw", "db") or name == "l"
    start, end = made.get(name, 0), 7 if answer else used[name]
    colour = GREY if given else ORANGE if name in crossing else "#57a773" if answer else BLUE
    axes.barh(row, end - start + 0.9, left=start - 0.45, color=colour, height=0.7)
axes.axvline(3.5, color="k", lw=1)
axes.text(3.45, -1.1, "forward", ha="right")
axes.text(3.55, -1.1, "backward")
axes.set_xticks(range(8), [call for call, _, _ in calls], rotation=20)
axes.set_yticks(range(len(names)), names)
axes.set(ylim=(len(names) - 0.4, -1.7), xlabel="calls, in their order", ylabel="array")
for colour, label in ((GREY, "given"), (BLUE, "in passing"), (ORANGE, "stored for the way back"),
                      ("#57a773", "the answer")):
    axes.barh(0, 0, color=colour, label=label)
axes.legend(loc="lower left")
axes.set_title("How long each array lives");

# %% [markdown]
# ### What it costs
#
# One activation a layer: the memory grows with depth and with the batch, while the parameters do
# not grow with the batch at all. With large batches or long sequences this, more than the weights,
# fills a device (in the largest models weights, gradients and optimiser state do too).
# `jax.checkpoint` stores nothing of the function it is put around but its arguments, and computes
# it again on the way back: the same gradient, for one forward pass more. Around a whole net it only
# puts the storing off; around each block of layers in turn, one block at a time is stored.
#
# How the rule is written matters as well. Autodiff differentiates the text it is given: for
# `maximum(z, 0)` it stores the slopes, an array of 0, ½ and 1, beside the activations. The hand
# rule sees that the activations know them already. (Compiled as a whole, the compiler may see it
# too.)


# %%
BLOCK = 5  # layers


def deep(activation, wrap=lambda block: block):
    def block(weights, x):
        for w in weights:
            x = activation(lin(x, w))
        return x

    def f(weights, x):
        for first in range(0, len(weights), BLOCK):
            x = wrap(block)(weights[first : first + BLOCK], x)
        return x.sum()

    return f


forms = {
    "autodiff of maximum(z, 0)": (deep(lambda z: jnp.maximum(z, 0.0)), "s-", GREY),
    "fnnet.relu": (deep(relu), "o-", ORANGE),
    f"the same, each {BLOCK} layers in jax.checkpoint": (deep(relu, jax.checkpoint), "^-", BLUE),
}
depths = [5, 10, 20, 30]
square = jax.random.normal(jax.random.key(1), (30, 50, 50)) / 5
batch = jnp.ones((200, 50))
figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
bytes_stored = {}
for name, (f, style, colour) in forms.items():
    bytes_stored[name] = [residuals(f, list(square[:n]), batch, argnums=0).stored for n in depths]
    axes.plot(depths, np.array(bytes_stored[name]) / 1e6, style, color=colour, label=name)
axes.set(xlabel="layers", ylabel="stored for the way back (MB)")
axes.set_title("200 samples, 50 units a layer, float64")
axes.legend()

activation = 200 * 50 * 8
by_autodiff, by_rule, again = bytes_stored.values()
assert by_rule == [n * activation for n in depths]
assert again == [(n // BLOCK - 1) * activation for n in depths], "between the blocks"
assert by_autodiff[-1] > 1.5 * by_rule[-1]
ten = list(square[:10])
gradients = [jax.jit(jax.grad(f))(ten, batch) for f, _, _ in forms.values()]
assert same(gradients[0], gradients[1]) and same(gradients[2], gradients[1])

# %% [markdown]
# ## Four witnesses for each rule
#
# A rule derived by hand may be wrong, and then nothing fails: the net trains worse. So each rule
# here has four witnesses: autodiff, and a second derivation in NumPy (`fnnet.proof.reference`),
# whose rule is itself proved by algebra (above) and by differences: move every number of the
# argument a little and see what the loss does.


# %%
def differences(f, args, g, number, h=1e-6):
    """The gradient of sum(g * f(*args)) in one argument, by central differences."""
    argument, gradient = np.asarray(args[number]), np.zeros(np.shape(args[number]))
    for index in np.ndindex(argument.shape):
        up, down = (argument.copy() for _ in range(2))
        up[index] += h
        down[index] -= h
        above, below = (
            np.sum(g * f(*args[:number], moved, *args[number + 1 :])) for moved in (up, down)
        )
        gradient[index] = (above - below) / (2 * h)
    return gradient


few = {"lin": (x[:4, :3], w1[:3, :2], b1[:2]), "relu": (z[:3, :4],), "mse": (o[:5], y[:5])}
print(f"{'':<14}{'autodiff':>10}{'NumPy twin':>12}{'differences':>13}   greatest relative error")
for name, args in few.items():
    out, kept = getattr(ops, f"{name}_fwd")(*args)
    g = jnp.cos(1 + jnp.arange(out.size).reshape(out.shape))
    by_rule = getattr(ops, f"{name}_bwd")(kept, g)
    by_autodiff = jax.vjp(plain(getattr(ops, name)), *args)[1](g)
    by_twin = getattr(reference, f"{name}_vjp")(*map(np.asarray, args), np.asarray(g))
    twin = getattr(reference, name)
    for number, argument in enumerate(by_rule):
        moved = differences(twin, [np.asarray(v) for v in args], np.asarray(g), number)
        errors = [np.abs(w - argument).max() / np.abs(argument).max()
                  for w in (by_autodiff[number], by_twin[number], moved)]
        print(f"{name}, argument {number}{errors[0]:>9.0e}{errors[1]:>12.0e}{errors[2]:>13.0e}")
        assert errors[0] < 1e-14 and errors[1] < 1e-14 and errors[2] < 1e-8

# %% [markdown]
# `fnnet.check.check_vjp` asks these and further questions of a rule of your own: see notebook 7.
#
# ## The same for any depth
#
# `backprop.forward_and_backward` is the pass above with a loop in it: residuals are put on a stack
# going forward and taken from it going backward, last in, first out.

# %%
for sizes in [(100, 1), (100, 50, 1), (100, 80, 40, 20, 1)]:
    mlp = backprop.init_mlp(jax.random.key(2), sizes, dtype=jnp.float64)
    value, gradients = jax.jit(backprop.forward_and_backward)(mlp, x, y)
    wanted = jax.jit(jax.value_and_grad(plain(backprop.loss)))(mlp, x, y)
    assert same((value, gradients), wanted, rtol=1e-12)
    count = len(jax.tree.leaves(gradients))
    print(f"{len(sizes) - 1} layers, {count} gradients: equal to autodiff's")

# %% [markdown]
# A gradient points uphill; a small step against it lowers the loss. That step, again and again, is
# training.

# %%
@jax.jit
def iteration(params, x, y):
    loss, gradients = backprop.forward_and_backward(params, x, y)
    return loss, jax.tree.map(lambda p, g: p - 0.02 * g, params, gradients)


trained, losses = params, []
for _ in range(100):
    loss, trained = iteration(trained, x, y)
    losses.append(float(loss))
assert losses[-1] < 0.5 * losses[0] and all(b < a for a, b in zip(losses, losses[1:]))

figure, axes = plt.subplots(figsize=(5, 2.8), layout="constrained")
axes.plot(losses, color=ORANGE)
axes.set(xlabel="iterations", ylabel="mean squared error", ylim=(0, None))
axes.set_title("Training by hand, no autodiff");

# %% [markdown]
# ## To remember
#
# - The chain rule: times along a way, plus over the ways. What is summed is what the argument's
#   name lacks.
# - mse: $\frac2n(o - y)$. lin: `g @ w.T`, `x.T @ g`, `g.sum(0)`. relu: $g$ where $a > 0$.
# - From the loss backward: each call needs what the one before it gives, and all that lies between
#   has the shape of a value.
# - What is stored are the factors of products: activations. They grow with batch and depth.
#
# Tests that say the same at length: `tests/foundations/test_net.py`, `tests/net/test_backprop.py`.
