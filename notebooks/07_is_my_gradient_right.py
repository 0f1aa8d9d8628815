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
# # 7. Is my gradient right?
#
# **What it teaches.** Why the tests that one writes first pass wrong gradients and accuse right
# ones; what to ask instead, and `check_vjp`, which asks it; a tour of mistakes and what it says of
# each; rules that look wrong and are right; whole models; how to write, test and keep a gradient of
# your own, step by step.
#
# **How long it takes.** About 40 minutes to read; it runs in less than a minute on two CPU cores.
#
# **What to install.** `fnnet` with the extra `examples`, which brings JAX, NumPy and matplotlib.
# The next cell does it where it is missing, on Colab too once fnnet is on the package index.
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
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax import lax
from jax.test_util import check_grads
from matplotlib.patches import Patch

from fnnet import backprop, lin, plain, register, relu
from fnnet.check import GradientError, assert_vjp, check_vjp, compare_gradients

# much is compiled below, and little computed: XLA's optimisations would not pay
jax.config.update("jax_disable_most_optimizations", True)
plt.rcParams.update({"figure.dpi": 110, "font.size": 9})
print(f"JAX {jax.__version__}, NumPy {np.__version__}, on {jax.default_backend()}")


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng([seed, *shape]).normal(size=shape), jnp.float32)


def refused(call):
    """The error that `call` raises, in one line; it is a mistake here if there is none."""
    try:
        call()
    except Exception as error:
        print(f"{type(error).__name__}: {str(error).strip().splitlines()[0][:150]}")
    else:
        raise AssertionError("this was expected to fail")


# %% [markdown]
# ## What a backward rule promises
#
# For $y = f(x)$ the rule gets a *cotangent* $g$, an array of $y$'s shape: how fast the loss changes
# with each number of $y$. It must return $\partial L/\partial x$, and that is
# $\sum_i g_i\,\partial y_i/\partial x$, **for every $g$**: linear in $g$, with $x$'s shape and
# dtype.
#
# In JAX a rule is given by `jax.custom_vjp`; nobody checks its numbers. Here is a small maker of
# rules, with which we can plant mistakes: `bwd(x, ..., y, g)` returns the cotangents of all
# arguments.


# %%
def rule(forward, bwd):
    def fwd(*args):
        y = forward(*args)
        return y, (args, y)

    f = jax.custom_vjp(forward)
    f.defvjp(fwd, lambda res, g: tuple(bwd(*res[0], res[1], g)))
    return f


def softmax(z):
    e = jnp.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def softmax_bwd(z, y, g):
    return (y * (g - (g * y).sum(-1, keepdims=True)),)


right = rule(softmax, softmax_bwd)
z, g = draw(6, 4), draw(6, 4, seed=1)
by_rule, automatic = (jax.vjp(f, z)[1](g)[0] for f in (right, softmax))
assert jnp.abs(by_rule - automatic).max() < 1e-6

# %% [markdown]
# ## Ones as cotangent
#
# The habit: compare `jax.grad(lambda x: f(x).sum())`. The sum asks for the cotangent 1 everywhere,
# and for no other. A rule that forgets $g$, or clips it, or squares it, is right there. Of a
# softmax it asks nothing at all: its outputs sum to 1 whatever $z$ is, so the gradient of the sum
# is 0, and the rule "always 0" is perfect.


# %%
def grad_of_sum(f, x):
    return jax.grad(lambda x: f(x).sum())(x)


mistakes = {
    "always zero": rule(softmax, lambda z, y, g: (0 * z,)),
    "wrong sign": rule(softmax, lambda z, y, g: (-softmax_bwd(z, y, g)[0],)),
    "10 times too large": rule(softmax, lambda z, y, g: (10 * softmax_bwd(z, y, g)[0],)),
}
for name, f in mistakes.items():
    assert jnp.allclose(grad_of_sum(f, z), grad_of_sum(softmax, z), atol=1e-6), "it passes"
    away = jnp.abs(jax.vjp(f, z)[1](g)[0] - automatic).max() / jnp.abs(automatic).max()
    assert away > 0.99
    print(f"{name:<20} passes with ones; with a random cotangent it is {away:.0%} wrong")

forgets = rule(jnp.sin, lambda x, y, g: (jnp.cos(x),))
assert jnp.allclose(grad_of_sum(forgets, z), grad_of_sum(jnp.sin, z))

# %% [markdown]
# ## Close to what?
#
# `allclose(a, b)` asks for $|a - b| \le 10^{-8} + 10^{-5}|b|$. The first number is absolute: where
# gradients are small, as those of a mean over many samples are, everything is close to everything.
# The second is relative, number by number: a sum in float32 whose terms nearly cancel has lost that
# precision, in any order of summing. So it lets the wrong pass, and accuses the right.

# %%
x, y = 4e-4 * draw(1000, 1000), jnp.zeros((1000, 1000))
gradient = jax.grad(lambda x: ((x - y) ** 2).mean())(x)
assert jnp.allclose(jnp.zeros_like(gradient), gradient), "no gradient at all: it passes"
assert jnp.allclose(-0.5 * gradient, gradient), "the wrong sign, half the size"
print(f"largest number in the gradient of the mean: {jnp.abs(gradient).max():.1e}")

x, g = draw(4096, 64), draw(4096, 32, seed=1)
here, there = x.T @ g, jnp.flip(x, 0).T @ jnp.flip(g, 0)  # the same sum over samples, backwards
exact = np.asarray(x, float).T @ np.asarray(g, float)
close = np.isclose(here, there)
assert not close.all()
for each in (here, there):
    assert np.abs(each - exact).max() < 1e-5 * np.abs(exact).max(), "both are right, in float32"
print(f"of {close.size} numbers, allclose disputes {(~close).sum()} between two right gradients")

# %% [markdown]
# ## What check_grads sees
#
# `jax.test_util.check_grads` compares with finite differences. It multiplies its tolerance by the
# number of elements, and tests a backward rule by **one number**, the product of the gradient and a
# random direction. So it sees less the larger the array is. Let us measure: the smallest error that
# it refuses, found by halving.


# %%
def passes(f, x, mode):
    try:
        check_grads(f, (x,), 1, modes=[mode])
        return True
    except AssertionError:
        return False


def sine_jvp(error):
    """sin, with a forward rule that is too large by this fraction."""
    f = jax.custom_jvp(jnp.sin)
    f.defjvp(lambda p, t: (jnp.sin(p[0]), (1 + error) * jnp.cos(p[0]) * t[0]))
    return f


def sine_vjp(error, place=0):
    """sin, with a backward rule that is too large by this fraction, in one element."""
    return rule(jnp.sin, lambda x, y, g: ((g * jnp.cos(x)).at[place].multiply(1 + error),))


for n, error in ((1, 0.01), (10, 0.1), (100, 1.0)):
    assert not passes(sine_jvp(error), draw(n), "fwd")
assert passes(sine_jvp(0.01), draw(10), "fwd"), "1 % wrong"
assert passes(sine_jvp(0.1), draw(100), "fwd"), "10 % wrong"
assert passes(sine_jvp(-1.0), draw(1000), "fwd"), "always zero"
assert passes(sine_jvp(-2.0), draw(1000), "fwd"), "the wrong sign"

# %%
sizes = [1, 10, 100, 1000, 10_000]


def smallest(make, x, mode):
    """The smallest error that check_grads refuses, to a factor of 1.5."""
    low, high = 1e-6, 1e3
    while high > 1.5 * low:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if passes(make(middle), x, mode) else (low, middle)
    return high


whole, one, ours = [], [], []
for n in sizes:
    x = draw(n)
    whole.append(smallest(sine_jvp, x, "fwd"))
    some = [smallest(lambda e, i=i: sine_vjp(e, i), x, "rev") for i in range(min(n, 2))]
    one.append(float(np.median(some)))
    largest = int(jnp.abs(jnp.cos(x)).argmax())
    report = check_vjp(sine_vjp(1e-5, largest), (x,), stop_early=True)
    assert (report.verdict, report.wrong[0].index) == ("wrong", (largest,))
    ours.append(report.power["x"])

assert whole[3] > 2 and whole[-1] > 30 * whole[2], "the tolerance grows with the size"
assert one[-1] > 3 * one[0]
assert max(ours) < 1e-6

figure, axes = plt.subplots(figsize=(7.5, 4), layout="constrained")
axes.loglog(sizes, whole, "o-", color="#c2571a", label="check_grads, forward: all elements")
axes.loglog(sizes, one, "s-", color="#e08a1e", label="check_grads, reverse: one element")
axes.loglog(sizes, ours, "^-", color="#2a78b5", label="check_vjp: one element")
axes.axhline(1, color="k", lw=0.8, ls=":")
axes.text(1, 1.2, "1: as large as the gradient itself", fontsize=8)
axes.set(
    xlabel="elements of x",
    ylabel="smallest relative error that is seen",
    title="A gradient test should not grow blind with the array",
)
axes.legend(loc="center right");

# %% [markdown]
# And it accuses the right: the differences are taken in float32 with a fixed step. Of a value near
# 100 nine bits of the difference are left.

# %%
square = rule(lambda x: x * x, lambda x, y, g: (2 * x * g,))
assert passes(square, draw(10), "rev")
refused(lambda: check_grads(square, (10 * draw(10),), 1, modes=["rev"]))
assert check_vjp(square, (10 * draw(10),)).verdict == "correct"


# %% [markdown]
# ## What to ask instead
#
# `check_vjp(f, args)` takes a function with a hand-written rule, at arguments of the shapes and
# dtypes that you use, and asks: is the rule's answer that of autodiff of the same function
# *without* its rule, in float64, with random cotangents, in **every element**, to a bound that
# comes from the dtype and the rounding of this function? Do differences of the value, which no rule
# enters, agree? Is it linear in $g$? Can it be differentiated again? Does it survive `jit`, `vmap`,
# `scan`, `checkpoint`, bfloat16? A layer norm whose author forgot that the mean depends on $x$ too:


# %%
def layer_norm(x, scale):
    c = x - x.mean(-1, keepdims=True)
    return scale * c / jnp.sqrt((c * c).mean(-1, keepdims=True) + 1e-5)


def forgets_the_mean(x, scale, y, g):
    c = x - x.mean(-1, keepdims=True)
    r = 1 / jnp.sqrt((c * c).mean(-1, keepdims=True) + 1e-5)
    h = g * scale
    n = c * r
    return r * (h - n * (h * n).mean(-1, keepdims=True)), (g * n).sum(0)


x, scale = draw(8, 6), 1 + 0.1 * draw(6)
report = check_vjp(rule(layer_norm, forgets_the_mean), (x, scale))
assert (report.verdict, report.diagnosis) == ("wrong", "missing_term")
assert report.wrong[0].arg == "x" and "scale" not in {finding.arg for finding in report.wrong}
print(report)

# %% [markdown]
# How to read it. Each row is a question about an argument; *bound* is the disagreement allowed at
# an element, and *error* is that of the element which is worst beside its bound. Below, each wrong
# answer names the element, both numbers, and what the mistake probably is: here, that the part of
# the gradient which flows through an intermediate of shape (8, 1) is missing: the sum in the mean,
# which the report calls its numerator. The last line is the report's own power. It is data, too:

# %%
finding = report.wrong[0]
print(finding.diagnosis, finding.index, f"{finding.got:.4f} for {finding.want:.4f}", finding.detail)
assert report.to_dict()["findings"][0]["verdict"] == "correct"


# the term that was missing
def complete(x, scale, y, g):
    dx, dscale = forgets_the_mean(x, scale, y, g)
    c = x - x.mean(-1, keepdims=True)
    r = 1 / jnp.sqrt((c * c).mean(-1, keepdims=True) + 1e-5)
    return dx - r * (g * scale).mean(-1, keepdims=True), dscale


assert check_vjp(rule(layer_norm, complete), (x, scale)).verdict == "correct"

# %% [markdown]
# ## A tour of mistakes
#
# Fourteen planted mistakes, and three testers: the sum with `allclose` (a kind one, with an
# absolute tolerance of 1e-6), `check_grads` of first order, and `check_vjp`. `changed` takes a
# right gradient and spoils it.


# %%
def changed(forward, change):
    return rule(forward, lambda *a: change(*jax.vjp(forward, *a[:-2])[1](a[-1]), *a[:-2], a[-1]))


def linear(x, w, b):
    return x @ w + b


def narrow(dx, dw, db, x, w, b, g):
    """A product in bfloat16, as some would have it."""
    return dx, (x.T.astype("bfloat16") @ g.astype("bfloat16")).astype(dw.dtype), db


other_value = jax.custom_vjp(lambda x: jnp.sin(x))
other_value.defvjp(lambda x: (jnp.tan(x), x), lambda x, g: (g / jnp.cos(x) ** 2,))

x_w_b = draw(16, 20), draw(20, 20, seed=1), draw(20, seed=2)
spoilt_linear = {  # name: what becomes of the cotangents of x, w and b; the diagnosis
    "dw half as large": (lambda dx, dw, db, *_: (dx, dw / 2, db), "scaled"),
    "db with the wrong sign": (lambda dx, dw, db, *_: (dx, dw, -db), "negated"),
    "db a mean, not a sum": (lambda dx, dw, db, *a: (dx, dw, a[-1].mean(0)), "mean_not_sum"),
    "dw transposed": (lambda dx, dw, db, *_: (dx, dw.T, db), "transposed"),
    "db does not use g": (lambda dx, dw, db, *_: (dx, dw, 0 * db + 16), "ignores_cotangent"),
    "g times its size in dx": (
        lambda dx, dw, db, x, w, b, g: ((g * jnp.abs(g)) @ w.T, dw, db),
        "nonlinear_in_cotangent",
    ),
    "one of 400 numbers, by 1/1000": (
        lambda dx, dw, db, *_: (dx, dw.at[2, 1].multiply(1.001), db),
        "elements",
    ),
    "dw summed in bfloat16": (narrow, "dtype"),
    "db keeps an axis": (lambda dx, dw, db, *_: (dx, dw, db[None]), "shape"),
}
exchanged = changed(jnp.matmul, lambda da, db, *_: (db, da))
once = rule(jnp.sin, lambda x, y, g: (g * jnp.cos(lax.stop_gradient(x)),))
bugs = {  # name: function, arguments, diagnosis
    name: (changed(linear, change), x_w_b, diagnosis)
    for name, (change, diagnosis) in spoilt_linear.items()
} | {
    "a and b exchanged": (exchanged, (draw(4, 4), draw(4, 4, seed=1)), "swapped"),
    "softmax: always zero": (mistakes["always zero"], (z,), "zero"),
    "softmax: the sum is missing": (rule(softmax, lambda z, y, g: (y * g,)), (z,), "missing_term"),
    "fwd returns another value": (other_value, (draw(6),), "value_differs"),
    "wrong when differentiated again": (once, (draw(6),), "second_order"),
}


# %% [markdown]
# And six rules that are right, and easy to accuse.


# %%
def maximum(x):
    return jnp.maximum(x, 0)


at_the_kink = jnp.array([0.0, -0.0, 1e-30, -1e-30, 1.0, -2.0])
slope_0 = rule(maximum, lambda x, y, g: (jnp.where(x > 0, g, 0),))
slope_1 = rule(maximum, lambda x, y, g: (jnp.where(x >= 0, g, 0),))
samples = draw(4096, 8)
long_sum = rule(lambda w: samples @ w, lambda w, y, g: ((g.T @ samples).T,))
straight = rule(lambda x: jnp.round(x), lambda x, y, g: (g,))
rights = {  # name: function, arguments, what its gradient is declared to be that of, if another's
    "linear: x @ w + b": (changed(linear, lambda dx, dw, db, *_: (dx, dw, db)), x_w_b, None),
    "relu at 0: slope 0": (slope_0, (at_the_kink,), None),
    "relu at 0: slope 1": (slope_1, (at_the_kink,), None),
    "values near 10,000": (square, (100 * draw(9),), None),
    "a sum of 4096 in float32": (long_sum, (draw(8, 8),), None),
    "round, straight through": (straight, (draw(9),), lambda x: x),
}


def by_sum(f, args, reference):
    """allclose of the gradients of the sum: whether it says "wrong"."""
    numbers, truth = tuple(range(len(args))), reference or plain(f)
    got, want = (jax.grad(lambda *a, h=h: h(*a).sum(), numbers)(*args) for h in (f, truth))
    return not all(np.allclose(a, b, atol=1e-6) for a, b in zip(got, want))


def by_check_grads(f, args, reference):
    try:
        check_grads(f, args, 1, modes=["rev"])
        return False
    except AssertionError:
        return True


def attempt(tester, *a):
    try:
        return tester(*a)
    except (TypeError, ValueError):  # JAX itself refuses a cotangent of the wrong shape
        return True


said, reports = {}, {}
for name, (f, args, _) in bugs.items():
    reports[name] = check_vjp(f, args, stop_early=True)
    said[name] = [attempt(t, f, args, None) for t in (by_sum, by_check_grads)]
    said[name].append(reports[name].verdict == "wrong")

# %%
for name, (f, args, reference) in rights.items():
    other = reference is not None  # its value is another's too, on purpose
    reports[name] = check_vjp(f, args, reference=reference, surrogate=other)
    said[name] = [attempt(t, f, args, reference) for t in (by_sum, by_check_grads)]
    said[name].append(reports[name].verdict == "wrong")

testers = ["sum and\nallclose", "check_grads", "check_vjp"]
is_bug = np.array([name in bugs for name in said])
fails = np.array(list(said.values())) != is_bug[:, None]
for tester, fail in zip(testers, fails.T):
    misses = f"misses {fail[is_bug].sum()} of {is_bug.sum()} mistakes"
    accuses = f"accuses {fail[~is_bug].sum()} of {(~is_bug).sum()} right rules"
    print(f"{' '.join(tester.split()):<18}{misses}, {accuses}")
assert not fails[:, 2].any()
assert fails[is_bug, 0].sum() >= 3 and fails[is_bug, 1].sum() >= 1
assert fails[~is_bug, 0].sum() >= 3 and fails[~is_bug, 1].sum() >= 3

# %%
figure, both = plt.subplots(1, 2, figsize=(10.5, 4.4), layout="constrained")
for axes, rows, title in zip(both, (is_bug, ~is_bug), ("planted mistakes", "right rules")):
    names = [name for name, row in zip(said, rows) if row]
    axes.imshow(fails[rows], cmap="coolwarm", vmin=-0.3, vmax=1.2, aspect="auto")
    for (i, j), fail in np.ndenumerate(fails[rows]):
        word = ("wrong" if said[names[i]][j] else "right") + (" ✗" if fail else "")
        axes.text(j, i, word, ha="center", va="center", color="w", fontsize=8)
    axes.set_xticks(range(3), testers)
    axes.set_yticks(range(len(names)), names)
    axes.set_title(title)
colours = {"verdict true": 0.2, "false ✗": 0.87}
marks = [Patch(color=plt.cm.coolwarm(c), label=name) for name, c in colours.items()]
figure.legend(handles=marks, loc="outside lower center", ncols=2);

# %% [markdown]
# Each mistake was not only seen but named:

# %%
for name, (_, _, diagnosis) in bugs.items():
    report = reports[name]
    assert report.diagnosis == diagnosis, (name, report.diagnosis)
    print(f"{name}\n    {diagnosis}: {str(report.wrong[0].detail)[:110]}")

# %% [markdown]
# ## At a kink, and where nobody knows
#
# Where left and right derivatives differ there is no derivative: any number between them is a
# choice, and none is accused. The report says how many elements are there. Outside of the two, the
# rule is wrong.

# %%
print([str(f.detail) for f in reports["relu at 0: slope 1"].findings if f.check == "kinks"])
assert jax.vmap(jax.grad(relu))(jnp.array([-2.0, 0, 3])).tolist() == [0, 0, 1], "fnnet chose 0"
assert jax.grad(maximum)(0.0) == 0.5, "autodiff, the middle"
outside = rule(maximum, lambda x, y, g: (jnp.where(x > 0, g, jnp.where(x == 0, 2 * g, 0)),))
report = check_vjp(outside, (jnp.array([0.0, 1, -1]),), stop_early=True)
assert report.verdict == "wrong" and report.wrong[0].index == (0,)


# %% [markdown]
# And the oracle may fail. Autodiff of this function is NaN at 0, where the rule says 0, and
# differences do not settle, as the slope is infinite. The rule may be right; it is not accused, nor
# acquitted: *undecidable*.


# %%
def root(x):
    return jnp.where(x > 0, jnp.sqrt(x), 0.0)


safe = rule(root, lambda x, y, g: (jnp.where(x > 0, g / (2 * jnp.where(x > 0, y, 1)), 0),))
assert jnp.isnan(jax.grad(root)(0.0)) and jax.grad(safe)(0.0) == 0
report = check_vjp(safe, (jnp.array([0.0, 1, 2]),))
assert report.verdict == "undecidable" and report.ok
print([str(f.detail) for f in report.findings if f.verdict == "undecidable"])
assert check_vjp(safe, (jnp.array([0.5, 1, 2]),)).verdict == "correct"

# %% [markdown]
# ## A whole model
#
# `compare_gradients(loss, params, ...)` compares `jax.grad(loss)` with `jax.grad(plain(loss))`,
# leaf by leaf. One wrong layer of three:


# %%
def net(params, x, y, layer):
    h = relu(lin(x, **params["first"]))
    h = relu(layer(h, **params["second"]))
    return ((lin(h, **params["third"]) - y) ** 2).mean()


def layer_params(n_in, n_out, seed):
    w = draw(n_in, n_out, seed=seed) * (2 / n_in) ** 0.5
    return {"w": w, "b": 0.1 * draw(n_out, seed=seed)}


sizes = {"first": (6, 8), "second": (8, 8), "third": (8, 1)}
params = {name: layer_params(*size, seed) for seed, (name, size) in enumerate(sizes.items())}
x, y = draw(16, 6), draw(16, 1, seed=1)
by_hand = compare_gradients(lambda p, x, y: net(p, x, y, lin), params, x, y)
assert by_hand.verdict == "correct"

mean_bias = changed(linear, lambda dx, dw, db, *a: (dx, dw, db / len(a[-1])))


def with_mistake(p, x, y):
    return net(p, x, y, lambda x, w, b: mean_bias(x, w, b))


report = compare_gradients(with_mistake, params, x, y)
assert {finding.arg for finding in report.wrong} == {"p['second']['b']"}, "and no other leaf"
print(report)

# %% [markdown]
# A wrong rule for $w$ is local like this one; a wrong $dx$ would spoil every layer before it. The
# manual backward pass of `fnnet.backprop` has no `custom_vjp` in it: give the pair of loss and
# gradients to `register`, and it can be checked as any rule.

# %%
by_hand = register(
    backprop.loss,
    backprop.forward_and_backward,
    lambda grads, g: (jax.tree.map(lambda d: g * d, grads), None, None),
    name="mlp",
)
params = backprop.init_mlp(jax.random.key(0), (6, 8, 1))
assert compare_gradients(lambda params: by_hand(params, x, y), params).verdict == "correct"

# %% [markdown]
# ## In pytest
#
# `assert_vjp` raises where the verdict is "wrong", with the report as its message, so it is a test
# in one line. Put it where the op is, at shapes that are not square and not powers of two.


# %%
def test_softmax_gradient():
    assert_vjp(right, (draw(2, 3, 5),))


def test_layer_norm_gradient():
    assert_vjp(rule(layer_norm, forgets_the_mean), (draw(7, 6), scale), stop_early=True)


test_softmax_gradient()
try:
    test_layer_norm_gradient()
except GradientError as error:
    assert isinstance(error, AssertionError) and error.report.diagnosis == "missing_term"
    print(str(error).splitlines()[0])
else:
    raise AssertionError("it should have failed")

# %% [markdown]
# ## Your own op, step by step
#
# The op: log-sum-exp over the last axis, $y_n = \log\sum_j e^{z_{nj}}$.
#
# **1. The forward pass**, as a plain function that is right where it is hard: the maximum is taken
# out, or $e^{100}$ would overflow.


# %%
def logsumexp(z):
    top = z.max(-1)
    return top + jnp.log(jnp.exp(z - top[..., None]).sum(-1))


assert logsumexp(jnp.array([[1e4, 1e4]])) == 1e4 + jnp.log(2.0)

# %% [markdown]
# **2. The backward pass, on paper.** With an index for each axis, and the chain rule:
#
# $$\frac{\partial y_n}{\partial z_{nj}} = \frac{e^{z_{nj}}}{\sum_k e^{z_{nk}}} = e^{z_{nj} - y_n}
# \qquad\Rightarrow\qquad
# \frac{\partial L}{\partial z_{nj}} = g_n\, e^{z_{nj} - y_n}$$
#
# **3. What it needs** of the forward pass, the residuals: $z$, which the caller has anyway, and
# $y$, one number a row.
#
# **4. A number or two by hand.** $\sum g\,\partial y$ must be the same by either route, for any
# direction $v$. With a central difference, in NumPy and float64:

# %%
rng = np.random.default_rng(0)
z64, v, g64 = rng.normal(size=(5, 3)), rng.normal(size=(5, 3)), rng.normal(size=5)


def by_numpy(z):
    return np.log(np.exp(z).sum(-1))


forwards = g64 @ (by_numpy(z64 + 1e-5 * v) - by_numpy(z64 - 1e-5 * v)) / 2e-5
backwards = (g64[:, None] * np.exp(z64 - by_numpy(z64)[:, None]) * v).sum()
assert abs(forwards - backwards) < 1e-9 * abs(backwards)


# %% [markdown]
# **5. Write and register it.** Three functions: the value; the value and the residuals; and from
# the residuals and $g$ a cotangent for each argument. (This is what an `autograd.Function` with its
# `forward` and `backward` is elsewhere.) The first attempt has a mistake: $g_n$ lacks an axis.


# %%
def logsumexp_fwd(z):
    y = logsumexp(z)
    return y, (z, y)


def first_bwd(res, g):
    z, y = res
    return (g * jnp.exp(z - y[..., None]),)


first = register(logsumexp, logsumexp_fwd, first_bwd, name="first")

# %% [markdown]
# **6. Check it**, at shapes of different sizes. Where the axes differ, JAX refuses the product, and
# the report says so. For a square it is no error to JAX, but another gradient:

# %%
report = check_vjp(first, (draw(5, 3),), stop_early=True)
assert report.verdict == "wrong"
print(report.wrong[0].detail, "\n")

report = check_vjp(first, (draw(4, 4),), stop_early=True)
assert report.verdict == "wrong" and report.diagnosis == "wrong_axis"
print(report.wrong[0].detail)


# %%
def logsumexp_bwd(res, g):
    z, y = res
    return (g[..., None] * jnp.exp(z - y[..., None]),)


mine = register(logsumexp, logsumexp_fwd, logsumexp_bwd, name="logsumexp")
report = check_vjp(mine, (draw(5, 3),))
assert report.verdict == "correct"
print(report)

# %% [markdown]
# **7. Check it where it is hard**: one column of zeros; bfloat16; large numbers, and these under a
# budget of memory: the backward pass may keep $z$ and $y$, and not a third array.

# %%
hard = {
    "one column, all equal": jnp.zeros((3, 1)),
    "bfloat16": draw(5, 3).astype("bfloat16"),
}
for name, z in hard.items():
    report = check_vjp(mine, (z,))
    assert report.verdict == "correct", (name, str(report))
    print(f"{name:<22} {report.verdict}")

z = 1e3 * draw(64, 100)
report = check_vjp(mine, (z,), budget_bytes=z.nbytes + 64 * 4)
assert report.verdict == "correct"
kept, by_autodiff = report.residual_bytes
print(f"kept for the backward pass: {kept} bytes; by autodiff {by_autodiff}")

# %% [markdown]
# **8. Keep it right**: `assert_vjp(mine, (draw(5, 3),))` goes into a test, next to the op. On your
# own accelerator, `python -m fnnet check` asks the same questions of every op of fnnet.
#
# ## Manual against automatic, in one line
#
# `plain(f)` is `f` with every custom rule taken out, at any depth: through `jit`, `scan`,
# `checkpoint`, in your code and in that of others. The values stay; the derivative is JAX's own.
# Deep inside this function is the sine whose rule forgets $g$:


# %%
forgetful = rule(jnp.sin, lambda x, y, g: (jnp.cos(x),))


@jax.jit
def deep(x):
    return lax.scan(lambda x, _: (jax.checkpoint(forgetful)(x), None), x, length=3)[0].sum()


x = draw(4)
assert plain(deep)(x) == deep(x)
assert not jnp.allclose(jax.grad(deep)(x), jax.grad(plain(deep))(x))
sines = jax.grad(lambda x: jnp.sin(jnp.sin(jnp.sin(x))).sum())(x)
assert jnp.allclose(jax.grad(plain(deep))(x), sines)

# %% [markdown]
# It also gives what a backward rule cannot: **forward mode**. `jax.jvp` and `jax.jacfwd` have no
# use for a `custom_vjp`, and refuse it. What `register` makes has JAX's forward mode beside its
# rule; for a `custom_vjp` of somebody else's there is `fnnet.both_modes`.

# %%
z, v = draw(5, 3), draw(5, 3, seed=1)
value, slope = jax.jvp(plain(mine), (z,), (v,))
assert jnp.allclose(value, mine(z))
assert jnp.allclose(jax.jvp(mine, (z,), (v,))[1], slope)
assert jnp.allclose(slope, (jax.nn.softmax(z) * v).sum(-1), atol=1e-6)

row = z[0]
assert jnp.allclose(jax.jacfwd(plain(mine))(row), jax.grad(mine)(row), atol=1e-6)
forward_over_reverse = jax.hessian(mine)(row)  # needs no plain: forward through the rule's code
assert jnp.allclose(forward_over_reverse, jax.jacfwd(jax.jacfwd(plain(mine)))(row), atol=1e-6)

# %% [markdown]
# A warning: JAX's own custom rules go as well, and some are there for a reason. `jax.nn.relu` chose
# the slope 0 at 0; without its rule it is `maximum`, with 1/2.

# %%
assert jax.grad(jax.nn.relu)(0.0) == 0 and jax.grad(plain(jax.nn.relu))(0.0) == 0.5

# %% [markdown]
# ## To remember
#
# - Ask with random cotangents, in every element, in float64, with bounds that come from the dtype.
# - A sum as loss asks one question of a gradient; for a softmax it asks none.
# - At a kink a gradient is a choice. Where the oracle fails, say so, and accuse nobody.
# - Test at odd shapes and at the edges; put the assertion next to the op.
#
# How well the checker itself is tested: `tests/planted` holds the mistakes and the right rules,
# `python -m fnnet check --score` the count.
