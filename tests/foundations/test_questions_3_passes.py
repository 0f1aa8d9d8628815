"""The chapter's questions 26-40 and its further research: forward, backward, classes.

Each comment gives the question in few words and its answer; the code shows it. "Often answered"
names an answer that is met with and is wrong. At length: test_net, tests/net, tests/ops.
"""

import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sympy

import fnnet
from fnnet import lin, mse, ops, register, relu
from fnnet.measure.memory import residuals
from fnnet.net import backprop, init
from fnnet.net.layers import linear, parameters, relu_layer, sequential
from fnnet.proof.symbolic import Instance, Sym, prove
from tests.compare import assert_close


@pytest.fixture
def data(key):
    keys = jax.random.split(key, 3)
    params = backprop.init_mlp(keys[0], (10, 8, 1), dtype=jnp.float64)
    return params, jax.random.normal(keys[1], (32, 10)), jax.random.normal(keys[2], (32,))


def test_Q26_forward_and_backward_pass(data):
    # What are they? Forward: from inputs to predictions and loss. Backward: from the loss to its
    # gradient in every parameter. Neither changes a parameter: that is the optimiser's step. The
    # three together, on a mini-batch, are an iteration; an epoch, as sometimes answered, is as many
    # iterations as it takes to see all the data.
    params, x, y = data
    loss, grads = backprop.forward_and_backward(params, x, y)
    assert_close(loss, mse(backprop.forward(params, x), y))
    assert_close(grads, jax.grad(backprop.loss)(params, x, y))
    stepped = jax.tree.map(lambda p, g: p - 0.01 * g, params, grads)
    assert backprop.loss(stepped, x, y) < loss


def test_Q27_why_activations_are_stored(data):
    # Why store activations? The derivative of x w in w is x: without the activations there is no
    # gradient of the weights. Often answered with what activation functions are for, or with
    # learning better in the next epoch; nothing is kept that long.
    params, x, y = data
    kept = residuals(lambda params: backprop.loss(params, x, y), params)
    assert (32, 8) in {row.shape for row in kept if row.kind == "stored"}
    # set to 0 after the forward pass, they make the gradient of the second weights 0
    out, (activations, w, *rest) = ops.lin_fwd(relu(x @ params[0].w), *params[1])
    _, dw, _ = ops.lin_bwd((0 * activations, w, *rest), jnp.ones_like(out))
    assert (dw == 0).all()


@jax.jit
def deep(std, key):
    """x after 50 products with weights of this deviation, in float32."""
    x = jax.random.normal(key, (200, 100), "float32")
    weights = std * jax.random.normal(jax.random.fold_in(key, 1), (50, 100, 100), "float32")
    return jax.lax.scan(lambda x, w: (x @ w, None), x, weights)[0]


def test_Q28_deviation_far_from_1(key):
    # The downside of activations whose deviation is far from 1? Each layer multiplies it by the
    # same factor, so after many layers all is NaN, or 0. Often answered with what a deviation is.
    assert jnp.isnan(deep(jnp.float32(1), key)).all()  # times 10 a layer
    assert (deep(jnp.float32(0.01), key) == 0).all()  # divided by 10
    assert 0.05 < float(deep(jnp.float32(0.1), key).std()) < 20


def test_Q29_what_initialisation_does(key):
    # How does it help? Weights of variance 1/n make a sum of n products as wide as one input:
    # Var z = n Var w Var x. The scale stays from layer to layer, forward and backward.
    x = jax.random.normal(key, (2000, 100))
    w = init.lecun_normal(key, (100, 100), jnp.float64)
    assert float((x @ w).std()) == pytest.approx(1, abs=0.05)
    assert float((x @ (10 * w)).std()) == pytest.approx(10, abs=0.5)


def test_Q30_the_formula_with_and_without_relu(key):
    # The formula? Deviation √(1/n) for a plain linear layer, √(2/n) before a relu, which halves the
    # mean square. Often only the second is given, which is wrong for the first.
    x = jax.random.normal(key, (2000, 100))
    w = jax.random.normal(jax.random.fold_in(key, 1), (100, 100))
    assert float((x @ w / 100**0.5).std()) == pytest.approx(1, abs=0.05)
    assert float((x @ w * (2 / 100) ** 0.5).std()) == pytest.approx(2**0.5, abs=0.07)
    mean_square = jnp.mean(relu(x @ w * (2 / 100) ** 0.5) ** 2)
    assert float(mean_square) == pytest.approx(1, abs=0.1)


def test_Q31_squeeze_in_the_loss():
    # Why squeeze in a loss? Predictions are (n, 1), targets (n,): their difference is (n, n), and
    # its mean a wrong number without an error.
    pred, targ = jnp.arange(3.0)[:, None], jnp.arange(3.0)
    with jax.numpy_rank_promotion("allow"):
        assert float(((pred - targ) ** 2).mean()) > 1
    assert float(((pred.squeeze(-1) - targ) ** 2).mean()) == 0
    assert float(mse(pred, targ)) == 0  # done by mse, which refuses all other shapes


def test_Q32_squeeze_with_an_axis():
    # Its argument, and why give it? The axis to be removed. Without it every axis of size 1 goes,
    # and with a batch of one sample that is the batch's axis too.
    assert jnp.ones((5, 1)).squeeze().shape == jnp.ones((5, 1)).squeeze(-1).shape == (5,)
    assert jnp.ones((1, 1)).squeeze().shape == ()
    assert jnp.ones((1, 1)).squeeze(-1).shape == (1,)


def test_Q33_the_chain_rule():
    # The chain rule? (g ∘ f)'(x) = g'(f(x)) f'(x), or dy/dx = dy/du du/dx.
    x = sympy.Symbol("x")
    f, g = x**2 + 1, sympy.sin(x)
    assert sympy.diff(g.subs(x, f), x) - sympy.diff(g, x).subs(x, f) * sympy.diff(f, x) == 0
    by_parts = jax.grad(jnp.sin)(0.7**2 + 1) * 2 * 0.7
    assert float(jax.grad(lambda x: jnp.sin(x**2 + 1))(0.7)) == pytest.approx(float(by_parts))


def test_Q34_gradients_of_mse_of_lin(key):
    # The gradients of mse(lin(l2, w2, b2), y)? First of out: 2 (out - y)/n. Then through lin: times
    # w2ᵀ for l2, l2ᵀ times it for w2, its sum over the samples for b2.
    l2, w2, b2, y = (jax.random.normal(key, s) for s in [(6, 3), (3, 1), (1,), (6,)])
    dout = 2 * (lin(l2, w2, b2) - y[:, None]) / 6
    want = jax.grad(lambda *a: mse(lin(*a), y), (0, 1, 2))(l2, w2, b2)
    assert_close((dout @ w2.T, l2.T @ dout, dout.sum(0)), want)


def test_Q35_gradient_of_relu():
    # The gradient of ReLU? 1 where x > 0 and 0 where x < 0, times what comes from above. At 0 it
    # has none, and 0 is chosen; autodiff of maximum(x, 0) takes 1/2.
    x = jnp.array([-2.0, 0, 3])
    assert jax.vmap(jax.grad(relu))(x).tolist() == [0, 0, 1]
    _, res = ops.relu_fwd(x)
    assert ops.relu_bwd(res, jnp.array([5.0, 6, 7]))[0].tolist() == [0, 0, 7]
    assert float(jax.grad(lambda x: jnp.maximum(x, 0.0))(0.0)) == 0.5


def test_Q36_the_order_of_the_backward_calls(data):
    # In which order? Backward from the loss: mse, second lin, relu, first lin. Each call needs the
    # gradient of its output, which is what the call before it returns.
    (first, second), x, y = data
    z, lin1 = ops.lin_fwd(x, *first)
    a, relu1 = ops.relu_fwd(z)
    out, lin2 = ops.lin_fwd(a, *second)
    loss, mse1 = ops.mse_fwd(out, y)

    g, _ = ops.mse_bwd(mse1, jnp.ones_like(loss))
    g, dw2, db2 = ops.lin_bwd(lin2, g)
    (g,) = ops.relu_bwd(relu1, g)
    _, dw1, db1 = ops.lin_bwd(lin1, g)
    want = jax.grad(backprop.loss)([first, second], x, y)
    assert_close([dw1, db1, dw2, db2], jax.tree.leaves(want))


def test_Q37_call():
    # What is __call__? The method that runs when an object is called like a function, f(x); not
    # when it is made. An object that is called is a function with state; in JAX the state is an
    # argument instead.
    class Scaled:
        def __init__(self, w):
            self.w = w

        def __call__(self, x):
            return self.w * x

    scaled = Scaled(3.0)
    assert scaled(2.0) == 6
    assert Scaled.__call__(scaled, 2.0) == 6
    layer = linear(2, 2)
    params = layer.init(jax.random.key(0))
    assert layer.apply(params, jnp.ones((1, 2), "float32")).shape == (1, 2)


def test_Q38_what_a_rule_must_define():
    # Which methods must an autograd.Function have? forward, which also saves, and backward, which
    # returns a gradient for each input. Here: a function, fwd and bwd, for `register`.
    own = register(
        lambda x: jnp.maximum(x, 0.0),
        lambda x: (jnp.maximum(x, 0.0), x > 0),
        lambda positive, g: (jnp.where(positive, g, 0.0),),
        name="own_relu",
    )
    assert jax.grad(lambda x: own(x).sum())(jnp.array([-1.0, 2])).tolist() == [0, 1]
    assert list(inspect.signature(register).parameters)[:3] == ["forward", "fwd", "bwd"]


def test_Q39_a_linear_layer_from_scratch(key):
    # nn.Linear from scratch, and tested? Its first parameters, and a pure function of them and x.
    def my_linear(n_in, n_out):
        def first(key):
            return (2 / n_in) ** 0.5 * jax.random.normal(key, (n_in, n_out)), jnp.zeros(n_out)

        def apply(params, x):
            w, b = params
            return x @ w + jnp.broadcast_to(b, (len(x), n_out))

        return first, apply

    first, apply = my_linear(10, 2)
    params, x = first(key), jax.random.normal(key, (5, 10))
    chex.assert_shape(params, [(10, 2), (2,)])
    assert_close(apply(params, x), lin(x, *params))
    assert_close(apply(params, x), linear(10, 2).apply(params, x))


def test_Q40_modules():
    # How do two libraries' Modules differ? One needs super().__init__() before parameters are set,
    # the other calls it itself: both list what was assigned. Here parameters are a value that
    # `init` returns: there is nothing to call, and any tree of arrays can be listed.
    net = sequential(linear(10, 5), relu_layer(), linear(5, 2))
    listed = parameters(net.init(jax.random.key(0)))
    assert [value.shape for _, value in listed] == [(10, 5), (5,), (5, 2), (2,)]
    assert all(isinstance(name, str) for name, _ in listed)


def test_F1_the_same_rule_trains(data):
    # ReLU as an own function, and train with it? As question 38; the loss goes down alike.
    params, x, y = data
    own = register(
        lambda x: jnp.maximum(x, 0.0),
        lambda x: (jnp.maximum(x, 0.0), x > 0),
        lambda positive, g: (jnp.where(positive, g, 0.0),),
        name="own_relu",
    )

    def train(activation):
        def loss(p):
            return mse(lin(activation(lin(x, *p[0])), *p[1]), y)

        def step(p, _):
            value, grads = jax.value_and_grad(loss)(p)
            return jax.tree.map(lambda p, g: p - 0.05 * g, p, grads), value

        return jax.lax.scan(step, params, length=50)[1]

    losses = train(own)
    assert losses[-1] < 0.5 * losses[0]
    assert_close(losses, train(relu))


def test_F2_the_linear_layer_in_mathematics():
    # The gradients of a linear layer in mathematical notation, mapped to code? dx = g wᵀ,
    # dw = xᵀ g, db = the sum of g over the samples: proved by symbols, entry by entry.
    case = Instance({"x": Sym(2, 2), "w": Sym(2, 2), "b": Sym(2)})
    proof = prove("lin", cases=[case])
    assert proof.exact
    x, w, g = (
        np.array([[sympy.Symbol(f"{n}_{i}{j}") for j in range(2)] for i in range(2)]) for n in "xwg"
    )
    (claim,) = proof.claims
    for name, matrix in (("x", g @ w.T), ("w", x.T @ g), ("b", g.sum(axis=0))):
        assert not np.vectorize(sympy.expand)(claim.derivative[name] - matrix).any()
    assert r"\frac{\partial L}{\partial x_{00}} &= g_{00} w_{00} + g_{01} w_{01}" in proof.latex


def test_F3_convolution_by_unfold_and_a_product(key):
    # A convolution from unfold and a matrix product, and train a net with it? Each window becomes a
    # row; the kernels are columns. The training on real images is examples/mnist.py's and the
    # notebooks'; here a kernel is found again from what it makes of noise.
    def conv(x, w):
        return fnnet.matmul(fnnet.unfold(x, w.shape[:2]), w.reshape(-1, w.shape[-1]))

    image, kernel = jnp.arange(9.0).reshape(1, 3, 3, 1), jnp.arange(4.0).reshape(2, 2, 1, 1)
    assert conv(image, kernel)[0, :, :, 0].tolist() == [[19, 25], [37, 43]]
    x, w = jax.random.normal(key, (4, 8, 8, 2)), jax.random.normal(key, (3, 3, 2, 5))
    dims = ("NHWC", "HWIO", "NHWC")
    want = jax.lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=dims)
    assert_close(conv(x, w), want, rtol=1e-13)

    def step(v, _):
        value, dv = jax.value_and_grad(lambda v: mse(conv(x, v), want))(v)
        return v - 0.5 * dv, value

    found, losses = jax.lax.scan(step, jnp.zeros_like(w), length=200)
    assert losses[-1] < 1e-3 * losses[0]
    assert float(fnnet.norm(found - w)) < 0.1 * float(fnnet.norm(w))


def test_F4_the_chapter_in_numpy(data):
    # All of it in NumPy? fnnet/proof/reference.py, which trains as a script without JAX.
    from fnnet.proof import reference

    params, x, _ = data
    out = reference.lin(np.asarray(x), *map(np.asarray, params[0]))
    assert_close(jnp.asarray(reference.relu(out)), relu(lin(x, *params[0])))
    assert {"matmul", "lin", "relu", "mse"} <= set(reference.OPS)
