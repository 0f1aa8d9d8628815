"""The manual pass against automatic differentiation of the same net in plain jnp."""

import ast
import inspect
from itertools import pairwise

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnnet.net import backprop, init
from fnnet.net.backprop import LinearParams, forward, forward_and_backward, init_mlp, loss
from tests.compare import assert_close, equations

SIZES = [(4, 3), (100, 50, 1), (7, 6, 5, 4, 3)]
NETS = pytest.mark.parametrize("sizes", SIZES, ids=str)


def plain_loss(params, x, y):
    """The loss written anew, with nothing of fnnet in it."""
    for i, (w, b) in enumerate(params):
        x = jnp.maximum(x, jnp.zeros_like(x)) if i else x
        x = jnp.einsum("...i,ij->...j", x, w)
        if b is not None:
            x = x + jnp.broadcast_to(b, x.shape)
    return jnp.mean(jnp.square(x.reshape(y.shape) - y))


def problem(sizes, batch=(9,), dtype="float64", bias=True):
    """Parameters with biases that are not 0, inputs and targets, by NumPy: quick."""
    rng = np.random.default_rng(2)

    def normal(*shape, std=1.0):
        return jnp.asarray((std * rng.standard_normal(shape)).astype(jnp.dtype(dtype)))

    params = [
        LinearParams(normal(i, o, std=(2 / i) ** 0.5), normal(o, std=0.5) if bias else None)
        for i, o in pairwise(sizes)
    ]
    return params, normal(*batch, sizes[0]), normal(*batch, sizes[-1])


def as_float64(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.float64), tree)


automatic = jax.jit(jax.value_and_grad(plain_loss))
manual = jax.jit(forward_and_backward)


@NETS
@pytest.mark.parametrize(
    ("batch", "bias"), [((9,), True), ((), True), ((2, 3), True), ((9,), False)], ids=str
)
def test_every_gradient_equals_autodiff_s(sizes, batch, bias):
    args = problem(sizes, batch, bias=bias)
    want = automatic(*args)
    if batch:  # a single sample may well meet a layer of dead units
        assert all(np.asarray(leaf).any() for leaf in jax.tree.leaves(want))
    assert_close(manual(*args), want, rtol=1e-12)
    assert_close(jax.jit(jax.value_and_grad(loss))(*args), want, rtol=1e-12)


@NETS
def test_the_same_without_jit(sizes):
    args = problem(sizes)
    assert_close(forward_and_backward(*args), automatic(*args), rtol=1e-12)


def test_targets_without_the_last_axis():
    params, x, y = problem((100, 50, 1))
    assert_close(manual(params, x, y[:, 0]), automatic(params, x, y[:, 0]), rtol=1e-12)


@NETS
def test_vmap_gives_each_sample_s_gradients(sizes):
    params, x, y = problem(sizes)
    got = jax.vmap(manual, (None, 0, 0))(params, x, y)
    assert_close(got, jax.vmap(automatic, (None, 0, 0))(params, x, y))
    mean = jax.tree.map(lambda g: np.mean(g, axis=0), got)
    assert_close(manual(params, x, y), mean)


def test_vmap_over_an_ensemble_of_nets():
    params, x, y = problem((4, 3, 2))
    nets = jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf, 2 * leaf, leaf + 0.1]), params)
    got = jax.jit(jax.vmap(forward_and_backward, (0, None, None)))(nets, x, y)
    for i in range(4):
        one = jax.tree.map(lambda leaf, i=i: leaf[i], nets)
        want = automatic(one, x, y)
        assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], got), want)


@NETS
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_narrow_dtypes(sizes, dtype):
    """Against float64 at the same, rounded, numbers: a few roundings for each layer passed.

    Products are summed in float32 and rounded once, by eps/2: L layers forward and L back make L
    eps. The rest of the bound is for the float32 sums, where dtype is float32, and for a relu whose
    input is so near 0 that rounding switches it.
    """
    args = problem(sizes, dtype=dtype)
    want = automatic(*as_float64(args))
    bound = 4 * len(sizes) * float(jnp.finfo(dtype).eps)
    got = manual(*args)
    chex.assert_type(jax.tree.leaves(got), dtype)
    assert_close(as_float64(got), want, rtol=bound)


def test_forward():
    params, x, _ = problem((4, 3, 2))
    (w1, b1), (w2, b2) = (jax.tree.map(np.asarray, layer) for layer in params)
    want = np.maximum(np.asarray(x) @ w1 + b1, 0) @ w2 + b2
    np.testing.assert_allclose(forward(params, x), want, rtol=1e-12)
    np.testing.assert_allclose(jax.vmap(forward, (None, 0))(params, x), want, rtol=1e-12)


def test_the_gradient_does_not_need_the_loss(monkeypatch):
    """Every gradient stays the same when the loss is thrown away and replaced by NaN."""
    args = problem((4, 3, 2))
    _, want = forward_and_backward(*args)
    mse_fwd = backprop.mse_fwd
    monkeypatch.setattr(
        backprop, "mse_fwd", lambda out, y: (jnp.float64(jnp.nan), mse_fwd(out, y)[1])
    )
    value, grads = forward_and_backward(*args)
    assert jnp.isnan(value)
    assert_close(grads, want, rtol=0)


def test_no_step_is_left_to_automatic_differentiation():
    tree = ast.parse(inspect.getsource(backprop))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names |= {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert {"lin_bwd", "relu_bwd", "mse_bwd"} <= names
    automatic = {"grad", "value_and_grad", "vjp", "vjp3", "jvp", "linearize", "linear_transpose"}
    automatic |= {"jacobian", "jacrev", "jacfwd", "hessian", "custom_vjp", "custom_jvp", "register"}
    assert not names & automatic

    # nor to a registered rule: what is traced is arithmetic alone
    traced = jax.make_jaxpr(forward_and_backward)(*problem((4, 3, 2)))
    primitives = {eqn.primitive.name for eqn in equations(traced)}
    assert "dot_general" in primitives
    assert not [name for name in primitives if "custom" in name]


def test_the_first_layer_s_input_gradient_costs_nothing_when_compiled():
    """Three layers: three products forward, three weight gradients, two input gradients."""
    compiled = jax.jit(forward_and_backward).lower(*problem((100, 90, 80, 70))).compile()
    assert compiled.cost_analysis()["flops"] < 1.02 * 2 * 9 * (3 * 7200 + 3 * 5600 + 2 * 9000)


def test_no_samples():
    params, x, y = problem((4, 3, 2), batch=(0,))
    value, grads = forward_and_backward(params, x, y)
    assert value == 0
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(grads))


def test_nan_is_not_hidden():
    params, x, y = problem((4, 3, 2))
    value, grads = manual(params, x.at[0, 0].set(jnp.nan), y)
    assert jnp.isnan(value)
    assert jnp.isnan(grads[1].w).all()
    assert jnp.isnan(grads[1].b).all()
    assert jnp.isnan(grads[0].w[0]).all()


def test_init_mlp():
    params = init_mlp(jax.random.key(0), [784, 50, 10], init.lecun_normal, jnp.bfloat16)
    leaves = jax.tree.leaves(params)
    chex.assert_shape(leaves, [(784, 50), (50,), (50, 10), (10,)])
    chex.assert_type(leaves, jnp.bfloat16)
    assert all((b == 0).all() for _, b in params)
    assert params[0].w.astype(jnp.float32).std() == pytest.approx(784**-0.5, rel=0.03)
    assert init_mlp(jax.random.key(0), (3, 3, 3))[0].w.dtype == jnp.float32
    same = init_mlp(jax.random.key(0), (3, 3, 3))
    assert (same[0].w != same[1].w).all()


def test_wrong_arguments():
    params, x, y = problem((4, 3, 2))
    for f in (lambda *args: forward(*args[:2]), loss, forward_and_backward):
        with pytest.raises(ValueError, match=r"layer 0 .*\(4, 3\).* x of shape \(9, 5\)"):
            f(params, jnp.ones((9, 5)), y)
        with pytest.raises(ValueError, match=r"layer 1 .*\(4, 3\).* does not fit layer 0"):
            f([params[0], params[0]], x, y)
        with pytest.raises(ValueError, match=r"layer 0 .* x of shape \(\)"):
            f(params, jnp.ones(()), y)
        with pytest.raises(ValueError, match="one layer at least"):
            f([], x, y)
        with pytest.raises(TypeError, match=r"x must be of a float dtype, got int32.*x.astype"):
            f(params, x.astype(jnp.int32), y)
    with pytest.raises(TypeError, match="y must be of a float dtype, got uint8"):
        forward_and_backward(params, x, y.astype(jnp.uint8))
    # (2, 9) has as many elements as (9, 2): nothing may be reshaped into fitting
    for wrong in (y.T, y[:, 0], y[:4], y[:, :1]):
        with pytest.raises(ValueError, match=r"y must have the output's shape \(9, 2\), got"):
            forward_and_backward(params, x, wrong)
        with pytest.raises(ValueError, match=r"mse"):
            loss(params, x, wrong)
    single, x, y = problem((4, 1))
    with pytest.raises(ValueError, match=r"shape \(9, 1\) or \(9,\), got \(1, 9\)"):
        forward_and_backward(single, x, y.T)

    with pytest.raises(
        ValueError, match=r"sizes must name the input's and the output's, got \(4,\)"
    ):
        init_mlp(jax.random.key(0), (4,))
    with pytest.raises(ValueError, match="n_out must be at least 1, got 0"):
        init_mlp(jax.random.key(0), (4, 0))
    with pytest.raises(TypeError, match=r"n_out must be a whole number, got 2\.5"):
        init_mlp(jax.random.key(0), (4, 2.5))
    with pytest.raises(TypeError):
        init_mlp(0, (4, 2))
