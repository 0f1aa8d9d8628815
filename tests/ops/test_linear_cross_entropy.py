"""linear_cross_entropy: what is its own, beside the rows of the table."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fnnet import cross_entropy, lin, linear_cross_entropy
from tests.compare import assert_close

ALL = (0, 1, 2)


def problem(n=10, d=4, c=13, dtype="float64"):
    k1, k2, k3, k4 = jax.random.split(jax.random.key(3), 4)
    x, w, b = (jax.random.normal(k, s, dtype) for k, s in ((k1, (n, d)), (k2, (d, c)), (k3, (c,))))
    return x, w, b, jax.random.randint(k4, (n,), 0, c)


def gradients(labels, **options):
    return jax.value_and_grad(lambda x, w, b: linear_cross_entropy(x, w, labels, b, **options), ALL)


@pytest.mark.parametrize("mode", ["forward", "recompute"])
@pytest.mark.parametrize("chunk", [1, 3, 10, 13, 1000, None])
def test_modes_and_chunks_agree(mode, chunk):
    x, w, b, labels = problem()
    options = {"smoothing": 0.1, "z_loss": 1e-3}
    want = jax.value_and_grad(lambda x, w, b: cross_entropy(lin(x, w, b), labels, **options), ALL)(
        x, w, b
    )
    assert_close(gradients(labels, mode=mode, chunk=chunk, **options)(x, w, b), want)


@pytest.mark.parametrize("mode", ["forward", "recompute"])
def test_ignored_samples_may_hold_anything(mode):
    x, w, b, labels = problem()
    labels = labels.at[::2].set(-1)
    weights = jnp.linspace(1.0, 2.0, 10)
    options = {"ignore_index": -1, "mode": mode, "chunk": 3, "weights": weights}
    want = jax.value_and_grad(
        lambda x, w, b: cross_entropy(lin(x, w, b), labels, ignore_index=-1, weights=weights), ALL
    )(x, w, b)
    got = gradients(labels, **options)(x.at[::2].set(jnp.nan), w, b)
    assert_close(got, want)
    loss, grads = gradients(jnp.full_like(labels, -1), **options)(x, w, b)
    assert loss == 0
    assert all((g == 0).all() for g in grads)


def test_a_class_that_is_ruled_out():
    x, w, b, _ = problem()
    labels = jnp.zeros(10, int)
    b = b.at[5].set(-jnp.inf)
    for mode in ("forward", "recompute"):
        loss, (dx, dw, db) = gradients(labels, mode=mode, chunk=4)(x, w, b)
        assert np.isfinite(loss)
        assert np.isfinite(dx).all()
        assert (dw[:, 5] == 0).all()
        assert db[5] == 0


def test_labels_that_are_no_class():
    x, w, b, labels = problem()
    for wrong in (-1, 13):
        each = linear_cross_entropy(x, w, labels.at[2].set(wrong), b, reduction="none")
        assert np.isnan(each).nonzero()[0].tolist() == [2]


def test_each_sample_has_its_own_cotangent():
    """What gradients made in the forward pass could not give."""
    x, w, b, labels = problem()
    g = jnp.linspace(-1.0, 2.0, 10)
    got = jax.vjp(lambda *a: linear_cross_entropy(*a[:2], labels, a[2], reduction="none"), x, w, b)
    want = jax.vjp(lambda *a: cross_entropy(lin(*a), labels, reduction="none"), x, w, b)
    assert_close(got[1](g), want[1](g))


@pytest.mark.parametrize("mode", ["forward", "recompute"])
def test_second_order(mode):
    x, w, b, labels = problem(n=3, d=2, c=4)
    options = {"mode": mode, "chunk": 2, "softcap": 3.0}

    def plain(x):
        return cross_entropy(3.0 * jnp.tanh(lin(x, w, b) / 3.0), labels)

    got = jax.hessian(lambda x: linear_cross_entropy(x, w, labels, b, **options))(x)
    assert_close(got, jax.hessian(plain)(x))


def temp(f, *shapes):
    return jax.jit(f).lower(*shapes).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("mode", ["auto", "recompute"])
def test_memory(mode):
    """A twelfth of what the loss takes that holds all logits: compiled, not run."""
    n, d, c = 4096, 256, 32768
    x, w = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((n, d), (d, c)))
    labels = jax.ShapeDtypeStruct((n,), jnp.int32)

    def hand(x, w, labels):
        return linear_cross_entropy(x, w, labels, mode=mode)

    def whole(x, w, labels):
        each = optax.losses.softmax_cross_entropy_with_integer_labels(x @ w, labels)
        return jnp.mean(each)

    ours, theirs = (temp(jax.value_and_grad(f, (0, 1)), x, w, labels) for f in (hand, whole))
    assert ours <= theirs / 12


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("mode", ["forward", "recompute"])
def test_as_accurate_as_float32_logits(dtype, mode):
    """Against float64 of the same numbers: no worse than logits in float32 and one rounding."""
    x, w, b, labels = problem(64, 32, 500, dtype)
    exact = gradients(labels)(*(a.astype("float64") for a in (x, w, b)))[1]
    got = gradients(labels, mode=mode, chunk=96)(x, w, b)[1]
    unit = float(jnp.finfo(dtype).eps)
    for g, e in zip(got, exact, strict=True):
        assert g.dtype == dtype
        scale = float(jnp.abs(e).max())
        assert float(jnp.abs(g.astype("float64") - e).max()) <= 2 * unit * scale
