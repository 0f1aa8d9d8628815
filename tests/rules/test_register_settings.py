"""What holds around a registered function holds in its rule, as with autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fnnet.rules import register
from tests.rules.textbook import ASKS_FOR_ALL, agree, arguments, auto, hand, net, products

ALL = (0, 1, 2)


def _inside(f):
    def with_precision(*args):
        with jax.default_matmul_precision("highest"):
            return f(*args)

    return with_precision


def _scan(f):
    return lambda *a: lax.scan(lambda c, _: (c + f(*a), None), f(*a), length=2)[0]


AROUND = {
    "forward": lambda f: _inside(f),
    "forward in jit": lambda f: jax.jit(_inside(f)),
    "forward in checkpoint": lambda f: jax.checkpoint(_inside(f)),
    "forward in scan": lambda f: _scan(_inside(f)),
    "forward in vmap": lambda f: (
        lambda x, w, b: jax.vmap(_inside(f), (0, None, None))(x[None], w, b).sum()
    ),
    "forward of jit": lambda f: _inside(jax.jit(f)),
    "nothing": lambda f: f,
}


@pytest.mark.parametrize("where", AROUND)
@pytest.mark.parametrize("at", [(0,), (1,), ALL])
def test_precision_around_the_forward(where, at):
    for derivative in (jax.grad, jax.hessian):

        def answer(ops, derivative=derivative):
            return products(derivative(AROUND[where](net(ops)), at), *arguments())

        if not (where == "forward in checkpoint" and ASKS_FOR_ALL):
            assert answer(hand) == answer(auto)
        highest = "(Precision.HIGHEST, Precision.HIGHEST)"
        assert set(answer(hand)) == {"None" if where == "nothing" else highest}


@pytest.mark.parametrize("at", [(0,), (1,), ALL])
def test_precision_around_the_backward(at):
    def grads(ops):
        def apart(*args):
            full = list(args)

            def f(*chosen):
                for i, a in zip(at, chosen, strict=True):
                    full[i] = a
                return net(ops)(*full)

            y, pull = jax.vjp(f, *(args[i] for i in at))
            with jax.default_matmul_precision("highest"):
                return pull(y)

        return apart

    got, want = (products(grads(ops), *arguments()) for ops in (hand, auto))
    assert got == want


def test_precision_around_both_differs():
    """The forward's holds."""

    def grads(ops):
        def apart(*args):
            with jax.default_matmul_precision("high"):
                y, pull = jax.vjp(net(ops), *args)
            with jax.default_matmul_precision("highest"):
                return pull(y)

        return apart

    got, want = (products(grads(ops), *arguments()) for ops in (hand, auto))
    assert got == want
    assert all("HIGHEST" not in precision for precision in got)


def test_x64_switched_off_around():
    args = tuple(np.asarray(a, "float32") for a in arguments())

    def off(f):
        def without(*args):
            with jax.enable_x64(False):
                return f(*args)

        return without

    for at in (1, ALL):
        agree(lambda ops, at=at: off(jax.grad(net(ops), at))(*args), hand, auto, 1e-6)
        agree(lambda ops, at=at: jax.grad(off(net(ops)), at)(*args), hand, auto, 1e-6)
        agree(lambda ops, at=at: jax.grad(jax.jit(off(net(ops))), at)(*args), hand, auto, 1e-6)


def test_standard_promotion():
    with jax.numpy_dtype_promotion("standard"):
        x, w, b = arguments()
        agree(lambda ops: jax.grad(net(ops), ALL)(x, w, b), hand, auto)


@pytest.mark.parametrize("at", [(0,), (1,), (0, 1)])
def test_effects_of_the_backward_rule(at):
    """A callback in the rule runs, once, also where pruning could do without it."""
    seen = []

    def bwd(res, g):
        jax.debug.callback(lambda total: seen.append(float(total)), g.sum())
        return g * res[1], g * res[0]

    rule = register(lambda x, w: x * w, lambda x, w: (x * w, (x, w)), bwd)
    x = arguments()[0]
    for wrap in (lambda f: f, jax.jit):
        seen.clear()
        wrap(jax.grad(lambda x, w: rule(x, w).sum(), at))(x, x)
        jax.effects_barrier()
        assert seen == [12.0]


@pytest.mark.parametrize("at", [0, 1, (0, 1)])
def test_a_rule_that_looks_at_values(at):
    """Such a rule cannot be traced, hence not pruned; eagerly it works, as in a custom_vjp."""

    def bwd(res, g):
        assert float(g.sum()) == 12.0
        return g * res[1], g * np.asarray(res[0])

    rule = register(lambda x, w: x * w, lambda x, w: (x * w, (x, w)), bwd)
    x = arguments()[0]
    agree(lambda f: jax.grad(lambda x, w: f(x, w).sum(), at)(x, x), rule, jnp.multiply)


@pytest.mark.parametrize("at", [0, 1, (0, 1)])
def test_a_rule_made_in_a_traced_function(at):
    """Its backward rule closes over an array that is being traced."""

    def loss(make):
        def of(x, w, c):
            return jax.grad(lambda x, w: make(c)(x, w).sum(), at)(x, w)

        return jax.jit(of)

    def rule(c):
        return register(
            lambda x, w: x * w * c,
            lambda x, w: (x * w * c, (x, w)),
            lambda res, g: (g * res[1] * c, g * res[0] * c),
        )

    x = arguments()[0]
    agree(lambda make: loss(make)(x, x + 1, x + 2), rule, lambda c: lambda x, w: x * w * c)
