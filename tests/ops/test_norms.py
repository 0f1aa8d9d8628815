"""layer_norm, rms_norm, batch_norm, group_norm: digits and range, beside the rows of the table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnnet
from fnnet import batch_norm, group_norm, layer_norm, plain, rms_norm
from fnnet.proof import reference as twin
from tests.compare import assert_close
from tests.ops.test_memory import stored

BOTH = pytest.mark.parametrize("op", [layer_norm, rms_norm])


def gradient(op, g):
    return jax.jit(jax.grad(lambda x, **o: jnp.sum(op(x, **o) * g)))


def exact(op, x, g, eps):
    """The value and dx in float64, of the same numbers."""
    x, g = (np.asarray(a, np.float64) for a in (x, g))
    name, parameters = op.__name__, [None] * (2 if op is layer_norm else 1)
    value = getattr(twin, name)(x, eps=eps)
    return value, getattr(twin, f"{name}_vjp")(x, *parameters, g, eps=eps)[0]


def usual(op, x, eps):
    """What everyone writes: flax, optax and PyTorch alike, up to the order of operations."""
    w = x.astype("float32")
    if op is layer_norm:
        w = w - w.mean(-1, keepdims=True)
    return (w * jax.lax.rsqrt((w * w).mean(-1, keepdims=True) + eps)).astype(x.dtype)


def error(got, want):
    """Of the largest number of each row."""
    got, want = (np.asarray(a, np.float64) for a in (got, want))
    assert np.isfinite(got).all()
    return (np.abs(got - want).max(-1) / np.abs(want).max(-1)).max()


@pytest.mark.parametrize(
    ("d", "value"), [(7, 1000.1), (7, 1e4 + 0.3), (3, 1e6 + 0.3), (1000, 1000.1), (32768, 0.1)]
)
def test_constant_rows_are_exactly_0(d, value):
    dtype = "float32"
    x, g = jnp.full((2, d), value, dtype), jax.random.normal(jax.random.key(1), (2, d), dtype)
    assert (layer_norm(x) == 0).all()
    assert (layer_norm(x, eps=1e-12) == 0).all()
    h = np.asarray(g, np.float64)
    want = (h - h.mean(-1, keepdims=True)) / np.sqrt(1e-5)
    for f in (layer_norm, plain(layer_norm)):
        assert error(gradient(f, g)(x), want) < 4 * float(jnp.finfo(dtype).eps)


@pytest.mark.parametrize("value", [1e20, -3e38, 0.0])
def test_constant_rows_of_any_size(value):
    x, g = jnp.full((2, 5), value, "float32"), jnp.arange(10.0).reshape(2, 5).astype("float32")
    assert (layer_norm(x) == 0).all()
    want = np.tile(np.arange(-2, 3) / np.sqrt(1e-5), (2, 1))
    assert error(gradient(layer_norm, g)(x), want) < 1e-6


@BOTH
@pytest.mark.parametrize(
    ("dtype", "offset"),
    [("float32", 1.0), ("float32", 1e4), ("float32", 1e6), ("bfloat16", 10.0), ("float16", 1e3)],
)
def test_as_exact_as_the_usual_formula_at_any_offset(op, dtype, offset):
    """And not only up to a factor: the least difference that x has there counts."""
    kx, kg = jax.random.split(jax.random.key(int(offset)))
    x = (jax.random.normal(kx, (8, 512), "float32") + jnp.float32(offset)).astype(dtype)
    g = jax.random.normal(kg, x.shape, dtype)
    value, dx = exact(op, x, g, 1e-5)
    rounding = float(jnp.finfo(dtype).eps)
    got = error(op(x, eps=1e-5), value), error(gradient(op, g)(x, eps=1e-5), dx)
    f = lambda x: usual(op, x, 1e-5)  # noqa: E731
    peer = error(f(x), value), error(gradient(f, g)(x), dx)
    for ours, theirs in zip(got, peer, strict=True):
        assert ours <= max(theirs, 2 * rounding)
        if op is layer_norm and dtype == "float32":
            assert ours <= 4e-7  # theirs is 2e-2 at 1e6


def test_small_variance_of_many_features():
    x = jax.random.normal(jax.random.key(0), (2, 32768), "float32") * 0.01 + 100
    g = jax.random.normal(jax.random.key(1), x.shape, "float32")
    value, dx = exact(layer_norm, x, g, 1e-5)
    assert error(layer_norm(x), value) < 1e-6
    assert error(gradient(layer_norm, g)(x), dx) < 1e-6


SIZES = [
    *(("float32", size) for size in (1e20, 3.3e38, 1e-20, 1e-37)),
    *(("bfloat16", size) for size in (3.3e38, 1e-20)),
    *(("float64", size) for size in (1e200, 1e-300)),
    ("float16", 6e4),
]


@BOTH
@pytest.mark.parametrize(("dtype", "size"), SIZES)
def test_any_size(op, dtype, size):
    """With ε = 0, u(k x) = u(x) and ∂u/∂(k x) = ∂u/∂x / k: also where k² is out of range."""
    unit = jax.random.uniform(jax.random.key(0), (4, 6), "float64", -1, 1)
    x = (unit * size).astype(dtype)
    g = jax.random.normal(jax.random.key(1), x.shape, dtype)
    base = np.asarray(x, np.float64) / size
    value, dx = exact(op, base, g, 0.0)
    u = 8 * float(jnp.finfo(dtype).eps)
    assert error(op(x, eps=0.0), value) < u
    least = float(jnp.finfo(dtype).tiny)  # XLA takes what is less for 0
    for f in (op, plain(op)):
        got = np.asarray(gradient(f, g)(x, eps=0.0), np.float64)
        # plain's chain has one more factor of the size
        if f is op or 1e-30 < size < 1e37:
            assert np.abs(got - dx / size).max() <= u * np.abs(dx).max() / size + least


@BOTH
@pytest.mark.parametrize("eps", [1e-5, 1e-30, 1e-36])
def test_eps_is_what_it_says(op, eps):
    """Not more, however rows are scaled; and rows of zeros give zeros."""
    unit = np.random.default_rng(0).uniform(-1, 1, (9, 5))
    x = np.float32(unit * np.sqrt(eps) * 10.0 ** np.arange(-4, 5)[:, None])
    x = np.concatenate([x, np.zeros((1, 5), np.float32)])
    g = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    value, dx = exact(op, x, g, eps)
    got = np.asarray(op(x, eps=eps), np.float64)
    assert (np.abs(got - value) <= 4e-7 * np.abs(value).max(-1, keepdims=True)).all()
    assert error(gradient(op, g)(x, eps=eps), dx) < 1e-5
    assert (got[-1] == 0).all()


@BOTH
def test_a_row_without_deviation_and_without_eps_is_0_by_0(op):
    x = jnp.zeros((1, 3))
    assert jnp.isnan(op(x, eps=0.0)).all()
    assert jnp.isnan(jax.grad(lambda x: op(x, eps=0.0).sum())(x)).all()


@BOTH
@pytest.mark.parametrize("eps", [np.float32(1e-5), np.float64(1e-5)])
def test_eps_of_any_kind(op, eps):
    x = jax.random.normal(jax.random.key(0), (2, 4), "float32")
    f = jax.value_and_grad(lambda x, eps: jnp.sin(op(x, eps=eps)).sum())
    want = f(x, 1e-5)
    for got in (f(x, eps), f(x, jnp.asarray(eps)), jax.jit(f)(x, eps)):
        np.testing.assert_allclose(got[0], want[0], rtol=1e-6)
        np.testing.assert_allclose(got[1], want[1], rtol=1e-4, atol=1e-7)


@BOTH
@pytest.mark.parametrize("shape", [(3, 0), (2, 0, 4)])
def test_empty(op, shape):
    parameters = [jnp.ones(shape[-1:])] * (2 if op is layer_norm else 1)
    y, vjp = jax.vjp(op, jnp.ones(shape), *parameters)
    assert y.shape == shape
    for ct in vjp(y)[1:]:
        assert (ct == 0).all()


def test_residuals_by_name(key):
    """A policy that saves them by name saves those alone: four numbers a row, and two."""
    x = jax.random.normal(key, (8, 64), "float32")
    for op, names in ((layer_norm, "tqmn"), (rms_norm, "tq")):
        policy = jax.checkpoint_policies.save_only_these_names(
            *(f"fnnet.{op.__name__}.{n}" for n in names)
        )
        f = jax.checkpoint(lambda x, op=op: jnp.sin(op(x)), policy=policy)
        assert stored(f, x) == len(names) * 8 * 4
        assert fnnet.memory.residuals(op, x).stored == len(names) * 8 * 4


@pytest.mark.parametrize(
    "op", [batch_norm, lambda x: group_norm(x.reshape(4, 64, 4), 2).reshape(x.shape)]
)
@pytest.mark.parametrize("offset", [300, 1e4, -1e6])
def test_a_batch_far_from_0_keeps_its_digits(op, offset, key):
    """The mean square less the squared mean loses all but two of them, the mean itself four."""
    x = offset + jax.random.normal(key, (256, 4), "float32")
    g = jnp.cos(jnp.arange(1024.0)).reshape(256, 4)

    def passes(x):
        y, pull = jax.vjp(op, x)
        return y.astype("float64"), pull(g.astype(x.dtype))[0].astype("float64")

    assert_close(passes(x), passes(x.astype("float64")), 3e-6)


@pytest.mark.parametrize("value", [0.1, 1234.567, -100000.3, 3e18])
def test_equal_numbers_have_no_deviation(value):
    x = jnp.full((37, 3), value, "float32")
    g = jnp.sin(jnp.arange(111.0)).reshape(37, 3).astype("float32")
    for op in (batch_norm, lambda x: group_norm(x, 3)):
        y, pull = jax.vjp(op, x)
        assert (y == 0).all()
        assert jnp.isfinite(pull(g)[0]).all()


def test_batch_and_group_norm_store_two_numbers_a_set(key):
    x = jax.random.normal(key, (8, 5, 6), "float32")
    scale = shift = jnp.ones(6, "float32")
    assert stored(batch_norm, x, scale, shift) == 2 * 6 * 4
    by_group = lambda x, scale, shift: group_norm(x, 3, scale, shift)  # noqa: E731
    assert stored(by_group, x, scale, shift) == 2 * 8 * 3 * 4
    for op, name, sets in ((batch_norm, "batch_norm", 6), (by_group, "group_norm", 24)):
        policy = jax.checkpoint_policies.save_only_these_names(f"fnnet.{name}.m", f"fnnet.{name}.r")
        assert stored(jax.checkpoint(op, policy=policy), x, scale, shift) == 2 * sets * 4


def test_group_norm_between_layer_norm_and_instance_norm(key):
    x = jax.random.normal(key, (3, 4, 6))
    assert_close(group_norm(x, 1), layer_norm(x.reshape(3, 24)).reshape(x.shape))
    assert_close(group_norm(x, 6), jnp.stack([batch_norm(sample) for sample in x]))
    assert_close(batch_norm(x, axis=1), jnp.moveaxis(batch_norm(jnp.moveaxis(x, 1, -1)), -1, 1))
