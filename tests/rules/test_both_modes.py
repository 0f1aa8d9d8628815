"""`both_modes(f)`: the rules of f in reverse, autodiff's own derivative forward, everywhere."""

import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import checkify, jet
from jax.sharding import AxisType, reshard
from jax.sharding import PartitionSpec as P

from fnnet import both_modes, plain, register
from tests.compare import dots
from tests.rules.textbook import ASKS_FOR_ALL, same
from tests.rules.wrong import X, shard_map, wrong

CONSTANT = jnp.arange(8.0)


def _tree(f):
    return lambda x: {"y": f(x), "n": jnp.arange(3), "z": [f(2 * x).sum(), 3.0]}


def _called_by_its_own_rule(f):
    """As JAX's documentation writes rules: the forward rule calls the function itself."""

    @jax.custom_vjp
    def outer(x):
        return f(x) * 2

    outer.defvjp(lambda x: (outer(x), f(x)), lambda y, g: (999 * f(g) + 0 * y,))
    return outer


def _static(f):
    @functools.partial(jax.custom_vjp, nondiff_argnums=(0, 2))
    def rule(g, x, n):
        return g(f(x)) * n

    rule.defvjp(lambda g, x, n: (g(f(x)) * n, None), lambda g, n, _, ct: (999 * ct,))
    return lambda x: rule(jnp.sin, x, 3)


def _symbolic(f):
    rule = jax.custom_vjp(lambda x, w: f(x) * w)

    def fwd(x, w):
        return f(x.value) * w.value, jnp.float64(x.perturbed + 2 * w.perturbed)

    rule.defvjp(fwd, lambda k, g: (g * k, None), symbolic_zeros=True)
    return lambda x: rule(x, CONSTANT)


def _two_results(f):
    rule = jax.custom_vjp(lambda x, n: (f(x) * n.astype(x.dtype), n + 1, x.sum()))
    rule.defvjp(
        lambda x, n: ((f(x) * n.astype(x.dtype), n + 1, x.sum()), None),
        lambda _, g: (999 * g[0] + g[2], None),
    )
    return lambda x: rule(x, jnp.arange(8))


DEPTHS = {
    "itself": lambda f: f,
    "jit": jax.jit,
    "a tree": _tree,
    "scan": lambda f: lambda x: lax.scan(lambda c, x: (c + f(x), f(c)), 0.0, x),
    "cond": lambda f: lambda x: lax.cond(x[0] > 0, f, jnp.cos, x),
    "switch": lambda f: jax.jit(lambda x: lax.switch((x[0] > 0).astype(int), [jnp.sin, f], x)),
    "fori": lambda f: lambda x: lax.fori_loop(0, 3, lambda _, c: f(c) * 2, x),
    "checkpoint": jax.checkpoint,
    "checkpoint of everything": lambda f: jax.checkpoint(
        lambda x: f(jnp.sin(f(x))), policy=jax.checkpoint_policies.everything_saveable
    ),
    "checkpoint in scan": lambda f: (
        lambda x: lax.scan(jax.checkpoint(lambda c, x: (f(c + x), c)), 0.0, x)
    ),
    "vmap": lambda f: jax.vmap(lambda x: f(x) + f(CONSTANT).sum()),
    "vmap, other axes": lambda f: lambda x: jax.vmap(f, 1, 1)(jnp.stack([x, 2 * x], 1)),
    "shard_map": lambda f: shard_map(lambda x: lax.psum(f(x), "d")),
    "a rule that calls it": _called_by_its_own_rule,
    "static arguments": _static,
    "symbolic zeros": _symbolic,
    "several results": _two_results,
    "closed over": lambda f: lambda x: f(x * CONSTANT + np.arange(8.0)),
    "complex": lambda f: lambda x: jnp.abs(f(x.astype(complex) * (1 + 2j))),
}


def _total(f):
    def total(x):
        leaves = [jnp.asarray(y) for y in jax.tree.leaves(f(x))]
        return sum(jnp.sum(jnp.sin(y)) for y in leaves if jnp.issubdtype(y.dtype, jnp.inexact))

    return total


@pytest.mark.parametrize("depth", DEPTHS)
def test_reverse_is_by_the_rule_and_forward_is_autodiffs(depth):
    """The rule is wrong, and so seen; `tanh` in its place has none, or loses it."""
    make = DEPTHS[depth]
    hand, both, auto = make(wrong), both_modes(make(wrong)), plain(make(jnp.tanh))
    same(both(X), hand(X))
    for wrap in (lambda f: f, jax.jit):
        by_rule, by_auto = (wrap(jax.grad(_total(f)))(X) for f in (hand, auto))
        same(wrap(jax.grad(_total(both)))(X), by_rule)
        assert not np.allclose(by_rule, by_auto)
        same(
            wrap(lambda x: jax.jvp(_total(both), (x,), (x + 1,)))(X),
            jax.jvp(_total(auto), (X,), (X + 1,)),
        )
    same(jax.jacfwd(_total(both))(X), by_auto)
    same(jax.vmap(jax.grad(_total(both)))(jnp.stack([X, X / 2]))[0], by_rule)
    _, push = jax.linearize(_total(both), X)
    same(jax.linear_transpose(push, X)(1.0)[0], by_rule)
    assert push(X).shape == ()


def _plain_wave(x, w):
    return jnp.sin(x) * w + jnp.tanh(x @ x)


wave = jax.custom_vjp(_plain_wave)


def _wave_bwd(res, g):
    x, w = res
    dx = jnp.cos(x) * w * g + g.sum() * (1 - jnp.tanh(x @ x) ** 2) * 2 * x
    return dx, (jnp.sin(x) * g).sum() * jnp.ones_like(w) if w.ndim == 0 else jnp.sin(x) * g


# called by its own rule, as JAX's documentation has it
wave.defvjp(lambda x, w: (wave(x, w), (x, w)), _wave_bwd)

NET = {
    "once": lambda f: lambda x, w: jnp.sum(f(x, w) ** 2),
    "under jit, twice": lambda f: jax.jit(lambda x, w: jnp.sum(jnp.cos(f(f(x, w), w)))),
    "scan": lambda f: lambda x, w: jnp.sum(lax.scan(lambda c, _: (f(c, w), None), x, None, 2)[0]),
    "checkpoint": lambda f: lambda x, w: jnp.sum(jax.checkpoint(f)(x, w) ** 2),
    "vmap": lambda f: lambda x, w: jnp.sum(jax.vmap(f, (0, None))(jnp.stack([x, 2 * x]), w) ** 2),
}


def _push_of(f, *args):
    return jax.linearize(f, *args)[1](*args)


ORDERS = {
    "forward over reverse": lambda f: jax.jacfwd(jax.grad(f, (0, 1)), (0, 1)),
    "reverse over forward": lambda f: jax.jacrev(jax.jacfwd(f, (0, 1)), (0, 1)),
    "forward over forward": lambda f: jax.jacfwd(jax.jacfwd(f, (0, 1)), (0, 1)),
    "reverse over reverse": lambda f: jax.jacrev(jax.grad(f, (0, 1)), (0, 1)),
    "hessian": lambda f: jax.hessian(f, (0, 1)),
    "grad of jvp": lambda f: jax.grad(
        lambda *a: sum(jax.jvp(f, a, jax.tree.map(jnp.cos, a))), (0, 1)
    ),
    "grad of jvp, of its tangent": lambda f: (
        lambda *a: jax.grad(lambda t: jax.jvp(f, a, (t, a[1]))[1])(a[0])
    ),
    "linearize": lambda f: lambda *a: _push_of(f, *a),
    "jvp of linearize": lambda f: lambda *a: jax.jvp(functools.partial(_push_of, f), a, a),
    "grad of linearize": lambda f: jax.grad(functools.partial(_push_of, f), (0, 1)),
    "vmap of jvp": lambda f: (
        lambda x, w: jax.vmap(lambda t: jax.jvp(f, (x, w), (t, w)), 1)(jnp.stack([x, w], 1))
    ),
    "third": lambda f: jax.jacfwd(jax.hessian(lambda x: f(x, X[:3]))),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("net", NET)
def test_derivatives_of_derivatives(net, order):
    x, w = X[:3], X[3:6]

    def run(f):
        made = ORDERS[order](NET[net](f))
        return jax.jit(made)(x) if order == "third" else jax.jit(made)(x, w)

    same(run(both_modes(wave)), run(_plain_wave))


def test_no_product_and_no_residual_but_the_rules():
    """Reverse mode is what it was, under a policy of checkpoint too."""

    @jax.custom_vjp
    def product(x, w):
        return jnp.sin(x @ w)

    def fwd(x, w):
        z = x @ w
        return jnp.sin(z), (x, w, jnp.cos(z))

    product.defvjp(fwd, lambda r, g: ((g * r[2]) @ r[1].T, r[0].T @ (g * r[2])))
    x, w = jnp.ones((3, 4)), jnp.ones((4, 4))
    policies = jax.checkpoint_policies

    def kept(f, policy):
        around = f if policy is None else jax.checkpoint(f, policy=policy)
        loss = lambda x, w: around(around(x, w), w).sum()  # noqa: E731
        _, pull = jax.vjp(loss, x, w)
        sizes = sorted(a.shape for a in {id(a): a for a in jax.tree.leaves(pull)}.values())
        return sizes, len(dots(jax.grad(loss, (0, 1)), x, w))

    for policy in (
        None,
        policies.nothing_saveable,
        policies.dots_saveable,
        policies.everything_saveable,
    ):
        sizes, products = kept(product, policy)
        both = kept(both_modes(product), policy)
        if ASKS_FOR_ALL:  # JAX's next checkpoint, which keeps or computes more of a custom_vjp
            assert len(both[0]) <= len(sizes)
            assert both[1] <= products
        else:
            assert both == (sizes, products)
        ours = register(product.__wrapped__, fwd, product.bwd, name="product")
        assert kept(ours, policy)[1] <= products


def test_forward_mode_computes_the_value_once():
    loops = jax.custom_vjp(lambda x: lax.scan(lambda c, _: (jnp.sin(c), None), x, length=3)[0])
    loops.defvjp(lambda x: (loops(x), x), lambda x, g: (g,))
    jaxpr = jax.jit(lambda x: jax.jvp(both_modes(loops), (x,), (x,))).lower(X).as_text()
    assert jaxpr.count("stablehlo.while") == 1


def test_transpose_of_a_linear_function():
    a = jnp.arange(6.0).reshape(2, 3)

    @jax.custom_vjp
    def product(a, x):
        return a @ x

    product.defvjp(
        lambda a, x: (a @ x, (a, x)), lambda r, g: (jnp.outer(g, r[1]), 999 * (g @ r[0]))
    )
    (got,) = jax.linear_transpose(lambda x: both_modes(product)(a, x), X[:3])(X[:2])
    same(got, X[:2] @ a)


def test_explicit_mesh():
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Explicit,) * 2)
    with jax.sharding.use_mesh(mesh) if hasattr(jax.sharding, "use_mesh") else jax.set_mesh(mesh):
        x = reshard(X.reshape(2, 4), P("a", "b"))
        for f in (lambda f: f, jax.jit, jax.checkpoint):
            hand, both = f(wrong), f(both_modes(wrong))
            same(
                jax.grad(lambda x, g=both: g(x).sum())(x), jax.grad(lambda x, g=hand: g(x).sum())(x)
            )
            got = jax.jit(lambda x, g=both: jax.jvp(g, (x,), (x,)))(x)
            same(got, jax.jvp(jnp.tanh, (x,), (x,)))
            assert got[1].sharding.spec == P("a", "b")


def test_other_interpreters():
    both = both_modes(wrong)
    same(
        jet.jet(both, (X,), ((X, X, X),)),
        jet.jet(jnp.tanh, (X,), ((X, X, X),)),
    )
    error, _ = checkify.checkify(jax.jit(both), errors=checkify.float_checks)(X * jnp.nan)
    assert "nan" in str(error.get())
    exported = jax.export.export(jax.jit(lambda x: jax.jvp(both, (x,), (x,))))(X)
    same(exported.call(X), jax.jvp(jnp.tanh, (X,), (X,)))
    with jax.checking_leaks():
        jax.jit(jax.grad(_total(both)))(X)
        jax.jit(jax.hessian(_total(jax.checkpoint(both))))(X)
        jax.jit(jax.jacfwd(_total(both)))(X)


def _module_level(x):
    return wrong(x)


def test_it_pickles_and_plain_removes_it():
    same(pickle.loads(pickle.dumps(both_modes(_module_level)))(X), jnp.tanh(X))
    same(jax.grad(_total(plain(both_modes(wrong))))(X), jax.grad(_total(jnp.tanh))(X))


def test_what_transposes_a_rule_while_it_is_traced():
    def transposes(x):
        return jax.linear_transpose(wrong, x)(x)[0]

    with pytest.raises(NotImplementedError, match=r"both_modes: transposes .*both_modes\(g\)"):
        both_modes(transposes)(X)


def test_linearize_of_a_rule_that_is_not_linear_is_no_number():
    """A rule that clips has no transpose; one that looks whether its cotangent is 0 has."""

    def ruled(bwd):
        f = jax.custom_vjp(lambda x: 2 * x)
        f.defvjp(lambda x: (2 * x, None), bwd)
        return both_modes(f)

    clips = ruled(lambda _, g: (2 * jnp.clip(g, -1, 1),))
    looks = ruled(lambda _, g: (jnp.where(g == 0, 0.0, 2 * g),))
    for make in (lambda f: f, jax.jit):
        assert jnp.isnan(make(lambda x: jax.linearize(clips, x)[1](x))(X)).all()
        same(make(lambda x: jax.linearize(looks, x)[1](x))(X), 2 * X)
        same(jax.jvp(make(clips), (X,), (X,))[1], 2 * X)
