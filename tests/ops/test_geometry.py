"""pairwise_distance, kernel_sum: digits, range and kinks, beside the rows of the table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnnet import kernel_sum, pairwise_distance, plain
from tests.compare import assert_close, loss_of
from tests.ops.test_memory import stored, temp

ORDERS = pytest.mark.parametrize("ord", [1, 2, "sq"])


@ORDERS
def test_the_same_point_twice(ord, key):
    """Distance and gradient 0, finite to second order, in both modes."""
    p = jax.random.normal(key, (4, 3)).at[2].set(0.5).at[3].set(0.5)

    def distance(p):
        return pairwise_distance(p, ord=ord)

    d, pull = jax.vjp(distance, p)
    assert d[2, 3] == d[3, 2] == 0
    assert (jnp.diag(d) == 0).all()
    (dp,) = pull(jnp.zeros_like(d).at[2, 3].set(7.0).at[1, 1].set(5.0))
    assert (dp == 0).all()
    _, pushed = jax.jvp(distance, (p,), (jnp.cos(p + jnp.arange(4.0)[:, None]),))
    assert pushed[2, 3] == 0
    hessian = jax.hessian(loss_of(distance))(p)
    assert jnp.isfinite(hessian).all()
    assert_close(hessian, jax.hessian(loss_of(plain(distance)))(p))


def test_without_q_it_is_p(key):
    p = jax.random.normal(key, (5, 3))
    assert_close(pairwise_distance(p), pairwise_distance(p, p))
    alone, both = (loss_of(pairwise_distance), loss_of(lambda p: pairwise_distance(p, p)))
    assert_close(jax.grad(alone)(p), jax.grad(both)(p))


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e37])
def test_no_square_leaves_the_range(scale, key):
    """Of float32, up to a tenth of its greatest number."""
    p, q = (jax.random.normal(k, (6, 5), "float32") for k in jax.random.split(key))
    g = jnp.cos(jnp.arange(36.0, dtype="float32")).reshape(6, 6)
    d, pull = jax.vjp(pairwise_distance, p, q)
    far, pull_far = jax.vjp(pairwise_distance, p * scale, q * scale)
    assert_close(far / scale, d, 1e-6)
    assert_close(pull_far(g), pull(g), 1e-5)


def test_points_far_from_0_and_near_each_other(key):
    """To the last digits of SciPy's distances in float64, of the same numbers."""
    from scipy.spatial.distance import cdist

    p, q = (1000 + jax.random.normal(k, (20, 8), "float32") / 100 for k in jax.random.split(key))
    got = np.asarray(pairwise_distance(p, q), "float64")
    np.testing.assert_allclose(got, cdist(np.asarray(p), np.asarray(q)), rtol=1e-6)
    small = pairwise_distance(p / 1000, ord=1)
    np.testing.assert_allclose(small, cdist(p / 1000, p / 1000, "cityblock"), rtol=1e-6)


def test_what_is_stored(key):
    """The distances, and only of order 2; autodiff stores as many arrays as features."""
    p, q = (jax.random.normal(k, (32, 16), "float32") for k in jax.random.split(key))
    size = 32 * 32 * 4
    for ord, most in ((2, size), ("sq", 0), (1, 0)):
        assert stored(lambda p, q, ord=ord: pairwise_distance(p, q, ord=ord), p, q) == most
    policy = jax.checkpoint_policies.save_only_these_names("fnnet.pairwise_distance.d")
    assert stored(jax.checkpoint(pairwise_distance, policy=policy), p, q) == size


KERNELS = pytest.mark.parametrize("kernel", ["gaussian", "laplacian", "rq"])


@KERNELS
def test_a_kernel_at_distance_0(kernel, key):
    """At its greatest, where its slope is 0: finite to second order, in both modes."""
    p = jax.random.normal(key, (4, 3)).at[2].set(0.5).at[3].set(0.5)

    def sums(p):
        return kernel_sum(p, kernel=kernel, block=3)

    one, dp = jax.value_and_grad(lambda p: kernel_sum(p, kernel=kernel).sum())(p[2:])
    assert one == 4
    assert (dp == 0).all()
    hessian = jax.hessian(loss_of(sums))(p)
    assert jnp.isfinite(hessian).all()
    assert_close(hessian, jax.hessian(loss_of(plain(sums)))(p))
    both = jax.grad(loss_of(lambda p: kernel_sum(p, p, kernel=kernel)))
    assert_close(jax.grad(loss_of(sums))(p), both(p))


@KERNELS
def test_blocks_of_any_size_give_the_same(kernel, key):
    kp, kq, kw = jax.random.split(key, 3)
    args = [jax.random.normal(k, s) for k, s in ((kp, (7, 3)), (kq, (5, 3)), (kw, (5,)))]

    def both(block, scale):
        def f(*args):
            *points, scale = args
            return kernel_sum(*points, kernel=kernel, scale=scale, block=block)

        return jax.value_and_grad(loss_of(f), (0, 1, 2, 3))(*args, jnp.asarray(scale))

    for block in (1, 2, 5, 6, 7, 100):
        assert_close(both(block, 1.5), both(None, 1.5))


def test_no_matrix_of_pairs_is_held(key):
    """Twice the points, less than twice the scratch memory: it grows with n, not with n m."""

    def needed(n):
        points = jax.ShapeDtypeStruct((n, 4), "float32")
        weights = jax.ShapeDtypeStruct((n,), "float32")
        loss = loss_of(lambda *args: kernel_sum(*args, block=64))
        return temp(jax.value_and_grad(loss, (0, 1, 2)), points, points, weights)

    assert needed(8192) - needed(4096) <= 4096 * 4 * 4 * 8
    assert needed(8192) < 8192 * 8192 * 4 / 64
    args = [jax.random.normal(key, s, "float32") for s in ((32, 3), (16, 3), (16,))]
    assert stored(kernel_sum, *args) == 0
