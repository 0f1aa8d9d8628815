"""Initialisers: their statistics against theory, their errors, and what scale does to 50 layers."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnnet import relu
from fnnet.net import init
from fnnet.net.backprop import forward_and_backward, init_mlp
from fnnet.net.layers import parameters

# name: (initialiser, its variance from the fans, whether uniform)
TABLE = {
    "normal": (init.normal(0.37), lambda i, o: 0.37**2, False),
    "xavier_normal": (init.xavier_normal, lambda i, o: 2 / (i + o), False),
    "xavier_uniform": (init.xavier_uniform, lambda i, o: 2 / (i + o), True),
    "kaiming_normal": (init.kaiming_normal, lambda i, o: 2 / i, False),
    "kaiming_uniform": (init.kaiming_uniform, lambda i, o: 2 / i, True),
    "lecun_normal": (init.lecun_normal, lambda i, o: 1 / i, False),
}
RANDOM = pytest.mark.parametrize("name", TABLE)
# shape: (n_in, n_out). The last is a convolution of 24 inputs in 4 groups: its I is 6.
FANS = {
    (300, 40): (300, 40),
    (3, 5, 16, 32): (240, 480),
    (9, 8, 64): (72, 576),
    (3, 3, 6, 48): (54, 432),
}


def draws(name, shape, dtype=jnp.float32, keys=8):
    f = TABLE[name][0]
    many = [f(key, shape, dtype) for key in jax.random.split(jax.random.key(3), keys)]
    assert all(x.dtype == dtype and x.shape == shape for x in many)
    return np.stack([np.asarray(x).astype(np.float64) for x in many])


@RANDOM
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [(shape, "float32") for shape in FANS]
    + [((300, 40), dtype) for dtype in ("float64", "bfloat16", "float16")],
    ids=str,
)
def test_mean_and_variance_are_the_theory_s(name, shape, dtype):
    _, variance, uniform = TABLE[name]
    var = variance(*FANS[shape])
    x = draws(name, shape, jnp.dtype(dtype))
    # Five standard errors: of the mean σ/√N, of the variance σ²√((κ - 1)/N) with the kurtosis κ.
    kurtosis = 1.8 if uniform else 3.0
    assert abs(x.mean()) < 5 * math.sqrt(var / x.size)
    assert abs(x.var() / var - 1) < 5 * math.sqrt((kurtosis - 1) / x.size)


@RANDOM
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_distribution(name, dtype):
    _, variance, uniform = TABLE[name]
    x = draws(name, (300, 400), jnp.dtype(dtype)) / math.sqrt(variance(300, 400))
    if uniform:
        eps = float(jnp.finfo(dtype).eps)
        assert math.sqrt(3) * 0.999 < np.abs(x).max() <= math.sqrt(3) * (1 + eps)
        return
    for k in (1, 2, 3, 4):  # the tails are there: nothing is truncated, in no dtype
        p = math.erfc(k / math.sqrt(2))
        bin_width = 5 * 2 * k * float(jnp.finfo(dtype).eps) * p  # rounding moves the border
        band = 5 * math.sqrt(p / x.size) + bin_width
        assert abs((np.abs(x) > k).mean() - p) < band


@RANDOM
def test_narrow_dtypes_are_the_float32_draw_rounded(name):
    f = TABLE[name][0]
    wide = f(jax.random.key(0), (30, 40))
    for dtype in (jnp.bfloat16, jnp.float16):
        assert (f(jax.random.key(0), (30, 40), dtype) == wide.astype(dtype)).all()


@RANDOM
def test_keys(name):
    f = TABLE[name][0]
    typed = f(jax.random.key(7), (6, 5))
    assert typed.dtype == jnp.float32
    assert (f(jax.random.PRNGKey(7), (6, 5)) == typed).all()
    compiled = jax.jit(lambda key: f(key, (6, 5)))(jax.random.key(7))
    np.testing.assert_allclose(compiled, typed, rtol=1e-6)  # the last bit may differ
    assert not (f(jax.random.key(8), (6, 5)) == typed).any()
    other = f(jax.random.key(7, impl="rbg"), (6, 5))
    assert other.shape == (6, 5)


def test_fans():
    for shape, fans in FANS.items():
        assert init.fans("here", shape) == fans


def test_zeros():
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float64):
        z = init.zeros(jax.random.key(0), (3, 2), dtype)
        assert z.dtype == dtype
        assert z.shape == (3, 2)
        assert (z == 0).all()


def test_weights_without_elements():
    for name in TABLE:
        assert TABLE[name][0](jax.random.key(0), (0, 3)).shape == (0, 3)
        assert TABLE[name][0](jax.random.key(0), (3, 0)).shape == (3, 0)


@pytest.mark.parametrize("shape", [(), (3,)])
@pytest.mark.parametrize("name", [name for name in TABLE if name != "normal"])
def test_a_shape_without_a_fan(name, shape):
    with pytest.raises(ValueError, match=rf"{name}: shape \({shape and '3,'}\) has no fan.*zeros"):
        TABLE[name][0](jax.random.key(0), shape)


@RANDOM
def test_wrong_arguments(name):
    f = TABLE[name][0]
    key = jax.random.key(0)
    for dtype in (jnp.int32, jnp.complex64, bool):
        with pytest.raises(TypeError, match=f"{name}: dtype must be a float dtype, got"):
            f(key, (3, 2), dtype)
    for no_key in (0, None, "key", np.zeros(2), jnp.zeros(3, jnp.uint32)):
        with pytest.raises(
            TypeError, match=rf"{name}: key must be a key such as jax.random.key\(0\)"
        ):
            f(no_key, (3, 2))
    with pytest.raises(ValueError, match=rf"{name}: one key is wanted, .* shape \(4,\)"):
        f(jax.random.split(key, 4), (3, 2))
    for shape in (3, (2.5, 2)):
        with pytest.raises(ValueError, match=f"{name}: shape must be a sequence of sizes"):
            f(key, shape)
    with pytest.raises(ValueError, match=f"{name}: shape must have no negative size"):
        f(key, (-1, 2))


def test_wrong_arguments_of_zeros_and_normal():
    with pytest.raises(TypeError, match="zeros: dtype must be a float dtype, got int32"):
        init.zeros(None, (2,), jnp.int32)
    for std in ("0.1", (1.0, 2.0), jax.random.key(0), None):
        with pytest.raises(TypeError, match="normal: std must be a real number, got"):
            init.normal(std)
    for std in (-1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="normal: std must be finite and not negative"):
            init.normal(std)
    assert (init.normal(0)(jax.random.key(0), (3,)) == 0).all()


# One layer, and fifty: 200 samples of 100 numbers, medians or means over many keys.

KEYS = 32


def identity(z):
    return z


def standard_normal(*shape):
    return jnp.asarray(np.random.default_rng(5).standard_normal(shape).astype(np.float32))


def weights(initialiser, keys, shape):
    """One draw for each key."""
    return jax.vmap(lambda key: initialiser(key, shape))(jax.random.split(jax.random.key(6), keys))


def one_layer(initialiser, f=identity):
    """Mean and std of f(x @ w), w (100, 50), over all the keys."""
    x, w = standard_normal(KEYS, 200, 100), weights(initialiser, KEYS, (100, 50))
    y = np.asarray(f(x @ w)).astype(np.float64)
    return y.mean(), y.std()


@partial(jax.jit, static_argnums=0)
def run(f, x, layers):
    """f(x @ w) through all layers, and the first layer whose output is not all finite."""

    def layer(x, w):
        x = f(x @ w)
        return x, jnp.isfinite(x).all(axis=(1, 2))

    x, finite = jax.lax.scan(layer, x, layers)
    return x, jnp.sum(finite, axis=0) + 1


def fifty_layers(initialiser, f=identity):
    """The last layer's output for each key, and the first layer whose output is not all finite."""
    layers = weights(initialiser, 50 * KEYS, (100, 100)).reshape(50, KEYS, 100, 100)
    x, broken = run(f, standard_normal(KEYS, 200, 100), layers)
    assert x.dtype == jnp.float32
    return np.asarray(x), np.asarray(broken)


def rms(x):
    return np.sqrt(np.square(x.astype(np.float64)).mean(axis=(1, 2)))


def test_the_first_layer_s_std_is_10():
    """Var y = 100 · 1 · 1."""
    mean, std = one_layer(init.normal(1.0))
    assert abs(mean) < 0.1
    assert std == pytest.approx(10.0, rel=0.01)


def test_relu_statistics():
    """For z of N(0, s²), E relu(z) = s/√(2π) and E relu(z)² = s²/2."""
    mean, std = 1 / math.sqrt(2 * math.pi), math.sqrt(1 / 2 - 1 / (2 * math.pi))
    assert (round(mean, 4), round(std, 4)) == (0.3989, 0.5838)
    assert one_layer(init.lecun_normal, relu) == pytest.approx((mean, std), rel=0.02)

    root = math.sqrt(2)
    assert (round(root * mean, 4), round(root * std, 4)) == (0.5642, 0.8256)
    assert one_layer(init.kaiming_normal, relu) == pytest.approx(
        (root * mean, root * std), rel=0.02
    )


def test_fifty_layers_of_std_1_are_all_nan():
    """The std is 10^l after layer l and float32 ends at 3.4e38: layer 38 holds the first inf."""
    x, broken = fifty_layers(init.normal(1.0))
    assert np.isnan(x).all()
    assert np.median(broken) == 38
    assert set(broken) <= {37, 38, 39}


def test_fifty_layers_of_std_0_01_are_all_zero():
    x, broken = fifty_layers(init.normal(0.01))
    assert (x == 0).all()
    assert (broken == 51).all()


@pytest.mark.parametrize(
    "initialiser", [init.xavier_normal, init.xavier_uniform, init.lecun_normal]
)
def test_fifty_layers_of_xavier_stay_of_order_1(initialiser):
    x, _ = fifty_layers(initialiser)
    assert 0.6 < np.median(x.std(axis=(1, 2))) < 1.3
    assert (rms(x) > 0.1).all()
    assert (rms(x) < 10).all()


def test_fifty_relu_layers_of_xavier_vanish():
    """Each relu halves the mean square: 2^-25 = 3e-8 in the mean, somewhat less in the median."""
    x, _ = fifty_layers(init.normal(0.1), relu)
    assert 0.25 * 2**-25 < np.median(rms(x)) < 1.2 * 2**-25


@pytest.mark.parametrize("initialiser", [init.kaiming_normal, init.kaiming_uniform])
def test_fifty_relu_layers_of_kaiming_stay_of_order_1(initialiser):
    x, _ = fifty_layers(initialiser, relu)
    assert 0.3 < np.median(rms(x)) < 1.2
    assert (rms(x) > 0.02).all()
    assert (rms(x) < 20).all()


def trained(initialiser, steps=50):
    """The parameters of a 4-8-1 net before and after gradient descent on |x|, and its gradients."""
    x = jax.random.normal(jax.random.key(1), (32, 4), jnp.float32)
    y = jnp.sum(jnp.abs(x), axis=1)
    params = init_mlp(jax.random.key(0), (4, 8, 1), initialiser)
    first_grads = forward_and_backward(params, x, y)[1]

    def step(params, _):
        _, grads = forward_and_backward(params, x, y)
        return jax.tree.map(lambda p, g: p - 0.05 * g, params, grads), None

    return params, jax.lax.scan(step, params, None, length=steps)[0], first_grads


def test_zero_weights_never_move():
    """With w2 = 0 nothing reaches the first layer, with relu(0) = 0 nothing reaches w2."""
    before, after, grads = trained(init.zeros)
    moved = {name for name, g in parameters(grads) if (g != 0).any()}
    assert moved == {"1.b"}
    assert (after[0].w == before[0].w).all()
    assert (after[1].w == before[1].w).all()


def test_equal_weights_stay_equal_and_random_ones_do_not():
    def constant(key, shape, dtype=jnp.float32):
        return jnp.full(shape, 0.1, dtype)

    before, after, _ = trained(constant)
    assert (after[0].w != before[0].w).any()
    assert (after[0].w == jnp.broadcast_to(after[0].w[:, :1], (4, 8))).all()

    _, after, _ = trained(init.kaiming_normal)
    assert len(np.unique(np.asarray(after[0].w), axis=1).T) == 8
