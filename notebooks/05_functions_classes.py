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
# # 5. Functions, classes and back
#
# **What it teaches.** How a net with its backward pass is written as classes, as most libraries do;
# what the classes remember, and what goes wrong with that; and how the same is done by functions
# alone: `register` for a rule of your own, pairs of functions for layers, a tree for parameters.
# Four programs are written, and all four train alike on images of digits.
#
# **How long it takes.** About 40 minutes to read; it runs in less than a minute on two CPU cores.
#
# **What to install.** `fnnet` with the extra `examples`, which brings JAX, NumPy, matplotlib and
# scikit-learn. The next cell does it where it is missing, on Colab too once fnnet is on the package
# index.
#
# What can be asserted is: if a cell runs, what it asserts is so. You need to know the backward
# rules of notebook 4.

# %%
import importlib.util
import pathlib
import subprocess
import sys

needed = ("fnnet", "matplotlib", "sklearn", "threadpoolctl")  # what this notebook imports
if any(importlib.util.find_spec(name) is None for name in needed):
    checkout = pathlib.Path.cwd().resolve().parent
    source = str(checkout) if (checkout / "pyproject.toml").is_file() else "fnnet"
    pip = [sys.executable, "-m", "pip", "install", "-q", f"{source}[examples]"]
    subprocess.run(pip, check=True)

# %%
import dataclasses
import inspect

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits

from fnnet import backprop, lin, mse, plain, register, relu
from fnnet.net.layers import Layer, linear, parameter_count, parameters, relu_layer, sequential
from fnnet.proof import reference

jax.config.update("jax_enable_x64", True)  # JAX's default is float32; here digits are counted
plt.rcParams.update({"figure.dpi": 110, "font.size": 9})
BLUE, ORANGE, GREEN, GREY = "#2a78b5", "#d9730d", "#3d9a5f", "#8a8a8a"
print(f"JAX {jax.__version__}, NumPy {np.__version__}, on {jax.default_backend()}")


def refused(call):
    """The error that `call` raises, in one line; it is a mistake here if there is none."""
    try:
        call()
    except Exception as error:
        print(f"{type(error).__name__}: {str(error).splitlines()[0][:150]}")
    else:
        raise AssertionError("this was expected to fail")


def same(a, b, rtol=1e-12):
    """Whether two trees of arrays agree to rounding in float64, each by its largest entry."""
    a, b = jax.tree.leaves(a), jax.tree.leaves(b)
    assert len(a) == len(b) and [np.shape(x) for x in a] == [np.shape(x) for x in b]
    return all(np.abs(x - y).max() <= rtol * np.abs(y).max() for x, y in zip(a, b))


# %% [markdown]
# The data: scikit-learn's 1797 images of 8 by 8 pixels. A net of 64, 50 and 10 units is to say 1
# for the digit that it sees and 0 for the nine others, with the mean squared error as its loss.

# %%
digits = load_digits()
order = np.random.default_rng(0).permutation(len(digits.target))
images, labels = digits.data[order] / 16, digits.target[order]
x, y, test_x, test_labels = images[:1400], np.eye(10)[labels[:1400]], images[1400:], labels[1400:]
SIZES = (64, 50, 10)
start = backprop.init_mlp(jax.random.key(0), SIZES, dtype=jnp.float64)
first_loss, first_gradients = jax.value_and_grad(plain(backprop.loss))(start, x, y)  # autodiff
print(f"{x.shape} images, first loss {first_loss:.3f}")

# %% [markdown]
# ## The backward pass as classes
#
# Three functions and their three rules belong together in pairs, and each rule needs what its
# function has seen. So each pair becomes an object, which remembers. The gradient of an array is
# put where the array is. NumPy's arrays take no attributes, and a JAX array's are lost in every
# transformation; so a `Value` holds both.

# %%
refused(lambda: setattr(np.ones(3), "g", np.ones(3)))


class Value:
    """An array, and its gradient when the backward pass has come by."""

    def __init__(self, data):
        self.data, self.g = np.asarray(data), None


class Relu:
    def __call__(self, inp):
        self.inp = inp
        self.out = Value(np.maximum(inp.data, 0))
        return self.out

    def backward(self):
        self.inp.g = (self.inp.data > 0) * self.out.g


class Lin:
    def __init__(self, w, b):
        self.w, self.b = Value(w), Value(b)

    def __call__(self, inp):
        self.inp = inp
        self.out = Value(inp.data @ self.w.data + self.b.data)
        return self.out

    def backward(self):
        self.inp.g = self.out.g @ self.w.data.T
        self.w.g = self.inp.data.T @ self.out.g
        self.b.g = self.out.g.sum(axis=0)


class Mse:
    def __call__(self, inp, targ):
        self.inp, self.targ = inp, targ
        self.out = Value(((inp.data - targ) ** 2).mean())
        return self.out

    def backward(self):
        self.inp.g = 2 * (self.inp.data - self.targ) / self.targ.size


class Model:
    def __init__(self, w1, b1, w2, b2):
        self.layers = [Lin(w1, b1), Relu(), Lin(w2, b2)]
        self.loss = Mse()

    def __call__(self, x, targ):
        x = Value(x)
        for layer in self.layers:
            x = layer(x)
        return self.loss(x, targ)

    def backward(self):
        self.loss.backward()
        for layer in reversed(self.layers):
            layer.backward()


model = Model(*jax.tree.leaves(start))
loss = model(x, y)
model.backward()
lins = [model.layers[0], model.layers[2]]
gradients = [v.g for lin_ in lins for v in (lin_.w, lin_.b)]
assert same(loss.data, first_loss) and same(gradients, first_gradients)
print(f"loss {loss.data:.3f}; its four gradients are those of autodiff")

# %% [markdown]
# The backward pass takes nothing and returns nothing. All goes through what the objects remember.
#
# ### What calling an object means
#
# `__call__` is the method that runs when an *object* is called as if it were a function: `layer(x)`
# means `type(layer).__call__(layer, x)`. It does not run when the object is made; that is
# `__init__`. An object that can be called is a function with a memory.


# %%
class Scale:
    def __init__(self, w):
        self.w, self.calls = w, 0

    def __call__(self, x):
        self.calls += 1
        return self.w * x


triple = Scale(3)
assert triple.calls == 0
assert triple(2) == Scale.__call__(triple, 2) == 6 and triple.calls == 2
assert callable(triple) and callable(Scale) and not callable(Value(0))

# %% [markdown]
# ## One base class for all
#
# The three classes repeat themselves: all of them store what comes in and what goes out. A base
# class does that once, and leaves two methods to write, `forward` and `bwd`.


# %%
class LayerFunction:
    def __call__(self, *args):
        self.args = args
        self.out = Value(self.forward(*args))
        return self.out

    def backward(self):
        self.bwd(self.out, *self.args)

    def forward(self, *args):
        raise NotImplementedError("forward")

    def bwd(self, out, *args):
        raise NotImplementedError("bwd")


class Relu2(LayerFunction):
    def forward(self, inp):
        return np.maximum(inp.data, 0)

    def bwd(self, out, inp):
        inp.g = (inp.data > 0) * out.g


class Lin2(LayerFunction):
    def __init__(self, w, b):
        self.w, self.b = Value(w), Value(b)

    def forward(self, inp):
        return inp.data @ self.w.data + self.b.data

    def bwd(self, out, inp):
        inp.g, self.w.g = out.g @ self.w.data.T, inp.data.T @ out.g
        self.b.g = out.g.sum(axis=0)


class Mse2(LayerFunction):
    def forward(self, inp, targ):
        return ((inp.data - targ) ** 2).mean()

    def bwd(self, out, inp, targ):
        inp.g = 2 * (inp.data - targ) / targ.size


class Model2(Model):
    def __init__(self, w1, b1, w2, b2):
        self.layers, self.loss = [Lin2(w1, b1), Relu2(), Lin2(w2, b2)], Mse2()


refactored = Model2(*jax.tree.leaves(start))
assert refactored(x, y).data == loss.data
refactored.backward()
assert all((u.g == v.g).all() for u, v in (
    (model.layers[0].w, refactored.layers[0].w), (model.layers[2].b, refactored.layers[2].b)
))
refused(lambda: LayerFunction()(1))

# %% [markdown]
# ## What goes wrong with objects that remember
#
# Each of these mistakes is silent, or comes up far from its cause.
#
# **A layer used twice** remembers its second call only. Weights that are used twice in one net, as
# in every recurrent one, get the wrong gradient:

# %%
w, b, few = np.eye(3) / 2, np.zeros(3), np.ones((2, 3))
shared = Lin(w, b)
first = Value(few)
out = shared(shared(first))
out.g = np.ones((2, 3))
shared.backward()
shared.backward()


def twice(w):
    return lin(lin(few, w, b), w, b).sum()


right = jax.grad(twice)(w)
print("the gradient of shared weights: objects say", shared.w.g[0, 0], "- it is", right[0, 0])
assert not np.allclose(shared.w.g, right)

# %% [markdown]
# **A value used twice** keeps the gradient of one of its uses: each `backward` writes `inp.g`,
# where the chain rule adds. In $x + \mathrm{relu}(x)$ the slope of a positive $x$ is 2. (Libraries
# add up instead, and must be told to set gradients to zero before each step: the same state, on the
# other side.)

# %%
value, relu_object = Value([1.0, -1.0]), Relu()
out = relu_object(value)
out.g = np.ones(2)
value.g = np.ones(2)  # from the sum's first term
relu_object.backward()  # from its second: written over the first
assert value.g.tolist() == [1, 0]
assert jax.grad(lambda x: (x + relu(x)).sum())(jnp.array([1.0, -1.0])).tolist() == [2, 1]

# %% [markdown]
# **Backward before forward** finds nothing, or what is left of the call before. And **`jit`** runs
# the Python of a method once, while it traces: attributes that are read then are constants of the
# compiled program for ever, and those that are written hold tracers, not numbers.

# %%
refused(lambda: Relu().backward())


class Doubler:
    def __init__(self):
        self.w = 2.0

    def __call__(self, x):
        self.out = self.w * x
        return self.out


doubler = Doubler()
compiled = jax.jit(doubler.__call__)
assert compiled(1.0) == 2
doubler.w = 5.0
assert compiled(1.0) == 2, "the new weight has no effect, and nobody says so"
refused(lambda: jnp.sin(doubler.out))  # a tracer that has leaked

# %% [markdown]
# ## Back to functions
#
# A function that is given all it needs, and returns all that it makes, has none of these problems,
# and it is all that `jit`, `grad` and `vmap` can deal with. What the object remembered becomes a
# value that is passed on: `fwd` returns it beside the result, as *residuals*, and `bwd` takes it.
#
# | as classes | as functions |
# |---|---|
# | `Relu.__call__`, `Relu.backward` | `relu_fwd`, `relu_bwd` |
# | `self.inp`, `self.out`; `ctx.save_for_backward` | `res`, what `fwd` returns beside the result |
# | `inp.g = ...` | what `bwd` returns, one cotangent an argument |
# | `LayerFunction`, `torch.autograd.Function` | `register(forward, fwd, bwd)` |
# | `nn.Module`: `__init__` and `forward` | a `Layer`: `init(key)` and `apply(params, x)` |
# | `nn.Parameter`, `self.w` | a leaf of the tree `params` |
# | `model.parameters()` | `parameters(params)`, with names |
# | `nn.Sequential` | `sequential` |
# | `loss.backward()`, `opt.zero_grad()` | `jax.grad(loss)(params)`: a value |
# | `opt.step()` | `jax.tree.map(lambda p, g: p - rate * g, params, grads)` |

# %%
figure, panels = plt.subplots(1, 2, figsize=(12.5, 3.6), layout="constrained")


def box(axes, place, text, colour="k", style="round,pad=0.4"):
    options = dict(boxstyle=style, fc="white", ec=colour, lw=1.2)
    axes.text(*place, text, ha="center", va="center", bbox=options, color=colour, zorder=3)


def arrow(axes, start, end, colour, text="", above=0.14, room=26):
    style = dict(arrowstyle="-|>", color=colour, lw=1.5, shrinkA=room, shrinkB=room)
    axes.annotate("", end, start, arrowprops=style)
    middle = np.add(start, end) / 2 + (0, above)
    axes.text(*middle, text, color=colour, ha="center", va="center")


objects, functions = panels
for k, name in enumerate(("Lin", "Relu", "Lin")):
    place = 1.5 * k + 1
    inside = f"{name}\n\nw, b, w.g, b.g\ninp, out" if name == "Lin" else f"{name}\n\ninp, out"
    box(objects, (place, 1), inside, ORANGE)
    arrow(objects, (place - 1.5, 1.25), (place, 1.25), BLUE, "call" if k == 1 else "", room=38)
    word = "backward" if k == 1 else ""
    arrow(objects, (place, 0.75), (place - 1.5, 0.75), GREY, word, -0.14, 38)
    box(functions, (place, 2), f"{name.lower()}_fwd", BLUE, "square,pad=0.5")
    box(functions, (place, 0), f"{name.lower()}_bwd", GREY, "square,pad=0.5")
    arrow(functions, (place, 2), (place, 0), ORANGE, room=14)
    functions.text(place + 0.06, 1, "res", color=ORANGE, va="center")
    arrow(functions, (place - 1.5, 2), (place, 2), BLUE, ("x", "z", "a")[k], room=33)
    arrow(functions, (place, 0), (place - 1.5, 0), GREY, ("dx", "dz", "da")[k], -0.17, 33)
    if name == "Lin":
        arrow(functions, (place, 2.75), (place, 2), BLUE, room=13)
        functions.text(place + 0.06, 2.5, "w, b", color=BLUE)
        arrow(functions, (place, 0), (place, -0.75), GREY, room=13)
        functions.text(place + 0.06, -0.6, "dw, db", color=GREY)
objects.set_title("Objects: what goes from forward to backward is inside them")
functions.set_title("Functions: it is passed on, and nothing is left behind")
for axes in panels:
    axes.set(xlim=(-0.6, 4.6), ylim=(-0.8, 2.8))
    axes.axis("off")

# %% [markdown]
# ## A rule of your own
#
# A `torch.autograd.Function` must define `forward`, which also saves what is needed, and
# `backward`, which returns a gradient for every input. `register` takes the same, as functions: the
# function, `fwd`, `bwd`. What comes out is differentiable wherever JAX differentiates: in reverse
# by your rule, forward by JAX's own of the function.


# %%
def clamp(x):
    return jnp.maximum(x, 0.0)


def clamp_fwd(x):
    return clamp(x), x > 0


def clamp_bwd(positive, g):
    return (jnp.where(positive, g, 0.0),)


own_relu = register(clamp, clamp_fwd, clamp_bwd, name="own_relu")
assert list(inspect.signature(register).parameters)[:3] == ["forward", "fwd", "bwd"]

v = jnp.array([-1.0, 0.0, 2.0])
total = lambda x: own_relu(x).sum()
assert jax.grad(total)(v).tolist() == [0, 0, 1]
assert jax.jit(jax.grad(total))(v).tolist() == [0, 0, 1]
assert jax.vmap(jax.grad(own_relu))(v).tolist() == [0, 0, 1]
assert jax.jacrev(own_relu)(v).tolist() == jnp.diag(jnp.array([0.0, 0, 1])).tolist()
assert (jax.hessian(total)(v) == 0).all()
assert jax.grad(lambda x: (x + own_relu(x)).sum())(v).tolist() == [1, 1, 2], "used twice: added"
assert jax.jvp(total, (v,), (v,)) == jax.jvp(plain(total), (v,), (v,)) == (2, 2)

# %% [markdown]
# It is checked when it is used. A rule that returns too little, or another shape, is told so at
# once; what is wrong in its *numbers* is found by `fnnet.check.check_vjp` (notebook 7).

# %%
def times(a, b):
    return a * b


short = register(times, lambda a, b: (a * b, b), lambda b, g: (g * b,), name="short")
refused(lambda: jax.grad(lambda a: short(a, 2.0))(1.0))
row = register(clamp, clamp_fwd, lambda res, g: (g.sum(),), name="row")
refused(lambda: jax.grad(lambda x: row(x).sum())(v))

# %% [markdown]
# ## A linear layer from scratch
#
# `nn.Linear` is its first parameters and a function of parameters and input. As a pair of functions
# it needs no class at all. Tested: shapes, values, the scale of the first weights, the gradient.


# %%
def my_linear(n_in, n_out):
    def first_parameters(key, dtype=jnp.float32):
        w = jnp.sqrt(2 / n_in).astype(dtype) * jax.random.normal(key, (n_in, n_out), dtype)
        return {"weight": w, "bias": jnp.zeros(n_out, dtype)}

    def apply(params, x):
        return x @ params["weight"] + params["bias"]

    return Layer(first_parameters, apply)


mine = my_linear(100, 20)
params = mine.init(jax.random.key(1), jnp.float64)
batch = jax.random.normal(jax.random.key(2), (5, 100))
print([(name, leaf.shape) for name, leaf in parameters(params)])
assert [leaf.shape for leaf in jax.tree.leaves(params)] == [(20,), (100, 20)], "names in order"
assert mine.apply(params, batch).shape == (5, 20)
theirs = linear(100, 20).apply((params["weight"], params["bias"]), batch)
assert same(mine.apply(params, batch), theirs)
assert abs(params["weight"].std() / (2 / 100) ** 0.5 - 1) < 0.1
assert (jax.grad(lambda p: mine.apply(p, batch).sum())(params)["bias"] == 5).all()

# %% [markdown]
# ## How libraries' modules differ
#
# What does a `Module` do that a class does not? It *lists its parameters*. To that end it watches
# every assignment to an attribute, and needs somewhere to write it down before the first one. In
# PyTorch that place is made by `super().__init__()`, which every class must call; in fastai the
# library calls it for you. Here are both in a few lines:


# %%
class Module:  # PyTorch's way
    def __init__(self):
        object.__setattr__(self, "listed", {})

    def __setattr__(self, name, value):
        if isinstance(value, np.ndarray | Module):
            self.listed[name] = value
        object.__setattr__(self, name, value)

    def parameters(self):
        for name, value in self.listed.items():
            if isinstance(value, Module):
                yield from ((f"{name}.{inner}", leaf) for inner, leaf in value.parameters())
            else:
                yield name, value


class SelfMadeModule(Module):  # fastai's way: before __init__, not in it
    def __new__(cls, *args, **kwargs):
        made = super().__new__(cls)
        Module.__init__(made)
        return made


class Forgets(Module):
    def __init__(self):
        self.weight = np.ones((3, 2))


class NeedNot(SelfMadeModule):
    def __init__(self):
        self.weight, self.bias = np.ones((3, 2)), np.zeros(2)


class Net(SelfMadeModule):
    def __init__(self):
        self.one, self.two = NeedNot(), NeedNot()


refused(Forgets)
assert [name for name, _ in NeedNot().parameters()] == ["weight", "bias"]
names = [name for name, _ in Net().parameters()]
assert names == ["one.weight", "one.bias", "two.weight", "two.bias"]

# %% [markdown]
# Where parameters are a *value* there is nothing to watch. `init` returns them, as tuples, lists,
# dicts or named tuples of arrays, in any nesting: a *tree*. JAX walks through any tree, and so can
# list it, map it and differentiate in it.

# %%
net = sequential(linear(64, 50), relu_layer(), linear(50, 10))
params = net.init(jax.random.key(0), jnp.float64)
for name, leaf in parameters(params):
    print(f"{name:<6}{leaf.shape!s:<10}{leaf.size:>6}")
print(f"{'':<16}{parameter_count(params):>6}")
assert [name for name, _ in parameters(params)] == ["0.w", "0.b", "2.w", "2.b"]
assert parameter_count(params) == 64 * 50 + 50 + 50 * 10 + 10

grads = jax.grad(lambda p: mse(net.apply(p, x), y))(params)
assert [n for n, _ in parameters(grads)] == [n for n, _ in parameters(params)], "the same tree"

# %% [markdown]
# `sequential` is a layer as well, so it can be part of another; and since layers hold nothing, one
# may be used as often as one likes.

# %%
block = sequential(linear(50, 50), relu_layer())
nested = sequential(linear(64, 50), relu_layer(), sequential(block, block), linear(50, 10))
names = [name for name, _ in parameters(nested.init(jax.random.key(0)))]
print(", ".join(names))
assert "2.0.0.w" in names and "2.1.0.w" in names
two_first = nested.init(jax.random.key(0))[2]
assert (two_first[0][0].w != two_first[1][0].w).any(), "each use has parameters of its own"

# %% [markdown]
# ### Classes without the memory
#
# If you like methods, you can have them: a dataclass whose fields are parameters, which never
# changes, and is itself a tree. A gradient is then another object of the same class.


# %%
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Perceptron:
    w1: jax.Array
    b1: jax.Array
    w2: jax.Array
    b2: jax.Array

    def __call__(self, x):
        return lin(relu(lin(x, self.w1, self.b1)), self.w2, self.b2)


perceptron = Perceptron(*jax.tree.leaves(start))
gradient = jax.grad(lambda model: mse(model(x), y))(perceptron)
assert isinstance(gradient, Perceptron) and same(gradient, first_gradients)
assert [name for name, _ in parameters(gradient)] == ["w1", "b1", "w2", "b2"]
refused(lambda: setattr(perceptron, "w1", 0))
moved = dataclasses.replace(perceptron, b2=perceptron.b2 + 1)
assert jnp.allclose(moved(x), perceptron(x) + 1), "a new one, and the old one stands"

# %% [markdown]
# ## All of it in NumPy
#
# The rules do not need JAX, and `fnnet.proof.reference` has them in NumPy: `NAME` and `NAME_vjp`,
# written apart from the ops, to be a witness against them. With these both passes of the chapter "A
# neural net from the foundations" of the fast.ai book (Howard and Gugger, *Deep Learning for
# Coders*) are a function of a dozen lines:


# %%
def numpy_pass(params, x, y):
    w1, b1, w2, b2 = params
    z = reference.lin(x, w1, b1)
    a = reference.relu(z)
    o = reference.lin(a, w2, b2)
    do, _ = reference.mse_vjp(o, y, 1.0)
    da, dw2, db2 = reference.lin_vjp(a, w2, b2, do)
    (dz,) = reference.relu_vjp(z, da)
    _, dw1, db1 = reference.lin_vjp(x, w1, b1, dz)
    return reference.mse(o, y), [dw1, db1, dw2, db2]


leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(start)]
loss, gradients = numpy_pass(leaves, x, y)
assert same(loss, first_loss) and same(gradients, first_gradients)

# %% [markdown]
# ## Four programs, one training
#
# The classes; the manual pass as a function; a net of layers with the relu registered above; and
# NumPy. All begin with the same weights and take the same steps. (Two of them are compiled, two
# are not.)

# %%
RATE, STEPS = 0.5, 300


def accuracy(params):
    w1, b1, w2, b2 = (np.asarray(leaf) for leaf in params)
    guess = reference.lin(reference.relu(reference.lin(test_x, w1, b1)), w2, b2).argmax(axis=1)
    return (guess == test_labels).mean()


def with_classes():
    model, losses = Model(*map(np.array, leaves)), []
    values = [v for layer in (model.layers[0], model.layers[2]) for v in (layer.w, layer.b)]
    for _ in range(STEPS):
        losses.append(model(x, y).data)
        model.backward()
        for value in values:
            value.data = value.data - RATE * value.g
    return losses, [v.data for v in values]


def with_numpy():
    params, losses = leaves, []
    for _ in range(STEPS):
        loss, gradients = numpy_pass(params, x, y)
        losses.append(loss)
        params = [p - RATE * g for p, g in zip(params, gradients)]
    return losses, params


def compiled(loss_and_gradients, params):
    @jax.jit
    def run(params):
        def step(params, _):
            loss, gradients = loss_and_gradients(params, x, y)
            return jax.tree.map(lambda p, g: p - RATE * g, params, gradients), loss

        return jax.lax.scan(step, params, length=STEPS)

    params, losses = run(params)
    return losses, jax.tree.leaves(params)


own_layer = Layer(lambda key, dtype=jnp.float32: (), lambda params, x: own_relu(x))
net = sequential(linear(64, 50), own_layer, linear(50, 10))
of_net = jax.value_and_grad(lambda params, x, y: mse(net.apply(params, x), y))
with threadpool_limits(1):  # these products are too small for NumPy to share them among threads
    results = {"classes": with_classes(), "NumPy functions": with_numpy()}
results["manual pass (backprop)"] = compiled(backprop.forward_and_backward, start)
results["layers, own relu registered"] = compiled(of_net, (start[0], (), start[1]))

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(11.5, 3.8), layout="constrained")
wanted = np.asarray(results["manual pass (backprop)"][0])
styles = [(GREY, "-", 5), (GREEN, "-", 2.5), (BLUE, "--", 1.5), (ORANGE, ":", 2)]
for (name, (losses, trained)), (colour, style, width) in zip(results.items(), styles):
    losses = np.asarray(losses)
    assert np.allclose(losses, wanted, rtol=1e-9)
    label = f"{name}: {accuracy(trained):.1%}"
    left.semilogy(losses, style, color=colour, lw=width, label=label)
    if name != "manual pass (backprop)":
        right.plot((losses / wanted - 1) / np.finfo(float).eps, color=colour, lw=1, label=name)
    assert losses[-1] < 0.15 * losses[0] and accuracy(trained) > 0.9
left.set(xlabel="step", ylabel="mean squared error", title="Loss, and right answers on 397 images")
right.set(xlabel="step", ylabel="difference to the manual pass (ε)")
right.margins(y=1)
right.set_title("They differ by rounding: ε is float64's precision, 2.2e-16")
for axes in (left, right):
    axes.legend(fontsize=8)

# %% [markdown]
# The same rule trains with the relu of `fnnet`, with the registered one, and with the class,
# because it is the same rule. `register` was all that was needed to bring it to JAX, and with it
# came compilation, batching and differentiation in reverse.
#
# ## To remember
#
# - An object with a backward pass is a function with a memory. The memory is overwritten, goes
#   stale and does not compile.
# - `fwd` returns what `bwd` needs: the memory as a value. `register` makes a function of the three.
# - A layer is `(init, apply)`, its parameters are a tree, and a tree can be listed, mapped and
#   differentiated in.
# - Classes are fine if they never change.
#
# Tests that say the same at length: `tests/net/test_layers.py`, `tests/rules`.
