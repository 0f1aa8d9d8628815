"""Where a run first stopped being finite: the step and the leaf, found by a replay."""

import char_lm
import health
import jax
import jax.numpy as jnp
import language_models
import mnist
import numpy as np
import optax
import pytest
import training

from fnnet import backprop
from tests.marks import first_of

SIZES = (6, 5, 3)


@pytest.fixture
def arrays(key):
    x = jax.random.normal(key, (40, SIZES[0]), jnp.float32)
    return x, jax.nn.one_hot(jnp.argmax(x[:, :3], 1), 3, dtype=jnp.float32)


def start(optimizer):
    params = backprop.init_mlp(jax.random.key(0), SIZES)
    return training.State(params, optimizer.init(params))


def epoch(make, loss, optimizer):
    return training.make_epoch(make(loss, optimizer), 4)


def test_watched_steps_are_the_steps(arrays, key):
    optimizer = training.make_optimizer(1e-2, 10)
    plain, losses = epoch(training.make_step, backprop.loss, optimizer)(
        start(optimizer), *arrays, key, steps=10
    )
    state, watched = epoch(health.make_watched_step, backprop.loss, optimizer)(
        start(optimizer), *arrays, key, steps=10
    )
    np.testing.assert_allclose(watched.loss, losses, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    assert health.first_nonfinite(watched) is None
    assert (
        health.report(watched, 0)
        == "taken once more, these steps leave every gradient and parameter finite"
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_planted_one_is_found(arrays, key, bad):
    """A leaf of its own counts the steps; in the fifth, one gradient of another is not finite."""
    optimizer = optax.sgd(1.0)

    def loss(params, x, y):
        net, count = params["net"], params["steps"]
        broken = jnp.where(count > 3.5, jnp.float32(bad), jnp.float32(0))
        return backprop.loss(net, x, y) - count + broken * net[1].b[0]

    net = backprop.init_mlp(jax.random.key(0), SIZES)
    params = {"net": net, "steps": jnp.zeros((), jnp.float32)}
    state = training.State(params, optimizer.init(params))
    _, watched = epoch(health.make_watched_step, loss, optimizer)(state, *arrays, key, steps=10)
    step, what = health.first_nonfinite(watched)
    assert step == 4
    assert what == "the gradient of net.1.b, and 1 more"  # which is the parameter
    assert health.report(watched, 20).endswith("in step 25")


def test_a_parameter_and_a_loss():
    flags = jnp.array([True, True, False])
    fine = jnp.ones(3, bool)
    tree = {"w": fine, "b": flags}
    watched = health.Watched(jnp.zeros(3), {"w": fine, "b": fine}, tree)
    assert health.first_nonfinite(watched) == (2, "the parameter b")
    watched = health.Watched(jnp.array([0, jnp.inf, 0]), {"w": fine}, {"w": flags})
    assert health.first_nonfinite(watched) == (1, "the loss alone")


# Whole scripts: at such a rate every net is thrown out of float32 by its first steps.

RUNS = {
    "mlp": (mnist, "--data digits --smoke --lr 1e25"),
    "cnn": (mnist, "--data digits --smoke --model cnn --lr 1e25"),
    "bf16": (mnist, "--data digits --smoke --lr 1e25 --precision bf16"),
    "rnn": (char_lm, "--smoke --model rnn --lr 1e38 --reports 1"),
    "gru": (char_lm, "--smoke --model gru --lr 1e38 --reports 1"),
    "transformer": (char_lm, "--smoke --lr 3e38 --reports 1"),
}


@pytest.mark.parametrize("which", first_of(RUNS))
def test_scripts(which, tmp_path, capsys, monkeypatch):
    """Exit code 1, one line that names a leaf, and no checkpoint of what is broken."""
    monkeypatch.setattr(mnist.gradients, "compare", lambda *_, **__: [])
    monkeypatch.setattr(mnist.gradients, "compare_losses", lambda *_, **__: [])
    script, flags = RUNS[which]
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        args = [*flags.split(), "--save-every", "1", "--workdir", str(tmp_path)]
        assert script.main(args) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "training diverged; a smaller --lr may help (first not finite: the " in error
    leaf = error.split("first not finite: the ")[1].split(",")[0].split(" ")[-1]
    if script is char_lm:
        model = language_models.make(which, classes=11, width=64, layers=2, length=32)
        names = model.init(jax.random.key(0))
        names = [training.leaf_name(path) for path, _ in jax.tree.leaves_with_path(names)]
        assert leaf in names
    else:
        assert leaf[1:] in (".w", ".b")
    assert not (tmp_path / "params.npz").exists()
