"""Row A11: norms, and a gradient that is finite everywhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnnet
from fnnet import norm
from fnnet.proof import reference
from tests.compare import assert_close

ORDERS = [1, 1.5, 2, 3, jnp.inf, "fro"]
EACH = pytest.mark.parametrize("ord", ORDERS)


def test_A11_norms():
    u = jnp.array([3.0, -4.0])
    assert float(norm(u)) == 5
    assert float(norm(u, 1)) == 7
    assert float(norm(u, 3)) == pytest.approx(91 ** (1 / 3))
    assert float(norm(u, jnp.inf)) == 4
    assert float(norm(jnp.arange(20.0).reshape(5, 4), "fro")) == pytest.approx(49.6991, abs=5e-5)

    # of any shape: the root of the sum of all squares
    y = jnp.arange(24.0).reshape(2, 3, 4)
    assert float(norm(y)) == pytest.approx(65.7571, abs=5e-5)
    total = 0
    for matrix in y.tolist():
        for row in matrix:
            for element in row:
                total += element**2
    assert float(norm(y)) == pytest.approx(total**0.5, rel=1e-15)


@EACH
@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2), (2, 1)])
@pytest.mark.parametrize("keepdims", [False, True])
def test_A11_axes(ord, axis, keepdims, key):
    x = jax.random.normal(key, (2, 3, 4))
    got = norm(x, ord, axis, keepdims)
    want = reference.norm(np.asarray(x), ord, axis, keepdims=keepdims)
    np.testing.assert_allclose(got, want, rtol=1e-14)
    assert got.shape == want.shape
    if axis in (0, -1) and ord != "fro":
        np.testing.assert_allclose(got, np.linalg.norm(x, ord, axis, keepdims), rtol=1e-14)


def test_A11_of_entries_always():
    """Over two axes NumPy's `ord` means something else: 2 is the greatest singular value there."""
    m = np.diag([3.0, 4.0])
    assert np.linalg.norm(m, 2) == pytest.approx(4)
    assert float(norm(m, 2)) == np.linalg.norm(m, "fro") == 5


@EACH
def test_A11_it_is_a_norm(ord, key):
    x, y = jax.random.normal(key, (2, 50))
    assert float(norm(-3 * x, ord)) == pytest.approx(3 * float(norm(x, ord)))
    assert norm(x + y, ord) <= norm(x, ord) + norm(y, ord)
    assert norm(x, ord) > 0
    assert norm(0 * x, ord) == 0
    if ord != "fro":
        with pytest.raises(ValueError, match="the triangle inequality fails"):
            norm(x, 0.5)


def test_A11_the_gradient_is_the_unit_vector():
    u = jnp.array([3.0, -4.0])
    assert_close(jax.grad(norm)(u), jnp.array([0.6, -0.8]))
    assert jax.grad(norm)(u, 1.0).tolist() == [1, -1]
    assert jax.grad(norm)(u, jnp.inf).tolist() == [0, -1]
    # the second derivative of a length turns it: (1 - u uᵀ) / n
    unit = u / 5
    assert_close(jax.hessian(norm)(u), (jnp.eye(2) - jnp.outer(unit, unit)) / 5)


@EACH
def test_A11_the_gradient_at_zero_is_finite(ord):
    def f(x):
        return norm(x, ord)

    def rows(x):
        return norm(x, ord, -1).sum()

    @jax.jit
    def derivatives(zero, x):
        """Of first and second order, in each mode, by our rule and by autodiff of the forward."""
        g = jax.grad(f)
        whole = [g(zero), jax.hessian(f)(zero), jax.jacrev(g)(zero), jax.grad(fnnet.plain(f))(zero)]
        mapped = jax.grad(lambda x: jax.vmap(f)(x).sum())
        return whole, [jax.grad(rows)(x), mapped(x), jax.hessian(rows)(x)]

    # one sample of a batch is 0, and one entry of the other
    whole, each = derivatives(jnp.zeros(3), jnp.array([[0.0, 0, 0], [0, 1, -2]]))
    assert all((d == 0).all() for d in whole)
    assert all(jnp.isfinite(d).all() for d in each)
    for dx in each[:2]:
        assert (dx[0] == 0).all()
        assert dx[1, 0] == 0
        assert float(dx[1, 2]) < 0


def test_A11_entries_that_are_alike_the_greatest_share():
    assert jax.grad(norm)(jnp.array([2.0, -2, 1]), jnp.inf).tolist() == [0.5, -0.5, 0]


def test_A11_others_give_nan_at_zero():
    """0/0, from the derivative of the root at 0."""
    zero = jnp.zeros(3)
    assert jnp.isnan(jax.grad(jnp.linalg.norm)(zero)).all()
    assert jnp.isnan(jax.grad(lambda x: jnp.sqrt(jnp.sum(x**2)))(zero)).all()
    # where only chooses among results; the NaN of the other branch is multiplied by 0, and stays
    guarded = lambda x: jnp.where((x == 0).all(), 0.0, jnp.sqrt(jnp.sum(x**2)))  # noqa: E731
    assert float(guarded(zero)) == 0
    assert jnp.isnan(jax.grad(guarded)(zero)).all()


@EACH
@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e200, 1e307])
def test_A11_any_size(ord, scale, key):
    """What is squared on the way must not leave the range of its dtype."""

    @jax.jit
    def derivatives(x):
        return norm(x, ord), jax.grad(norm)(x, ord), jax.hessian(norm)(x, ord)

    x = jnp.array([3.0, -4.0, 0.0])
    (value, dx, ddx), (want, want_dx, want_ddx) = derivatives(x * scale), derivatives(x)
    assert float(value) == pytest.approx(float(want) * scale, rel=1e-14)
    assert_close(dx, want_dx, rtol=1e-14)
    if 1e-300 < scale < 1e300:
        assert_close(ddx, want_ddx / scale, rtol=1e-13)
    if scale == 1e200:
        assert jnp.isinf(jnp.linalg.norm(x * scale))


def test_A11_low_precision():
    for dtype, scale in (
        ("float16", 1e4),
        ("float16", 1e-6),
        ("bfloat16", 1e30),
        ("float32", 1e30),
    ):
        x = (jnp.array([3.0, -4.0]) * scale).astype(dtype)
        value, dx = jax.value_and_grad(norm)(x)
        assert value.dtype == dx.dtype == dtype
        exactly = norm(x.astype("float64"))
        assert float(value) == pytest.approx(float(exactly), rel=0.02)
        np.testing.assert_allclose(dx.astype("float64"), [0.6, -0.8], rtol=0.06)


def test_A11_a_mixed_batch_of_sizes():
    """One row out of range changes no other row's digits."""
    x = jnp.array([[3.0, 4.0], [3e200, 4e200], [0.0, 0.0], [3e-200, 4e-200]])
    assert_close(norm(x, axis=1) / jnp.array([1, 1e200, 1, 1e-200]), jnp.array([5.0, 5, 0, 5]))
    dx = jax.grad(lambda x: norm(x, axis=1).sum())(x)
    assert_close(dx, jnp.array([[0.6, 0.8], [0.6, 0.8], [0, 0], [0.6, 0.8]]))


def test_A11_gradient_clipping_is_a_norm(key):
    """optax's clipping of a whole tree, by its global norm."""
    import optax

    w, b = jax.random.normal(key, (5, 4)), jnp.arange(4.0)
    length = norm(jnp.stack([norm(w), norm(b)]))
    shrink = jnp.minimum(1, 2.0 / length)
    got, _ = optax.clip_by_global_norm(2.0).update([w, b], optax.EmptyState())
    assert_close([w * shrink, b * shrink], got)
    assert_close(norm(jnp.stack([norm(leaf) for leaf in got])), jnp.array(2.0))


WRONG = {
    "ord below 1": ({"ord": 0.5}, ValueError, r"norm: ord must be a number of at least 1.*got 0.5"),
    "ord no number": ({"ord": "nuc"}, ValueError, r"norm: ord must be .*got 'nuc'"),
    "ord a truth value": ({"ord": True}, ValueError, r"norm: ord must be .*got True"),
    "ord NaN": ({"ord": float("nan")}, ValueError, r"norm: ord must be .*got nan"),
    "ord an array": ({"ord": jnp.ones(2)}, TypeError, r"norm: ord must be .*got float64\[2\]"),
    "no such axis": ({"axis": 2}, ValueError, r"norm: axis must be from -2 to 1 .*got 2"),
    "an axis twice": ({"axis": (0, -2)}, ValueError, r"norm: axis must name each axis once"),
    "axis no whole number": ({"axis": 0.5}, TypeError, r"norm: axis must be one whole number"),
}


@pytest.mark.parametrize("name", WRONG)
def test_A11_wrong_arguments(name):
    options, error, message = WRONG[name]
    with pytest.raises(error, match=message):
        norm(jnp.ones((2, 3)), **options)
    with pytest.raises(TypeError, match=r"norm: x must be an array of real"):
        norm(jnp.arange(3))
    assert float(norm(jnp.ones((2, 2)), axis=[0, 1])) == 2  # a list is taken for a tuple
