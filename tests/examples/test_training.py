"""The training loop: its arithmetic, its order, its two forms, and a net with the user's own op."""

import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from training import (
    Plan,
    State,
    in_precision,
    make_epoch,
    make_optimizer,
    make_step,
    mini_batches,
)

import fnnet
from fnnet import backprop

IMAGES, FEATURES, CLASSES, BATCH = 50, 6, 3, 8


@pytest.fixture
def arrays(key) -> tuple[jax.Array, jax.Array]:
    """Inputs, and targets that depend on them."""
    x = jax.random.normal(key, (IMAGES, FEATURES), jnp.float32)
    y = jax.nn.one_hot(jnp.argmax(x[:, :CLASSES], axis=1), CLASSES, dtype=jnp.float32)
    return x, y


def start(optimizer: optax.GradientTransformation, seed: int = 0) -> State:
    params = backprop.init_mlp(jax.random.key(seed), (FEATURES, 16, CLASSES))
    return State(params, optimizer.init(params))


def make_epoch_as_a_loop(step, batch_size):
    """`make_epoch` as a Python loop of compiled steps."""
    compiled = jax.jit(step, donate_argnums=0)

    def epoch(state, x, y, key, *, steps):
        losses = []
        for batch in np.asarray(mini_batches(key, len(x), batch_size, steps)):
            state, value = compiled(state, x[batch], y[batch])
            losses.append(value)
        return state, jnp.stack(losses)

    return epoch


def same_bits(a, b) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.asarray(p).tobytes() == np.asarray(q).tobytes() for p, q in pairs)


# The words: iteration, epoch, mini-batch.


def test_words_by_numbers():
    """4,000 images in mini-batches of 64: 62 iterations an epoch, 32 images left out of each."""
    plan = Plan.of_epochs(15, images=4000, batch_size=64)
    assert (plan.steps_per_epoch, plan.left_out, plan.steps, plan.epochs) == (62, 32, 930, 15)
    short = Plan(4000, 64, steps=100)
    assert (short.epochs, short.steps_in(1), short.steps_in(2)) == (2, 62, 38)
    assert (short.steps_after(1), short.steps_after(2)) == (62, 100)


@given(images=st.integers(1, 500), data=st.data())
def test_a_plan_adds_up(images, data):
    plan = Plan(images, data.draw(st.integers(1, images)), data.draw(st.integers(1, 2000)))
    steps = [plan.steps_in(epoch) for epoch in range(1, plan.epochs + 1)]
    assert sum(steps) == plan.steps
    assert all(n == plan.steps_per_epoch for n in steps[:-1])
    assert 1 <= steps[-1] <= plan.steps_per_epoch
    assert [plan.steps_after(e) for e in range(1, plan.epochs + 1)] == list(np.cumsum(steps))
    assert plan.steps_per_epoch * plan.batch_size + plan.left_out == images
    assert plan.left_out < plan.batch_size


@pytest.mark.parametrize("size", [0, -1, 51])
def test_a_batch_size_that_does_not_fit(size):
    with pytest.raises(
        ValueError, match=f"batch size {size} with 50 training images: want 1 to 50"
    ):
        Plan(50, size, 1)


def test_a_plan_without_steps():
    with pytest.raises(ValueError, match="0 steps: want at least 1"):
        Plan(50, 8, 0)


def test_mini_batches_take_no_image_twice_and_lose_none_for_ever(key):
    seen = set()
    for epoch in range(20):
        batches = np.asarray(mini_batches(jax.random.fold_in(key, epoch), IMAGES, BATCH, 6))
        assert batches.shape == (6, BATCH)
        assert len(np.unique(batches)) == 48
        seen |= set(batches.ravel())
    assert seen == set(range(IMAGES))


def test_an_epoch_is_its_iterations_written_out(arrays, key):
    """Forward, backward, update, for each mini-batch in turn: with `forward_and_backward` here."""
    x, y = arrays
    optimizer = optax.sgd(0.1)
    got, losses = make_epoch(make_step(backprop.loss, optimizer), BATCH)(
        start(optimizer), x, y, key, steps=6
    )
    params = start(optimizer).params
    manual = jax.jit(backprop.forward_and_backward)
    for batch, loss in zip(mini_batches(key, IMAGES, BATCH, 6), losses, strict=True):
        value, grads = manual(params, x[batch], y[batch])
        np.testing.assert_allclose(value, loss, rtol=1e-5)
        params = jax.tree.map(lambda p, g: p - jnp.float32(0.1) * g, params, grads)
    for p, q in zip(jax.tree.leaves(params), jax.tree.leaves(got.params), strict=True):
        np.testing.assert_allclose(p, q, rtol=1e-5, atol=1e-6)


# The compiled epoch.


def test_compiled_and_loop_agree(arrays, key):
    optimizer = make_optimizer(1e-2, 6)
    step = make_step(backprop.loss, optimizer)
    whole, losses = make_epoch(step, BATCH)(start(optimizer), *arrays, key, steps=4)
    one, expected = make_epoch_as_a_loop(step, BATCH)(start(optimizer), *arrays, key, steps=4)
    assert losses.shape == (4,)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    for p, q in zip(jax.tree.leaves(whole), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(p, q, rtol=1e-4, atol=1e-6)


def test_same_key_same_bits_other_key_others(arrays, key):
    x, y = arrays
    optimizer = make_optimizer(1e-2, 6)
    epoch = make_epoch(make_step(backprop.loss, optimizer), BATCH)
    first, again = (epoch(start(optimizer), x, y, key, steps=6) for _ in range(2))
    other = epoch(start(optimizer), x, y, jax.random.fold_in(key, 1), steps=6)
    assert same_bits(first, again)
    assert not same_bits(first, other)


def test_the_state_is_donated_and_the_images_are_not(arrays, key):
    x, y = arrays
    optimizer = make_optimizer(1e-2, 6)
    state = start(optimizer)
    make_epoch(make_step(backprop.loss, optimizer), BATCH)(state, x, y, key, steps=6)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert not x.is_deleted()
    assert not y.is_deleted()


def test_one_compilation_for_all_whole_epochs(arrays, key):
    x, y = arrays
    optimizer = make_optimizer(1e-2, 18)
    epoch = make_epoch(make_step(backprop.loss, optimizer), BATCH)
    state = start(optimizer)
    for e in range(3):
        state, _ = epoch(state, x, y, jax.random.fold_in(key, e), steps=6)
    assert epoch._cache_size() == 1


def test_the_learning_rate_ends_at_zero(arrays, key):
    """After the last planned step the parameters stand still."""
    x, y = arrays
    optimizer = make_optimizer(1e-2, 6)
    epoch = make_epoch(make_step(backprop.loss, optimizer), BATCH)
    state, _ = epoch(start(optimizer), x, y, key, steps=6)
    before = jax.tree.map(np.asarray, state.params)
    assert not same_bits(before, start(optimizer).params)
    state, _ = epoch(state, x, y, key, steps=6)
    assert same_bits(before, state.params)


# In bfloat16.


def test_bf16_has_float32_parameters_and_its_own_products(arrays):
    loss = in_precision(backprop.loss, "bf16")
    optimizer = make_optimizer(1e-2, 6)
    state = start(optimizer)
    # as lowered for an accelerator: XLA for CPUs has no kernel for some, which are widened there
    gradient = jax.export.export(jax.jit(jax.grad(loss)), platforms=["tpu"])
    text = gradient(state.params, *arrays).mlir_module()
    products = re.findall(r"stablehlo\.dot_general.* : \((.*?)\) ->", text)
    assert len(products) == 5  # two forward, three backward
    assert all(p.count("bf16") == 2 for p in products), products
    value, grads = jax.value_and_grad(loss)(state.params, *arrays)
    plain, exact = jax.value_and_grad(backprop.loss)(state.params, *arrays)
    assert value.dtype == jnp.float32
    assert 1e-6 < abs(float(value / plain) - 1) < 1e-2
    for g, e in zip(jax.tree.leaves(grads), jax.tree.leaves(exact), strict=True):
        assert g.dtype == jnp.float32
        assert 1e-5 < float(jnp.abs(g - e).max() / jnp.abs(e).max()) < 0.05
    state, _ = make_epoch(make_step(loss, optimizer), BATCH)(
        state, *arrays, jax.random.key(0), steps=6
    )
    for leaf in jax.tree.leaves(state):
        assert leaf.dtype in (jnp.float32, jnp.int32)
    assert in_precision(backprop.loss, "float32") is backprop.loss


def test_small_updates_are_not_lost():
    """A step below bfloat16's own: float32 parameters add it up."""
    optimizer = optax.sgd(1e-4)

    def loss(params, x, y):
        return params["w"] * jnp.ones((), params["w"].dtype)

    step = make_step(in_precision(loss, "bf16"), optimizer)
    params = {"w": jnp.ones((), jnp.float32)}
    state = State(params, optimizer.init(params))
    for _ in range(10):
        state, _ = step(state, jnp.zeros(1, jnp.float32), jnp.zeros(1, jnp.float32))
    np.testing.assert_allclose(state.params["w"], 1 - 1e-3, rtol=1e-6)


# A relu that the user registered.


def test_training_with_ones_own_relu(arrays, key):
    """The rule is the user's: it is used, it trains the net, and a wrong one shows."""
    used = []

    def forward(z):
        return jnp.maximum(z, jnp.zeros((), z.dtype))

    def fwd(z):
        return forward(z), z

    def bwd(z, g):
        used.append(z.shape)
        return (jnp.where(z > 0, g, jnp.zeros((), g.dtype)),)

    def loss_with(relu):
        def loss(params, x, y):
            (w1, b1), (w2, b2) = params
            return fnnet.mse(fnnet.lin(relu(fnnet.lin(x, w1, b1)), w2, b2), y)

        return loss

    def trained(loss):
        optimizer = make_optimizer(3e-2, 20 * 6)
        epoch = make_epoch(make_step(loss, optimizer), BATCH)
        state, history = start(optimizer), []
        for e in range(20):
            state, losses = epoch(state, *arrays, jax.random.fold_in(key, e), steps=6)
            history.append(float(losses.mean()))
        return state, history

    mine = fnnet.register(forward, fwd, bwd, name="my_relu")
    state, history = trained(loss_with(mine))
    assert used == [(BATCH, 16)]  # traced once, in the one compiled epoch
    assert history[-1] < 0.2 * history[0]
    reference, expected = trained(loss_with(fnnet.relu))
    np.testing.assert_allclose(history, expected, rtol=1e-3)
    for p, q in zip(jax.tree.leaves(state), jax.tree.leaves(reference), strict=True):
        np.testing.assert_allclose(p, q, rtol=1e-2, atol=1e-3)

    wrong = fnnet.register(forward, fwd, lambda z, g: (-g,))
    assert trained(loss_with(wrong))[1][-1] > 1.2 * history[-1]
