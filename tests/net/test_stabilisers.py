"""What else keeps 50 layers alive: gradient clipping, leaky relu, batch statistics."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fnnet.net import init
from fnnet.net.backprop import forward_and_backward, init_mlp

KEYS = 16


def data(key):
    key_x, key_y = jax.random.split(key)
    x = jax.random.normal(key_x, (64, 100), jnp.float32)
    return x, jax.random.normal(key_y, (64, 100), jnp.float32)


def norm(tree):
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)))


def descent(optimiser, steps):
    """Of a 50-layer net growing by √2 a layer: losses, norms of gradients, norms of steps.

    Not compiled: 50 layers written out take longer to compile than these steps.
    """
    params = init_mlp(jax.random.key(0), [100] * 51, init.normal(0.2))
    x, y = data(jax.random.key(1))
    state = optimiser.init(params)
    seen = []
    for _ in range(steps):
        loss, grads = forward_and_backward(params, x, y)
        updates, state = optimiser.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        seen.append((loss, norm(grads), norm(updates)))
    return np.asarray(seen).T


def test_clipping_bounds_the_step_where_the_gradient_explodes():
    loss, gradient, _ = descent(optax.sgd(0.1), steps=3)
    assert gradient[0] > 1e12
    assert not np.isfinite(loss[1:]).any()  # one step and all is lost

    loss, gradient, update = descent(
        optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)), steps=20
    )
    assert gradient[0] > 1e12
    assert np.isfinite(loss).all()
    assert loss[-1] < loss[0]
    np.testing.assert_allclose(update, 0.1, rtol=1e-5)


def test_clipping_cannot_bring_back_a_gradient_that_is_no_number():
    params = init_mlp(jax.random.key(0), [100] * 51, init.normal(1.0))
    _, grads = forward_and_backward(params, *data(jax.random.key(1)))
    clipped, _ = optax.clip_by_global_norm(1.0).update(grads, optax.EmptyState())
    assert all(jnp.isnan(leaf).all() for leaf in jax.tree.leaves(clipped))


@partial(jax.jit, static_argnums=0)
def every_key(f, std, *args):
    """For each key, the root mean square of a 50-layer net's output, and of its gradient in x."""

    def run(key):
        key_x, key_g, key_w = jax.random.split(key, 3)
        weights = std * jax.random.normal(key_w, (50, 100, 100), jnp.float32)

        def net(x):
            return jax.lax.scan(lambda x, w: (f(x @ w, *args), None), x, weights)[0]

        x = jax.random.normal(key_x, (100, 100), jnp.float32)
        y, pull_back = jax.vjp(net, x)
        (dx,) = pull_back(jax.random.normal(key_g, y.shape, y.dtype))
        return jnp.sqrt(jnp.mean(jnp.square(y))), jnp.sqrt(jnp.mean(jnp.square(dx)))

    return jax.lax.map(run, jax.random.split(jax.random.key(2), KEYS))


def fifty_layers(f, *args):
    """The medians of `every_key`; numbers are passed as arrays, so that f is compiled once."""
    y, dx = every_key(f, *(jnp.float32(a) for a in args))
    return np.median(np.asarray(y)), np.median(np.asarray(dx))


def leaky_relu(z, slope):
    return jnp.where(z > 0, z, slope * z)


@pytest.mark.parametrize("slope", [0.0, 0.2, 0.5])
def test_leaky_relu_passes_more_on(slope):
    """For z of N(0, s²), E f(z)² = s²(1 + slope²)/2, and the same factor goes backward."""
    kept = ((1 + slope**2) / 2) ** 25
    for seen in fifty_layers(leaky_relu, 0.1, slope):
        assert 0.25 * kept < seen < 1.6 * kept


def test_leaky_relu_with_its_own_gain_stays_of_order_1():
    std = (2 / (1 + 0.2**2) / 100) ** 0.5
    for seen in fifty_layers(leaky_relu, std, 0.2):
        assert 0.3 < seen < 1.6


def test_leaky_relu_revives_a_dead_unit():
    x, _ = data(jax.random.key(3))
    w = init.kaiming_normal(jax.random.key(4), (100, 50))

    def bias_gradient(slope):
        def loss(b):
            return jnp.mean(jnp.square(leaky_relu(x @ w + jnp.broadcast_to(b, (64, 50)), slope)))

        return jax.grad(loss)(jnp.full((50,), -100.0, jnp.float32))

    assert (bias_gradient(0.0) == 0).all()
    assert (bias_gradient(0.01) < 0).all()


def standardise(z):
    """Each column by its own mean and deviation over the batch."""
    z = z - jnp.broadcast_to(jnp.mean(z, axis=0), z.shape)
    return z / jnp.broadcast_to(jnp.std(z, axis=0), z.shape)


def standardised_relu(z):
    return jax.nn.relu(standardise(z))


@pytest.mark.parametrize("std", [0.01, 1.0])
def test_batch_statistics_undo_any_scale(std):
    """What was all NaN, or all 0, has std 1, whatever the weights' scale."""
    y, _ = fifty_layers(standardise, std)
    assert y == pytest.approx(1.0, rel=1e-3)
    y, dx = fifty_layers(standardised_relu, std)
    assert y == pytest.approx(0.5**0.5, rel=0.05)
    assert 0 < dx < np.inf
