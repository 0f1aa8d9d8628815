"""`plain` opens rules of every kind: values as before, derivatives by JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.custom_batching import custom_vmap, sequential_vmap
from jax.custom_derivatives import linear_call
from jax.interpreters import ad

from fnnet.rules import plain
from fnnet.rules.origin import is_foreign, is_foreign_primitive
from tests.planted.kinds_hijax import sin, there
from tests.planted.made import primitive
from tests.planted.row import normal

X = normal(5)


def by_vmap(f):
    f = custom_vmap(f)
    f.def_vmap(lambda n, batched, x: (7 * x, True))
    return f


def opened_primitive(name):
    p = primitive(name, jnp.sin)
    ad.defjvp(p, lambda t, x: 7 * t)
    return p.bind


WRONG = {
    "hijax": sin(vjp_bwd_retval=lambda self, res, g: (7 * there(g),)),
    "hijax under vmap": jax.vmap(sin(vjp_bwd_retval=lambda self, res, g: (7 * there(g),))),
    "custom_vmap": by_vmap(lambda x: jnp.sin(x)),
    "sequential_vmap": sequential_vmap(lambda x: jnp.sin(x)),
    "linear_call": lambda x: jnp.sin(linear_call(lambda r, x: x, lambda r, g: 7 * g, (), x)),
    "primitive": opened_primitive("plain_opens"),
}


@pytest.mark.parametrize("name", WRONG)
def test_is_opened(name):
    f = WRONG[name]
    for g in (f, jax.jit(f), lambda x: jax.lax.map(lambda _: f(x), jnp.arange(1))[0]):
        np.testing.assert_allclose(plain(g)(X), jnp.sin(X), rtol=1e-6)
        grad = jax.grad(lambda x, g=g: plain(g)(x).sum())(X)
        np.testing.assert_allclose(grad, jnp.cos(X), rtol=1e-6)
        _, tangent = jax.jvp(plain(g), (X,), (X,))
        np.testing.assert_allclose(tangent, X * jnp.cos(X), rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(plain(f))(X[None]), jnp.sin(X)[None], rtol=1e-6)


def test_a_primitive_that_nothing_can_look_into_stays():
    p = primitive("plain_keeps", jnp.sin, opaque=True)
    ad.defjvp(p, lambda t, x: 7 * t)
    np.testing.assert_allclose(plain(p.bind)(X), jnp.sin(X), rtol=1e-6)
    np.testing.assert_allclose(jax.grad(lambda x: plain(p.bind)(x).sum())(X), 7 * jnp.ones(5))


def test_who_wrote_it():
    p = primitive("plain_foreign", jnp.sin)
    assert is_foreign_primitive(p)
    for eqn in jax.make_jaxpr(lambda x: jnp.sort(jax.nn.softmax(x)) @ x)(X).eqns:
        assert not is_foreign_primitive(eqn.primitive), eqn
    assert is_foreign(lambda x: x)
    assert is_foreign(jax.jit(lambda x: x))
    assert not is_foreign(jnp.sin, jax.nn.relu)
    assert not is_foreign()
