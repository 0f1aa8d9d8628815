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
# # 9. Calculus and automatic differentiation
#
# **What it teaches.** The derivative as a limit, and why computing it so fails; gradients and the
# chain rule, by rule, by symbols and by machine; derivatives of many numbers; constants that depend
# on x; derivatives through loops and branches, what `jit` refuses, and what to do.
#
# **How long it takes.** About 40 minutes to read; it runs in less than a minute on two CPU cores.
#
# **What to install.** `fnnet` with the extras `examples` and `symbolic`, which bring JAX, NumPy,
# matplotlib and SymPy. The next cell does it where they are missing, on Colab too once fnnet is on
# the package index.
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
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax import lax

from fnnet import lin, mse, ops, register
from fnnet.measure.memory import residuals
from fnnet.proof import reference
from fnnet.proof.symbolic import Instance, Sym, prove

try:
    from IPython.display import Math, display
except ImportError:  # run as a script
    Math, display = str, print

jax.config.update("jax_enable_x64", True)  # JAX's default is float32; here digits are counted
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
# ## The limit
#
# $f(x) = 3x^2 - 4x$ has the slope $6x - 4$, so 2 at $x = 1$. The difference quotient there is
# $2 + 3h$ exactly: it tends to 2 with $h$.


# %%
def f(x):
    return 3 * x**2 - 4 * x


def forward(f, x, h):
    return (f(x + h) - f(x)) / h


def central(f, x, h):
    return (f(x + h) - f(x - h)) / (2 * h)


for k in range(1, 6):
    print(f"h = 1e-{k}   quotient {forward(f, 1.0, 10.0**-k):.{k}f}")
    assert abs(forward(f, 1.0, 10.0**-k) - (2 + 3 * 10.0**-k)) < 1e-10
assert jax.grad(f)(1.0) == 2

# %%
x = np.linspace(-0.5, 2, 100)
figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
axes.plot(x, f(x), color="#2a78b5", label="$f(x) = 3x^2 - 4x$")
tangent = f(1) + jax.grad(f)(1.0) * (x - 1)
axes.plot(x, tangent, "--", color="k", lw=1, label="tangent at 1, slope 2")
for h, colour in ((0.9, "#e08a1e"), (0.4, "#c2571a")):
    slope = forward(f, 1.0, h)
    words = f"h = {h}, slope {slope:.1f}"
    axes.plot([1, 1 + h], [f(1.0), f(1 + h)], "o-", color=colour, ms=4, label=words)
axes.set(xlabel="x", ylabel="f(x)", ylim=(-2, 5), title="Secants become the tangent")
axes.legend();

# %% [markdown]
# ### Why small steps fail
#
# On a computer the limit is not reached. The quotient errs by *truncation*, which falls with $h$,
# and by *rounding*: $f$ is known to about $\varepsilon$, its relative precision, and that error is
# divided by $h$. Between them lies a best step, near $\sqrt\varepsilon$; below it digits are lost,
# and where $1 + h$ rounds to 1 there is nothing left. Central differences err by $h^2$: a larger
# step, and more digits. The derivative by rule has no step to choose.

# %%
steps = 10.0 ** -np.arange(0.5, 17.01, 0.25)


def errors(quotient, dtype):
    """At x = 1 of f = sin, with every number in this dtype."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = [quotient(np.sin, dtype(1), dtype(h)) for h in steps]
    return np.abs(np.array(found, float) - np.cos(1))


curves = {
    "float32, forward": (errors(forward, np.float32), "#e08a1e", "-"),
    "float32, central": (errors(central, np.float32), "#e08a1e", "--"),
    "float64, forward": (errors(forward, np.float64), "#2a78b5", "-"),
    "float64, central": (errors(central, np.float64), "#2a78b5", "--"),
}
figure, axes = plt.subplots(figsize=(7.5, 4), layout="constrained")
for name, (error, colour, style) in curves.items():
    axes.loglog(steps, error, style, color=colour, label=name)
    best = np.nanargmin(error)
    print(f"{name}: best h {steps[best]:.0e}, error {error[best]:.0e}")
for dtype, colour in ((np.float32, "#e08a1e"), (np.float64, "#2a78b5")):
    rule = float(jax.grad(jnp.sin)(dtype(1)))
    error = max(abs(rule - np.cos(1)), 1e-17)  # 0 has no place on this axis
    axes.axhline(error, color=colour, ls=":", label=f"{dtype.__name__}, by rule (jax.grad)")
axes.set(xlabel="step h", ylabel="absolute error of the slope of sin at 1", ylim=(1e-18, 10))
axes.invert_xaxis()
axes.legend(fontsize=8, ncols=2, loc="lower right", bbox_to_anchor=(1, 0.07));

# %%
best = {name: np.nanmin(error) for name, (error, _, _) in curves.items()}
assert best["float64, central"] < 1e-9 < best["float64, forward"] < 1e-6, "2/3 of 16, and half"
assert best["float32, forward"] > 1e-5, "by forward differences, in float32, under 5 digits"
one = np.float32(1)
assert forward(f, one, np.float32(1e-8)) == 0, "1 + h is 1: wrong by all of it, and no warning"
assert abs(float(jax.grad(jnp.sin)(one)) - np.cos(1)) < 1e-7

# %% [markdown]
# ## Gradients
#
# The partial derivatives of a function of several numbers, together, are its gradient: an array of
# the argument's own shape. It is a value. Nothing is accumulated in $x$ and nothing has to be set
# to zero.

# %%
x = jnp.arange(4.0)
value, gradient = jax.value_and_grad(lambda x: 2 * jnp.dot(x, x))(x)
assert value == 28
assert gradient.tolist() == [0, 4, 8, 12], "4x"
assert jax.grad(jnp.sum)(x).tolist() == [1, 1, 1, 1]
assert jax.grad(lambda x: (x * x).sum())(x).tolist() == [0, 2, 4, 6], "2x"


# %%
def g(p):
    x, y = p
    return x**2 * y + jnp.sin(y)


line = jnp.linspace(-2, 2, 81)
points = jnp.stack(jnp.meshgrid(line, line))
some = points[:, ::10, ::10].reshape(2, -1).T
arrows = jax.vmap(jax.grad(g))(some)
by_rule = jnp.stack([2 * some[:, 0] * some[:, 1], some[:, 0] ** 2 + jnp.cos(some[:, 1])], 1)
assert jnp.allclose(arrows, by_rule)

figure, axes = plt.subplots(figsize=(5.6, 4.6), layout="constrained")
filled = axes.contourf(line, line, g(points), levels=21, cmap="RdBu_r", vmin=-9, vmax=9)
figure.colorbar(filled, label="g")
axes.quiver(*np.asarray(some).T, *np.asarray(arrows).T, label="gradient")
axes.set(xlabel="x", ylabel="y", title=r"$g = x^2 y + \sin y$ rises fastest along its gradient")
axes.legend(loc="lower right");

# %% [markdown]
# ## The chain rule
#
# $\frac{dy}{dx} = \frac{dy}{du}\frac{du}{dx}$, and with several $u$ the sum over them: a product of
# Jacobians. The loss of a linear layer, $L = \mathrm{mse}(\mathrm{lin}(x, w, b), y)$, is such a
# chain. First the derivative in the prediction $o$, then $o$'s in the arguments. There are $n$
# samples, and $y$ is to be a column as $o$ is, or $o - y$ is broadcast to $n \times n$ numbers:
#
# $$\frac{\partial L}{\partial o} = \frac{2}{n}(o - y), \qquad
# \frac{\partial L}{\partial w} = x^\top \frac{\partial L}{\partial o}, \quad
# \frac{\partial L}{\partial x} = \frac{\partial L}{\partial o} w^\top, \quad
# \frac{\partial L}{\partial b} = \sum_{p=1}^n \frac{\partial L}{\partial o_p}$$

# %%
keys = jax.random.split(jax.random.key(0), 4)
x, w, b, y = (jax.random.normal(k, s) for k, s in zip(keys, [(6, 3), (3, 1), (1,), (6,)]))

do = 2 / 6 * (lin(x, w, b) - y[:, None])
by_hand = (do @ w.T, x.T @ do, do.sum(0))
automatic = jax.grad(lambda x, w, b: mse(lin(x, w, b), y), (0, 1, 2))(x, w, b)
assert all(jnp.allclose(h, a, rtol=1e-14) for h, a in zip(by_hand, automatic))

# the same by the rules of fnnet's ops, which can be used alone
o, lin_kept = ops.lin_fwd(x, w, b)
loss, mse_kept = ops.mse_fwd(o, y)
do, _ = ops.mse_bwd(mse_kept, jnp.ones(()))
assert all(jnp.allclose(h, a, rtol=1e-14) for h, a in zip(ops.lin_bwd(lin_kept, do), automatic))

# %% [markdown]
# Each rule is proved: SymPy differentiates $\sum g \cdot \mathrm{lin}(x, w, b)$ in every entry, and
# the difference to the rule simplifies to exactly 0.

# %%
case = Instance({"x": Sym(2, 1), "w": Sym(1, 2), "b": Sym(2)})
proof = prove("lin", cases=[case])
assert proof.exact
print(proof)
display(Math(proof.latex))


# %% [markdown]
# A rule that forgets that the bias serves every sample is refuted, with the expressions that
# differ:


# %%
def forgets(x, w, b, g):
    dx, dw, _ = reference.lin_vjp(x, w, b, g)
    return dx, dw, g[0]


refuted = prove("lin", vjp=forgets, cases=[case])
assert not refuted.exact
print(refuted)

# %% [markdown]
# ## More than one number
#
# The derivative of many numbers in many is a matrix, the Jacobian. Training never needs it: it
# needs a row of weights times it, the *vector-Jacobian product*, which costs a small multiple of
# the function: twice, for a matrix product (notebook 2).

# %%
x = jnp.arange(4.0)
refused(lambda: jax.grad(lambda x: x * x)(x))

y, vjp = jax.vjp(lambda x: x * x, x)
assert vjp(jnp.ones(4))[0].tolist() == [0, 2, 4, 6], "of the sum"
assert vjp(jnp.array([0.0, 0, 1, 0]))[0].tolist() == [0, 0, 4, 0], "of y[2]"
assert (jax.jacrev(lambda x: x * x)(x) == jnp.diag(2 * x)).all()

weights = jnp.array([1.0, 10, 100, 1000])
assert (vjp(weights)[0] == weights @ jax.jacrev(lambda x: x * x)(x)).all()

# a gradient for each sample is the gradient of one, mapped
samples = jax.random.normal(jax.random.key(1), (5, 4))
assert jnp.allclose(jax.vmap(jax.grad(lambda x: x @ x))(samples), 2 * samples)

# %% [markdown]
# ## Constants that depend on x
#
# `stop_gradient` gives its argument's value and the derivative 0. Let $y = x^2$, $u$ the same value
# held constant: $z = u x$ has the derivative $u$, where $y x = x^3$ has $3x^2$.


# %%
def z(x, constant):
    y = x * x
    u = lax.stop_gradient(y) if constant else y
    return (u * x).sum()


assert jax.grad(z)(x, True).tolist() == [0, 1, 4, 9]
assert jax.grad(z)(x, False).tolist() == [0, 3, 12, 27]
assert z(x, True) == z(x, False)

# %% [markdown]
# ## Through loops and branches
#
# Not compiled, a function may use all of Python: it runs on the numbers, and what was done with
# them is differentiated. This one doubles its argument until its size is 1000 or more. So
# $f(a) = k a$ with a $k$ that depends on $a$, and $f'(a) = k = f(a)/a$ wherever $k$ does not jump.
# Where it does, as at $a = 500$, $f$ jumps too and has no derivative: what comes out is the $k$ of
# the piece that was run. And of $a = 0$ the function never returns.


# %%
def doubling(a):
    b = 2 * a
    while abs(b) < 1000:
        b = 2 * b
    return b if b > 0 else 100 * b


for a in (0.6563, -0.3, 7.0, 999.0, -1e-3):
    slope = jax.grad(doubling)(a)
    assert slope == doubling(a) / a
    print(f"a = {a:<8} f(a) = {doubling(a):<14.6g} f'(a) = {slope:g}")
assert jax.grad(doubling)(0.6563) == 2048
assert jax.grad(doubling)(500.0) == 2 and jax.grad(doubling)(499.999) == 4, "it jumps at 500"

# %% [markdown]
# `jit` compiles once for all values of $a$, so it cannot ask which one it is. `lax.while_loop` can
# be compiled, but runs forward only: how often it will turn is not known, so nothing can be set
# aside for the way back.


# %%
def turning(b):
    return abs(b) < 1000


def last(b):
    return jnp.where(b > 0, b, 100 * b)


def with_while(a):
    return last(lax.while_loop(turning, lambda b: 2 * b, 2 * a))


refused(lambda: jax.jit(doubling)(0.6563))
assert jax.jit(with_while)(0.6563) == doubling(0.6563)
refused(lambda: jax.grad(with_while)(0.6563))
assert jax.jacfwd(with_while)(0.6563) == 2048, "forward mode sets nothing aside"


# %% [markdown]
# Two ways out. A loop of as many turns for every $a$, of which those not needed change nothing; it
# stores something for each turn. Or a rule by hand: $f'(a) = f(a)/a$ is known on paper, and goes
# round any loop.


# %%
def with_scan(a, turns=64):
    def turn(b, _):
        return jnp.where(turning(b), 2 * b, b), None

    return last(lax.scan(turn, 2 * a, length=turns)[0])


def doubling_fwd(a):
    out = with_while(a)
    return out, out / a


by_rule = register(with_while, doubling_fwd, lambda k, g: (k * g,), name="doubling")

many = jnp.concatenate([-jnp.geomspace(1e-3, 3e3, 300)[::-1], jnp.geomspace(1e-3, 3e3, 300)])
values, slopes = (jax.jit(jax.vmap(f))(many) for f in (with_scan, jax.grad(with_scan)))
assert jnp.allclose(slopes, values / many, rtol=1e-14)
assert jnp.allclose(jax.jit(jax.vmap(jax.grad(by_rule)))(many), slopes, rtol=1e-14)

scan, rule = residuals(with_scan, many[0]), residuals(by_rule, many[0])
assert rule.stored == 8 < scan.stored
print(f"stored for the way back: {scan.stored} bytes by the scan, {rule.stored} by the rule")

# %%
figure, axes = plt.subplots(2, 1, figsize=(7, 4.6), sharex=True, layout="constrained")
right = many > 0
axes[0].loglog(many[right], values[right], color="#2a78b5", label="a > 0")
axes[0].loglog(-many[~right], -values[~right], color="#e08a1e", label="a < 0 (−f)")
axes[1].loglog(many[right], slopes[right], color="#2a78b5", label="a > 0")
axes[1].loglog(-many[~right], slopes[~right], color="#e08a1e", label="a < 0")
axes[0].set(ylabel="|f(a)|", title="A loop and a branch: straight lines, in pieces")
axes[1].set(xlabel="|a|", ylabel="f'(a)")
for each in axes:
    each.legend()

# %% [markdown]
# ### What else jit refuses, and what to do

# %%
x = jnp.array([1.5, 3.0])
table = {
    "an if": (
        lambda x: x[0] if x.sum() > 0 else x[1],
        lambda x: jnp.where(x.sum() > 0, x[0], x[1]),
    ),
    "a Python number": (lambda x: x * float(x.sum()), lambda x: x * x.sum()),
    "a NumPy function": (lambda x: np.sin(x), lambda x: jnp.sin(x)),
    "a shape by values": (lambda x: x[x > 2].sum(), lambda x: jnp.where(x > 2, x, 0).sum()),
}
for what, (wrong, right) in table.items():
    print(f"{what:<20}", end="")
    refused(lambda wrong=wrong: jax.jit(wrong)(x))
    assert jnp.allclose(jax.jit(right)(x), wrong(x))

# %% [markdown]
# ### Where `where` fails
#
# `where` computes both sides, forward and backward. The side that is not chosen gets a cotangent of
# 0, and 0 times an infinite slope is NaN. The argument must be made harmless first.

# %%
wrong = lambda x: jnp.where(x > 0, jnp.sqrt(x), 0.0)
safe = lambda x: jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1.0)), 0.0)
assert wrong(0.0) == safe(0.0) == 0
assert jnp.isnan(jax.grad(wrong)(0.0))
assert jax.grad(safe)(0.0) == 0

# %% [markdown]
# ## To remember
#
# - Differences need a step: the best forward step leaves half of the digits, a central one two
#   thirds. A rule needs none.
# - A gradient is a value. `vjp` with a chosen cotangent is what training is made of.
# - Python's control flow that asks for values can be differentiated, and not compiled; `while_loop`
#   the other way round (in reverse mode); `scan` both, and a rule by hand too.
#
# Tests that say the same at length: `tests/foundations/test_calculus.py`.
