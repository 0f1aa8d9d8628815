"""What a registered function costs and keeps: no product and no array but autodiff's."""

import gc
import itertools
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fnnet.rules import register
from tests.rules.textbook import ASKS_FOR_ALL, arguments, auto, hand, net, products, same

ALL = (0, 1, 2)


SUBSETS = [at for n in (1, 2, 3) for at in itertools.combinations(ALL, n)]


@pytest.mark.parametrize("at", SUBSETS)
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint, jax.vmap])
def test_no_products_but_those_asked_for(at, wrap):
    args = arguments()
    if wrap is jax.vmap:
        args = tuple(a[None] for a in args)

    def grads(ops, at=at):
        f = wrap(net(ops))
        return jax.grad(lambda *a: f(*a).sum(), at)

    for make in (lambda f: f, jax.jit):
        by_hand, by_jax = (products(make(grads(f)), *args) for f in (hand, auto))
        # (JAX's next checkpoint asks autodiff for more than that)
        assert by_hand == by_jax or (ASKS_FOR_ALL and len(by_hand) <= len(by_jax))


@pytest.mark.parametrize("at", SUBSETS)
def test_no_residuals_but_those_asked_for(at):
    """Of lin, dx needs w, dw needs x, and db neither."""
    args = arguments()

    def f(*chosen):
        full = list(args)
        for i, a in zip(at, chosen, strict=True):
            full[i] = a
        return hand.lin(*full)

    for wrap in (lambda f: f, jax.jit):
        _, pull = jax.vjp(wrap(f), *(args[i] for i in at))
        kept = {a.shape for a in jax.tree.leaves(pull) if a.size}
        wanted = ({(3, 2)} if 0 in at else set()) | ({(4, 3)} if 1 in at else set())
        assert kept == wanted


def test_residual_bytes_under_a_policy():
    policies = jax.checkpoint_policies
    for policy in (None, policies.dots_saveable, policies.everything_saveable):
        sizes = []
        for ops in (hand, auto):
            f = jax.checkpoint(net(ops), policy=policy)
            _, pull = jax.vjp(f, *arguments())
            sizes.append(sum(a.nbytes for a in {id(a): a for a in jax.tree.leaves(pull)}.values()))
        assert sizes[0] <= sizes[1]


def test_gradients_are_jax_arrays():
    """Also a constant one, which needs no trace."""
    rule = register(lambda x, w: x + w, lambda x, w: (x + w, None), lambda _, g: (np.ones(3), g))
    for at in (0, 1):
        got = jax.grad(lambda x, w: rule(x, w).sum(), at)(jnp.ones(3), jnp.ones(3))
        assert isinstance(got, jax.Array)


@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_no_array_outlives_the_call(no_collector):
    """Not even until the garbage collector runs, which knows nothing of a device's memory."""
    x, w, b = arguments()

    def used(call):
        fresh = x * 2
        alive = weakref.ref(fresh)
        call(fresh)
        del fresh
        return alive() is not None

    calls = [
        lambda x: hand.lin(x, w, b),
        lambda x: jax.grad(lambda x: net(hand)(x, w, b))(x),
        lambda x: jax.grad(lambda w: net(hand)(x, w, b))(w),
        lambda x: jax.vjp(net(hand), x, w, b)[1](1.0),
        lambda x: jax.jit(net(hand))(x, w, b),
        lambda x: jax.vmap(lambda x: hand.lin(x, w, b))(x),
    ]
    for call in calls:
        assert not used(call)


def test_a_pullback_keeps_its_residuals_alone(no_collector):
    """tanh keeps its value: the argument may go."""
    x = arguments()[0] * 2
    argument = weakref.ref(x)
    y, pull = jax.vjp(hand.tanh, x)
    del x
    assert argument() is None
    value = weakref.ref(y)
    del y
    assert value() is not None
    del pull
    assert value() is None


def test_no_tracer_leaks():
    x, w, b = arguments()
    with jax.checking_leaks():
        jax.jit(net(hand))(x, w, b)
        jax.jit(jax.grad(net(hand), ALL))(x, w, b)
        jax.grad(jax.jit(net(hand)), 1)(x, w, b)
        jax.jit(jax.hessian(net(hand), 2))(x, w, b)
        jax.jit(jax.vmap(jax.grad(net(hand), 1), (0, None, None)))(x[None], w, b)
        jax.grad(lambda w: lax.scan(lambda c, _: (c + net(hand)(x, w, b), c), 0.0, length=2)[0])(w)
        jax.jit(jax.grad(jax.checkpoint(net(hand))))(x, w, b)


def test_nothing_grows_in_a_loop():
    args = arguments()
    # (in JAX's next checkpoint objects grow with every call, whatever is in it)
    jitted, again = jax.jit(net(hand)), net(hand) if ASKS_FOR_ALL else jax.checkpoint(net(hand))
    compilations = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compilations.append(event) if "backend_compile" in event else None
    )

    def step():
        for at in (0, (1, 2)):
            jax.grad(net(hand), at)(*args)
            jax.grad(jitted, at)(*args)
            jax.grad(again, at)(*args)
            jax.vmap(jax.grad(jitted, at), (0, None, None))(args[0][None], *args[1:])

    def objects():
        gc.collect()
        return len(gc.get_objects()), len(jax.live_arrays())

    for _ in range(3):
        step()
    before, compiled = objects(), len(compilations)
    for _ in range(5):
        step()
    after = objects()
    assert after[1] == before[1]
    assert after[0] - before[0] < 100
    assert len(compilations) == compiled
    same(jax.grad(jitted, ALL)(*args), jax.grad(net(auto), ALL)(*args))
