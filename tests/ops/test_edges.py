"""Where ops break: nothing to compute on, one of a thing, huge, tiny, NaN and infinite numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnnet
from tests.cases import Call, each_case
from tests.compare import assert_close, cotangent_like, loss_of, passes


@each_case(where=lambda case: any(axis is not None for axis in case.batch))
def test_empty_batch(case: Call, key):
    args = [
        a if axis is None else jax.lax.slice_in_dim(a, 0, 0, axis=axis)
        for a, axis in zip(case.args(key), case.batch, strict=True)
    ]
    out = case.op(*args)
    assert out.shape == jax.eval_shape(case.plain, *args).shape
    assert not jnp.isnan(out).any()
    gradient = jax.jit(jax.grad(loss_of(case.op), tuple(range(len(args)))))
    for ct, arg in zip(gradient(*args), args, strict=True):
        assert ct.shape == arg.shape
        assert (ct == 0).all()


def test_empty_inner_axis():
    """A sum of nothing is 0."""
    x, w, b = jnp.ones((3, 0)), jnp.ones((0, 2)), jnp.array([1.0, 2.0])
    assert fnnet.lin(x, w, b).tolist() == [[1, 2]] * 3
    dx, dw, db = jax.grad(lambda *a: fnnet.lin(*a).sum(), (0, 1, 2))(x, w, b)
    assert (dx.shape, dw.shape, db.tolist()) == ((3, 0), (0, 2), [3, 3])
    assert fnnet.matmul(x, w).tolist() == [[0, 0]] * 3


@each_case(where=lambda case: any(axis is not None for axis in case.batch))
def test_batch_of_one(case: Call, key):
    args = [
        a if axis is None else jax.lax.slice_in_dim(a, 0, 1, axis=axis)
        for a, axis in zip(case.args(key), case.batch, strict=True)
    ]
    g = cotangent_like(jax.random.key(1), jax.eval_shape(case.plain, *args))
    assert_close(passes(case.op, args, g), passes(case.plain, args, g))


@pytest.mark.parametrize("scale", [1e-150, 1e-8, 1e8, 1e100])
@each_case()
def test_huge_and_tiny(case: Call, scale, key):
    args = [np.asarray(a) * scale for a in case.args(key)]
    g = cotangent_like(jax.random.key(1), jax.eval_shape(case.plain, *args))
    assert_close(passes(case.op, args, g), passes(case.plain, args, g))


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@each_case()
def test_nan_and_inf(case: Call, poison, key):
    if np.isinf(poison):
        case.excuse("test_nan_and_inf: inf")
    for number in range(len(case.shapes)) if case.poisoned is None else case.poisoned:
        args = [np.array(a) for a in case.args(key)]
        args[number][(0,) * args[number].ndim] = poison
        g = np.array(cotangent_like(jax.random.key(1), jax.eval_shape(case.plain, *args)))
        assert_close(passes(case.op, args, g), passes(case.plain, args, g))
        # and a NaN that comes from above
        g[(0,) * g.ndim] = np.nan
        assert_close(passes(case.op, args, g), passes(case.plain, args, g))


def test_relu_at_zero_and_at_nan():
    x = jnp.array([-1.0, -0.0, 0.0, 1e-300, jnp.nan, jnp.inf, -jnp.inf])
    np.testing.assert_array_equal(fnnet.relu(x), [0, 0, 0, 1e-300, np.nan, np.inf, 0])
    np.testing.assert_array_equal(jax.vmap(jax.grad(fnnet.relu))(x), [0, 0, 0, 1, 0, 1, 0])


def test_half_precision_keeps_small_gradients():
    """2/n g is below the least float16 for g = 1e-4 and n = 4096; times d = 100 it is not."""
    pred = jnp.full((4096,), 100.0, "float16")
    ct = jax.vjp(fnnet.mse, pred, 0 * pred)[1](jnp.float16(1e-4))[0]
    assert float(ct[0]) == pytest.approx(2 / 4096 * 100 * 1e-4, rel=0.02)


def test_python_scalars_and_numpy_arrays():
    assert float(fnnet.relu(-2.0)) == 0
    assert float(jax.grad(fnnet.relu)(3.0)) == 1
    assert float(fnnet.mse(3.0, 1.0)) == 4
    assert fnnet.lin(np.ones((2, 3)), np.ones((3, 4)), np.ones(4)).tolist() == [[4.0] * 4] * 2
    x = jnp.ones((2, 3))
    assert fnnet.lin(x=x, w=x.T).shape == (2, 2)


def test_a_class_of_probability_zero_is_as_if_it_were_not_there(key):
    """Logits of -inf mask classes: loss and gradient are those of the classes that are left."""
    z, labels = jax.random.normal(key, (5, 4)), jnp.array([0, 1, 2, 3, 0])
    masked = jnp.concatenate([z, jnp.full((5, 2), -jnp.inf)], axis=1)
    loss, dz = jax.value_and_grad(fnnet.cross_entropy)(z, labels)
    masked_loss, masked_dz = jax.value_and_grad(fnnet.cross_entropy)(masked, labels)
    assert_close(masked_loss, loss)
    assert_close(masked_dz[:, :4], dz)
    assert (masked_dz[:, 4:] == 0).all()
    for f in (fnnet.softmax, lambda z: jnp.exp(fnnet.log_softmax(z))):
        assert_close(f(masked)[:, :4], f(z))
        assert (f(masked)[:, 4:] == 0).all()


def test_ignored_samples_are_ignored_whatever_their_logits(key):
    z = jax.random.normal(key, (4, 3))
    wild = jnp.concatenate([z, jnp.array([[jnp.nan, jnp.inf, 0.0]])])
    labels = jnp.array([0, 1, 2, 0])
    loss, dz = jax.value_and_grad(fnnet.cross_entropy)(z, labels)
    ignoring = functools.partial(fnnet.cross_entropy, ignore_index=-1)
    wild_loss, wild_dz = jax.value_and_grad(ignoring)(wild, jnp.append(labels, -1))
    assert_close((wild_loss, wild_dz[:4]), (loss, dz))
    assert (wild_dz[4] == 0).all()


def test_nothing_counts():
    """The mean of no loss is 0, and so is its gradient."""
    ignoring = functools.partial(fnnet.cross_entropy, ignore_index=0)
    loss, dz = jax.value_and_grad(ignoring)(jnp.ones((3, 2)), jnp.zeros(3, int))
    assert float(loss) == 0
    assert (dz == 0).all()
    loss, dz = jax.value_and_grad(fnnet.cross_entropy)(jnp.ones((0, 2)), jnp.zeros(0, int))
    assert float(loss) == 0
    assert dz.shape == (0, 2)


@pytest.mark.parametrize("label", [-1, 3, 100])
def test_a_label_that_is_no_class_gives_nan(label):
    """Never a wrong number: under jit no error can be raised."""
    assert jnp.isnan(fnnet.cross_entropy(jnp.ones((2, 3)), jnp.array([0, label])))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint32"])
@pytest.mark.parametrize("op", [fnnet.cross_entropy, fnnet.linear_cross_entropy])
def test_labels_of_any_integers(op, dtype, key):
    """More classes than the labels' dtype counts, and a void label as images have it."""
    args = (jax.random.normal(key, (4, 3)), jax.random.normal(key, (3, 1000)))
    args = (args[0] @ args[1],) if op is fnnet.cross_entropy else args
    labels = np.array([0, 5, 127, 3])
    for options in ({}, {"ignore_index": 127}):
        both = [
            jax.value_and_grad(op)(*args, jnp.asarray(labels, d), **options)
            for d in (dtype, "int64")
        ]
        assert_close(*both)
        assert jnp.isfinite(both[0][0])
