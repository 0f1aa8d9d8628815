"""`both_modes` of functions that libraries ship with a reverse rule alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnnet import both_modes, plain
from tests.rules.textbook import same

X = jnp.linspace(0.2, 1.3, 6)


def _scale_gradient():
    optax = pytest.importorskip("optax")
    return lambda x: jnp.sum(jnp.sin(optax.scale_gradient(x * x, 0.5)))


def _equinox_filter():
    equinox = pytest.importorskip("equinox")

    @equinox.filter_custom_vjp
    def f(x, k):
        return jnp.sin(x) * k

    f.def_fwd(lambda perturbed, x, k: (jnp.sin(x) * k, x))
    f.def_bwd(lambda res, g, perturbed, x, k: jnp.cos(res) * k * g)
    return lambda x: f(x, 3.0).sum()


def _equinox_loop():
    equinox = pytest.importorskip("equinox")
    loop = functools.partial(equinox.internal.while_loop, kind="checkpointed", max_steps=4)
    return lambda x: loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.sin(c[1]) * 2), (0, x))[
        1
    ].sum()


def _jax_custom_gradient():
    @jax.custom_gradient
    def f(x):
        return jnp.sum(x**3), lambda g: 3 * x**2 * g

    return f


def _jax_closure_convert():
    @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
    def root(f, x):
        return jax.lax.fori_loop(0, 30, lambda _, y: y - (y * y - f(x)) / (2 * y), x)

    root.defvjp(
        lambda f, x: (root(f, x), (root(f, x), x)),
        lambda f, res, g: (jax.vjp(f, res[1])[1](g / (2 * res[0]))[0],),
    )
    return lambda x: root(jnp.exp, x).sum()


LIBRARIES = {
    "optax.scale_gradient": (_scale_gradient, False),
    "equinox.filter_custom_vjp": (_equinox_filter, True),
    "equinox's checkpointed loop": (_equinox_loop, False),
    "jax.custom_gradient": (_jax_custom_gradient, True),
    "a root by the implicit function theorem": (_jax_closure_convert, True),
}


@pytest.mark.parametrize("name", LIBRARIES)
def test_library(name):
    make, is_true_gradient = LIBRARIES[name]
    f = make()
    both, by_jax = both_modes(f), plain(f)
    same(both(X), f(X))
    same(jax.grad(both)(X), jax.grad(f)(X))
    same(jax.jvp(both, (X,), (X,)), jax.jvp(by_jax, (X,), (X,)), 1e-6)
    same(jax.jit(jax.jacfwd(both))(X), jax.jacfwd(by_jax)(X), 1e-6)
    _, push = jax.linearize(both, X)
    if name == "equinox's checkpointed loop":  # its backward rule is a while loop
        with pytest.raises(NotImplementedError, match=r"its linear part .*fnnet\.plain"):
            push(X)
    else:
        assert np.isfinite(push(X))
    same(jax.linear_transpose(push, X)(1.0)[0], jax.grad(f)(X))
    if is_true_gradient:
        same(jax.jit(jax.jacfwd(both))(X), jax.grad(f)(X), 1e-6)
        same(jax.hessian(both)(X), jax.hessian(by_jax)(X), 1e-6)
