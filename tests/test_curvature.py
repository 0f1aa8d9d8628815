"""Curvature without a matrix, against the matrix itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import fnnet
from fnnet.curvature import diagonal, ggn_vp, hvp, trace
from tests.compare import assert_close

MODES = ("forward_over_reverse", "reverse_over_forward", "reverse_over_reverse")
LABELS = jnp.array([0, 2, 1, 2, 0])


def _problem(key):
    """A net of this package's ops: its parameters, outputs and loss."""
    keys = jax.random.split(key, 4)
    params = {
        "hidden": (jax.random.normal(keys[0], (4, 3)), jax.random.normal(keys[1], (3,))),
        "out": jax.random.normal(keys[2], (3, 3)),
    }
    x = jax.random.normal(keys[3], (5, 4))

    def outputs(params):
        hidden = fnnet.silu(fnnet.lin(x, *params["hidden"]))
        return fnnet.lin(fnnet.layer_norm(hidden), params["out"])

    return params, outputs, lambda z: fnnet.cross_entropy(z, LABELS)


def _dense(f, params):
    flat, unravel = ravel_pytree(params)
    return jax.hessian(lambda p: fnnet.plain(f)(unravel(p)))(flat)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wrap", [lambda f: f, jax.checkpoint], ids=["", "checkpoint"])
def test_hessian_products(mode, wrap, key):
    params, outputs, loss = _problem(key)
    v = jax.tree.map(jnp.cos, params)
    total = lambda p: loss(outputs(p))  # noqa: E731
    got = jax.jit(lambda p, v: hvp(wrap(total), p, v, mode=mode))(params, v)
    want = _dense(total, params) @ ravel_pytree(v)[0]
    assert_close(ravel_pytree(got)[0], want)


def test_gauss_newton_products(key):
    params, outputs, loss = _problem(key)
    flat, unravel = ravel_pytree(params)
    v = jax.tree.map(jnp.cos, params)
    z = outputs(params)
    jacobian = jax.jacfwd(lambda p: fnnet.plain(outputs)(unravel(p)).ravel())(flat)
    of_outputs = _dense(lambda z: loss(z.reshape(5, 3)), z.ravel())
    got = jax.jit(lambda p, v: ggn_vp(loss, outputs, p, v))(params, v)
    want = jacobian.T @ (of_outputs @ (jacobian @ ravel_pytree(v)[0]))
    assert_close(ravel_pytree(got)[0], want)
    assert jnp.vdot(ravel_pytree(v)[0], ravel_pytree(got)[0]) > 0


def test_of_somebody_elses_rule(key):
    """A function with a reverse rule alone, by `both_modes`."""
    cube = jax.custom_vjp(lambda x: x**3)
    cube.defvjp(lambda x: (x**3, x), lambda x, g: (3 * x**2 * g,))
    outputs = fnnet.both_modes(lambda w: {"y": cube(w), "n": 2 * w})
    w, v = jnp.arange(1.0, 4.0), jnp.ones(3)
    loss = lambda z: jnp.sum(z["y"] ** 2) + jnp.sum(z["n"] ** 2)  # noqa: E731
    assert_close(ggn_vp(loss, outputs, w, v), 2 * (3 * w**2) ** 2 + 8)


def test_estimates(key):
    params, outputs, loss = _problem(key)
    dense = _dense(lambda p: loss(outputs(p)), params)
    product = lambda v: hvp(lambda p: loss(outputs(p)), params, v)  # noqa: E731
    draws = 4000
    got = jax.jit(lambda key: diagonal(key, product, params, samples=draws))(key)
    assert jax.tree.structure(got) == jax.tree.structure(params)
    off = dense - jnp.diag(jnp.diag(dense))
    # the variance of an element is the sum of the squares beside the diagonal; six deviations
    deviation = jnp.sqrt((off**2).sum(1) / draws)
    error = jnp.abs(ravel_pytree(got)[0] - jnp.diag(dense))
    assert (error <= 6 * deviation).all()
    assert (error > 0).any()
    one = trace(key, product, params, samples=draws)
    assert jnp.abs(one - jnp.trace(dense)) <= 6 * jnp.sqrt(2 * (off**2).sum() / draws)
    assert trace(key, lambda v: 2 * v, jnp.ones(7)) == 14
    again = diagonal(key, lambda v: dense @ v, jnp.ones(len(dense)), samples=3)
    same = diagonal(key, lambda v: dense @ v, jnp.ones(len(dense)), samples=3)
    assert np.array_equal(again, same)


def test_errors(key):
    x = jnp.ones(3)
    with pytest.raises(ValueError, match=r"hvp: mode must be .*got 'forward'"):
        hvp(jnp.sum, x, x, mode="forward")
    with pytest.raises(ValueError, match=r"hvp: v must be like params.*\(2,\)"):
        hvp(jnp.sum, x, jnp.ones(2))
    with pytest.raises(ValueError, match="ggn_vp: v must be like params"):
        ggn_vp(jnp.sum, lambda x: x, x, {"a": x})
    with pytest.raises(ValueError, match="trace: samples must be at least 1; got 0"):
        trace(key, lambda v: v, x, samples=0)
