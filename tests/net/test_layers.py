"""Layers as (init, apply) pairs, beside the chapter's classes, and a neuron in plain Python."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fnnet import conv2d, layer_norm, lin, max_pool, mse, register, relu
from fnnet.net import init
from fnnet.net.backprop import LinearParams, forward_and_backward
from fnnet.net.layers import (
    Layer,
    conv,
    flatten,
    layer_norm_layer,
    linear,
    max_pool_layer,
    parameter_count,
    parameters,
    relu_layer,
    sequential,
)
from tests.compare import assert_close


def normal(seed, *shape, dtype=np.float64):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape).astype(dtype))


def test_a_neuron_and_a_dense_layer_in_plain_python():
    def neuron(inputs, weights, bias):
        return max(sum(x * w for x, w in zip(inputs, weights, strict=True)) + bias, 0.0)

    def dense(inputs, matrix, biases):
        columns = zip(*matrix, strict=True)
        return [neuron(inputs, w, b) for w, b in zip(columns, biases, strict=True)]

    x, w, b = normal(0, 6), normal(1, 6, 4), normal(2, 4)
    want = dense(x.tolist(), w.tolist(), b.tolist())
    assert 0 < sum(value > 0 for value in want) < 4
    np.testing.assert_allclose(relu(lin(x, w, b)), want, rtol=1e-14)
    one = relu(jnp.dot(x, w[:, 0]) + b[0])
    assert float(one) == pytest.approx(want[0], rel=1e-14)


# The chapter's classes, as it builds them: each keeps its inputs, its output and its gradients.


class Relu:
    def __call__(self, inp):
        self.inp, self.out = inp, np.clip(inp, 0, None)
        return self.out

    def backward(self, g):
        return (self.inp > 0) * g


class Lin:
    def __init__(self, w, b):
        self.w, self.b = w, b

    def __call__(self, inp):
        self.inp = inp
        return inp @ self.w + self.b

    def backward(self, g):
        self.w_g, self.b_g = self.inp.T @ g, g.sum(0)
        return g @ self.w.T


class Mse:
    def __call__(self, out, targ):
        self.d = out[:, 0] - targ
        return (self.d**2).mean()

    def backward(self):
        return (2 * self.d / len(self.d))[:, None]


class Model:
    def __init__(self, w1, b1, w2, b2):
        self.layers, self.loss = [Lin(w1, b1), Relu(), Lin(w2, b2)], Mse()

    def __call__(self, x, targ):
        for layer in self.layers:
            x = layer(x)
        return self.loss(x, targ)

    def backward(self):
        g = self.loss.backward()
        for layer in reversed(self.layers):
            g = layer.backward(g)


def test_the_chapter_s_classes_and_their_functional_counterparts():
    """Model(...)(x, y) then .backward(), with state, is one pure function of (params, x, y)."""
    x, y = normal(0, 20, 10), normal(1, 20)
    net = sequential(linear(10, 5), relu_layer(), linear(5, 1))
    params = net.init(jax.random.key(2), jnp.float64)

    model = Model(*(np.asarray(p) for _, p in parameters(params)))
    value = model(np.asarray(x), np.asarray(y))
    model.backward()
    first, _, last = model.layers
    want = (value, [first.w_g, first.b_g, last.w_g, last.b_g])

    def loss(params, x, y):
        return mse(net.apply(params, x), y)

    got, grads = jax.jit(jax.value_and_grad(loss))(params, x, y)
    assert_close((got, jax.tree.leaves(grads)), want)
    got, grads = forward_and_backward([params[0], params[2]], x, y)
    assert_close((got, jax.tree.leaves(grads)), want)


def test_a_function_with_a_backward_becomes_a_registered_one():
    """LayerFunction and autograd.Function: forward saves for backward; here res carries it."""

    def forward(x):
        return jnp.where(x > 0, x, 0.1 * x)

    def fwd(x):
        return forward(x), x

    def bwd(x, g):
        return (jnp.where(x > 0, g, 0.1 * g),)

    leaky = register(forward, fwd, bwd, name="leaky")
    x = normal(0, 7)
    assert_close(leaky(x), jax.nn.leaky_relu(x, 0.1))
    got = jax.grad(lambda x: jnp.sum(jnp.sin(leaky(x))))(x)
    assert_close(got, jax.grad(lambda x: jnp.sum(jnp.sin(jax.nn.leaky_relu(x, 0.1))))(x))


def test_training_with_the_user_s_own_relu():
    """A relu registered here, as a layer of its own, trains as well as the one that is built in."""
    own = register(
        lambda x: jnp.maximum(x, jnp.zeros((), x.dtype)),
        lambda x: (jnp.maximum(x, jnp.zeros((), x.dtype)), x > 0),
        lambda positive, g: (g * positive.astype(g.dtype),),
        name="own_relu",
    )
    own_layer = Layer(init=lambda key, dtype=jnp.float32: (), apply=lambda params, x: own(x))
    x = normal(0, 64, 4, dtype=jnp.float32)
    y = jnp.sum(jnp.abs(x), axis=1)

    def train(activation):
        net = sequential(linear(4, 16), activation, linear(16, 1))
        optimiser = optax.sgd(0.02, momentum=0.9)
        params = net.init(jax.random.key(1))

        def step(state, _):
            params, opt = state
            loss, grads = jax.value_and_grad(lambda p: mse(net.apply(p, x), y))(params)
            updates, opt = optimiser.update(grads, opt)
            return (optax.apply_updates(params, updates), opt), loss

        return jax.lax.scan(step, (params, optimiser.init(params)), None, length=300)[1]

    losses = train(own_layer)
    assert losses[-1] < 0.02 * losses[0]
    np.testing.assert_allclose(losses, train(relu_layer()), rtol=1e-3)


def test_linear():
    layer = linear(6, 4)
    assert isinstance(layer, Layer)
    init_params, apply = layer
    params = init_params(jax.random.key(0), jnp.float64)
    assert (params.w.shape, params.b.shape) == ((6, 4), (4,))
    assert (params.b == 0).all()
    params = params._replace(b=normal(1, 4))
    x = normal(2, 2, 3, 6)
    assert_close(apply(params, x), lin(x, params.w, params.b))
    assert_close(apply(params, x[0, 0]), lin(x[0, 0], params.w, params.b))
    assert layer.init(jax.random.key(0)).w.dtype == jnp.float32

    params = linear(6, 4, bias=False, init=init.zeros).init(jax.random.key(0), jnp.bfloat16)
    assert params.b is None
    assert params.w.dtype == jnp.bfloat16
    assert (params.w == 0).all()


def test_flatten():
    layer = flatten()
    assert layer.init(jax.random.key(0)) == ()
    x = normal(0, 2, 3, 4, 5)
    assert_close(layer.apply((), x), x.reshape(2, 60))
    assert layer.apply((), x[:0]).shape == (0, 60)
    assert layer.apply((), x[:, 0, 0, 0]).shape == (2, 1)
    with pytest.raises(ValueError, match="flatten: x must have a first axis"):
        layer.apply((), jnp.ones(()))


def test_sequential_is_one_function_after_another():
    net = sequential(flatten(), linear(12, 5), relu_layer(), sequential(linear(5, 4), linear(4, 2)))
    params = net.init(jax.random.key(0), jnp.float64)
    x = normal(1, 7, 3, 4)
    h = relu(lin(x.reshape(7, 12), *params[1]))
    want = lin(lin(h, *params[3][0]), *params[3][1])
    assert_close(net.apply(params, x), want)
    assert_close(jax.jit(net.apply)(params, x), want)
    one_by_one = jax.vmap(net.apply, (None, 0))(params, x[:, None])
    assert_close(one_by_one[:, 0], want)
    assert_close(sequential().apply(sequential().init(jax.random.key(0)), x), x)


def test_layers_draw_from_different_keys():
    params = sequential(linear(3, 3), linear(3, 3)).init(jax.random.key(0))
    assert (params[0].w != params[1].w).all()
    again = sequential(linear(3, 3), linear(3, 3)).init(jax.random.key(0))
    assert_close(again, params, rtol=0)


def test_parameters_are_listed_by_name():
    net = sequential(linear(4, 3), relu_layer(), sequential(linear(3, 2, bias=False), linear(2, 1)))
    params = net.init(jax.random.key(0))
    listed = parameters(params)
    assert [(name, p.shape) for name, p in listed] == [
        ("0.w", (4, 3)),
        ("0.b", (3,)),
        ("2.0.w", (3, 2)),
        ("2.1.w", (2, 1)),
        ("2.1.b", (1,)),
    ]
    assert listed[0][1] is params[0].w
    assert parameter_count(params) == 12 + 3 + 6 + 2 + 1
    state = optax.adam(1e-3).init(params)
    assert "0.mu.2.0.w" in dict(parameters(state))
    assert parameters({"a": [jnp.ones(2), None]})[0][0] == "a.0"
    assert parameters(()) == []
    assert parameter_count(()) == 0


def test_updating_the_parameters_changes_nothing_but_the_parameters():
    net = sequential(linear(4, 3), relu_layer(), linear(3, 1))
    params = net.init(jax.random.key(0), jnp.float64)
    before = jax.tree.map(jnp.copy, params)
    x = normal(1, 5, 4)
    grads = jax.grad(lambda p: jnp.sum(net.apply(p, x)))(params)
    new = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
    assert isinstance(new[0], LinearParams)
    assert_close(params, before, rtol=0)
    assert (net.apply(new, x) != net.apply(params, x)).any()


def test_wrong_arguments():
    key = jax.random.key(0)
    net = sequential(linear(4, 3), relu_layer(), linear(2, 1))
    params = net.init(key)
    with pytest.raises(
        ValueError, match=r"linear\(4, 3\): the last axis of x .* 4, got .*\(5, 6\)"
    ) as e:
        net.apply(params, jnp.ones((5, 6), jnp.float32))
    assert e.value.__notes__ == ["This was layer 0 of sequential, counting from 0."]
    with pytest.raises(
        ValueError, match=r"linear\(2, 1\): the last axis .* got shape \(5, 3\)"
    ) as e:
        net.apply(params, jnp.ones((5, 4), jnp.float32))
    assert "layer 2 of sequential" in e.value.__notes__[0]
    with pytest.raises(ValueError, match=r"linear\(4, 3\): .* got shape \(\)"):
        linear(4, 3).apply(params[0], jnp.float32(1))
    with pytest.raises(
        ValueError, match=r"linear\(3, 4\): w must have shape \(3, 4\), got \(4, 3\)"
    ):
        linear(3, 4).apply(params[0], jnp.ones((5, 3), jnp.float32))
    with pytest.raises(
        ValueError, match="sequential: 3 layers need as many entries in params, got 2"
    ):
        net.apply(params[:2], jnp.ones((5, 4), jnp.float32))

    with pytest.raises(
        TypeError, match=r"sequential: argument 1 is no Layer .* call it: relu_layer\(\)"
    ):
        sequential(linear(4, 3), relu_layer)
    with pytest.raises(TypeError, match="sequential: argument 0 is no Layer but 3"):
        sequential(3)
    with pytest.raises(ValueError, match="linear: n_in must be at least 1, got 0"):
        linear(0, 3)
    with pytest.raises(TypeError, match=r"linear: n_out must be a whole number, got 2\.5"):
        linear(3, 2.5)
    with pytest.raises(TypeError, match=r"linear\(3, 2\): init must be an initialiser, got 0.1"):
        linear(3, 2, init=0.1)
    with pytest.raises(TypeError, match="kaiming_normal: key must be a key"):
        linear(3, 2).init(0)


def test_conv():
    layer = conv(4, 6, (3, 2), groups=2, stride=2, padding="VALID")
    params = layer.init(jax.random.key(0), jnp.float64)
    assert (params.w.shape, params.b.shape) == ((3, 2, 2, 6), (6,))
    params = params._replace(b=normal(1, 6))
    x = normal(2, 2, 7, 6, 4)
    want = conv2d(x, params.w, params.b, stride=2, padding="VALID", groups=2)
    assert_close(layer.apply(params, x), want)
    assert conv(4, 6, 3, bias=False).init(jax.random.key(0)).b is None
    # Kaiming: 2 / (kh kw c_in) is the variance
    w = conv(32, 64, 5).init(jax.random.key(0), jnp.float64).w
    assert float(w.var()) == pytest.approx(2 / (25 * 32), rel=0.05)


def test_pool_and_norm_layers():
    x = normal(0, 2, 6, 6, 3)
    assert_close(max_pool_layer(3, stride=1).apply((), x), max_pool(x, 3, stride=1))
    layer = layer_norm_layer(3, eps=0.1)
    params = layer.init(jax.random.key(0), jnp.float64)
    assert_close(layer.apply(params, x), layer_norm(x, eps=0.1))
    moved = params._replace(shift=params.shift + 1)
    assert_close(layer.apply(moved, x), layer_norm(x, eps=0.1) + 1)


def test_conv_says_what_is_wrong():
    with pytest.raises(ValueError, match=r"conv: groups must divide c_in=4 and c_out=6, got 4"):
        conv(4, 6, 3, groups=4)
    with pytest.raises(TypeError, match=r"conv: size must be a whole number, got 3.0"):
        conv(4, 6, 3.0)
    with pytest.raises(TypeError, match="conv: init must be an initialiser"):
        conv(4, 6, 3, init=0.1)
    layer, other = conv(4, 6, 3), conv(4, 6, 5)
    with pytest.raises(ValueError, match="another layer's parameters"):
        layer.apply(other.init(jax.random.key(0)), jnp.ones((1, 5, 5, 4)))
    with pytest.raises(ValueError, match=r"conv2d: w of shape .* takes 4 input channels"):
        layer.apply(layer.init(jax.random.key(0)), jnp.ones((1, 5, 5, 3)))


def test_layers_are_pickled_and_copied():
    """Of every kind, with another process's bytes: functions by name, sizes by value."""
    net = sequential(
        conv(1, 2, 3, init=init.normal(0.1), stride=2),
        relu_layer(),
        max_pool_layer(2),
        flatten(),
        sequential(linear(8, 3, bias=False), layer_norm_layer(3, eps=0.1)),
    )
    key, x = jax.random.key(0), normal(0, 2, 8, 8, 1).astype(jnp.float32)
    want = net.apply(net.init(key), x)
    for other in (pickle.loads(pickle.dumps(net)), copy.deepcopy(net)):
        assert isinstance(other, Layer)
        assert_close(other.apply(other.init(key), x), want, 0)
