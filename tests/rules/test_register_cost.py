"""What a registered function costs and keeps: no product, array or setting but autodiff's."""

import gc
import itertools
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fnnet.rules import register
from tests.rules.textbook import agree, arguments, auto, hand, net, same

ALL = (0, 1, 2)
SUBSETS = [at for n in (1, 2, 3) for at in itertools.combinations(ALL, n)]


def products(f, *args):
    """The matrix products of f, each with its precision."""

    def found(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "dot_general":
                yield str(eqn.params["precision"])
            for inner in jax.tree.leaves(
                list(eqn.params.values()), is_leaf=lambda p: hasattr(p, "eqns")
            ):
                if hasattr(inner, "eqns"):
                    yield from found(getattr(inner, "jaxpr", inner))

    return sorted(found(jax.make_jaxpr(f)(*args).jaxpr))


@pytest.mark.parametrize("at", SUBSETS)
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint, jax.vmap])
def test_no_products_but_those_asked_for(at, wrap):
    args = arguments()
    if wrap is jax.vmap:
        args = tuple(a[None] for a in args)

    def grads(ops):
        f = wrap(net(ops))
        return jax.grad(lambda *a: f(*a).sum(), at)

    for make in (lambda f: f, jax.jit):
        got, want = (products(make(grads(ops)), *args) for ops in (hand, auto))
        assert got == want


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
    def grads(ops, order):
        f = AROUND[where](net(ops))
        return jax.grad(f, at) if order == 1 else jax.hessian(f, at)

    for order in (1, 2):
        got, want = (products(grads(ops, order), *arguments()) for ops in (hand, auto))
        if order == 1:
            assert got == want
        assert {"None"} == set(want) == set(got) or "None" not in got + want
    everything = products(jax.jit(grads(hand, 1)), *arguments())
    assert everything == products(jax.jit(grads(auto, 1)), *arguments())


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
        jax.vmap(jax.grad(net(hand), 1), (0, None, None))(x[None], w, b)
        jax.grad(lambda w: lax.scan(lambda c, _: (c + net(hand)(x, w, b), c), 0.0, length=2)[0])(w)
        jax.grad(jax.checkpoint(net(hand)))(x, w, b)


def test_nothing_grows_in_a_loop():
    args = arguments()
    jitted, again = jax.jit(net(hand)), jax.checkpoint(net(hand))
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
