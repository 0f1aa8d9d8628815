"""A hand-derived rule of forward mode, beside the rule of reverse mode."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import AxisType, reshard
from jax.sharding import PartitionSpec as P

from fnnet.check import check_vjp
from fnnet.rules import register
from tests.rules.textbook import arguments, same

X, W, B = arguments()
RAN: list[str] = []


def _lin(x, w, b):
    y = x @ w
    return y + jnp.broadcast_to(b, y.shape)


def wave(x, w, b, n=2, *, scale=3.0):
    return {"y": jnp.sin(_lin(x, w, b)) * scale * n, "k": jnp.arange(2)}


def _fwd(x, w, b, n, *, scale):
    z = _lin(x, w, b)
    return {"y": jnp.sin(z) * scale * n, "k": jnp.arange(2)}, (x, w, z)


def _bwd(res, g, n, scale):
    x, w, z = res
    dz = g["y"] * jnp.cos(z) * scale * n
    return dz @ w.T, x.T @ dz, dz.sum(0)


def _tangent(res, dx, dw, db, n, scale):
    RAN.append("tangent")
    x, w, z = res
    dz = jnp.zeros_like(z)
    if dx is not None:
        dz += dx @ w
    if dw is not None:
        dz += x @ dw
    if db is not None:
        dz += jnp.broadcast_to(db, z.shape)
    return {"y": jnp.cos(z) * dz * scale * n, "k": None}


hand = register(wave, _fwd, _bwd, static_argnames="n", tangent=_tangent)


def _scan(f):
    def loss(x, w, b):
        step = lambda c, x: (c + f(x[None], w, b)["y"].sum(), None)  # noqa: E731
        return lax.scan(step, jnp.zeros(()), x)[0]

    return loss


def _push(f, *args):
    return jax.linearize(f, *args)[1](*args)


ALL = (0, 1, 2)
LOSS = {
    "once": lambda f: lambda *a: jnp.sum(jnp.sin(f(*a)["y"])),
    "an option and a static argument": lambda f: lambda *a: f(*a, 5, scale=0.5)["y"].sum(),
    "jit": lambda f: jax.jit(lambda *a: jnp.sum(jnp.cos(f(*a)["y"]))),
    "scan": _scan,
    "checkpoint": lambda f: jax.checkpoint(lambda *a: jnp.sum(jnp.cos(f(*a)["y"]))),
    "vmap": lambda f: (
        lambda x, w, b: jnp.sum(jax.vmap(lambda x: f(x, w, b)["y"])(jnp.stack([x, 2 * x])) ** 2)
    ),
}
ORDERS = {
    "jvp": lambda f: lambda *a: jax.jvp(f, a, jax.tree.map(jnp.cos, a)),
    **{f"jvp, {i}": lambda f, i=i: lambda *a: _of_one(f, i, a) for i in ALL},
    "jacfwd": lambda f: jax.jacfwd(f, ALL),
    "linearize": lambda f: lambda *a: _push(f, *a),
    "linearize, one": lambda f: lambda x, w, b: _push(lambda w: f(x, w, b), w),
    "vmap of linearize": lambda f: (
        lambda x, w, b: jax.vmap(lambda b: _push(lambda x: f(x, w, b), x))(jnp.stack([b, 2 * b]))
    ),
    "transposed": lambda f: lambda *a: jax.linear_transpose(jax.linearize(f, *a)[1], *a)(2.0),
    "grad": lambda f: jax.grad(f, ALL),
    "forward over forward": lambda f: jax.jacfwd(jax.jacfwd(f, ALL), ALL),
    "reverse over forward": lambda f: jax.jacrev(jax.jacfwd(f, ALL), ALL),
    "hessian": lambda f: jax.hessian(f, ALL),
    "jvp of linearize": lambda f: lambda *a: jax.jvp(functools.partial(_push, f), a, a),
    "grad of linearize": lambda f: jax.grad(functools.partial(_push, f), ALL),
}


def _of_one(f, i, args):
    return jax.jvp(lambda a: f(*args[:i], a, *args[i + 1 :]), (args[i],), (args[i] + 1,))


@pytest.mark.parametrize("loss", LOSS)
def test_derivatives(loss):
    """As autodiff has them. One program for all, as compiling is what takes long."""

    def every(f):
        f = LOSS[loss](f)
        return {order: make(f)(X, W, B) for order, make in ORDERS.items()}

    RAN.clear()
    got = jax.jit(lambda: every(hand))()
    assert RAN
    same(got, jax.jit(lambda: every(wave))())


def test_it_is_the_rule_that_runs():
    """A wrong one is seen in forward mode, and in what linearize gives, and there alone."""
    wrong = register(
        jnp.sin,
        lambda x: (jnp.sin(x), x),
        lambda x, g: (jnp.cos(x) * g,),
        tangent=lambda x, t: 9 * t,
    )
    for f in (wrong, jax.jit(wrong)):
        assert jax.jvp(f, (1.0,), (1.0,))[1] == 9
        assert jax.linearize(f, 1.0)[1](1.0) == 9
        assert jax.grad(f)(1.0) == jnp.cos(1.0)
        assert jax.linear_transpose(jax.linearize(f, 1.0)[1], 1.0)(1.0)[0] == jnp.cos(1.0)


def test_what_a_zero_tangent_needs_is_not_computed():
    """Where b alone has a tangent, the forward pass's product is the only one."""

    def products(i):
        def pushed(*args):
            f = lambda t: hand(*args[:i], t, *args[i + 1 :])["y"]  # noqa: E731
            return jax.jvp(f, (args[i],), (args[i],)), jax.linearize(f, args[i])[1](args[i])

        return jax.jit(pushed).lower(X, W, B).as_text().count("stablehlo.dot_general")

    assert products(2) == 2  # one for each of the two
    assert products(0) == products(1) == 4


def test_explicit_mesh():
    mesh = jax.make_mesh((4, 2), ("d", "m"), axis_types=(AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        x = reshard(X, P("d", None))
        _, got = jax.jit(lambda x: jax.jvp(lambda x: hand(x, W, B)["y"], (x,), (x,)))(x)
        assert got.sharding.spec[0] == "d"
    same(got, jax.jvp(lambda x: wave(x, W, B)["y"], (X,), (X,))[1])


WRONG = {
    "structure": (lambda res, t: (t, t), TypeError, r"^f: the tangent rule must .*structure"),
    "shape": (lambda res, t: t[0], ValueError, r"^f: a tangent must be float64\[3\].*broadcast"),
    "dtype": (lambda res, t: t.astype("float32"), TypeError, r"^f: a tangent must .*astype"),
}


@pytest.mark.parametrize("what", WRONG)
def test_contract(what):
    rule, error, match = WRONG[what]
    f = register(jnp.sin, lambda x: (jnp.sin(x), x), lambda x, g: (g,), name="f", tangent=rule)
    for run in (lambda f, x: jax.jvp(f, (x,), (x,)), lambda f, x: jax.linearize(f, x)[1](x)):
        with pytest.raises((error, NotImplementedError), match=match):
            run(f, X[0])
    nothing = register(
        jnp.sign, lambda x: (jnp.sign(x), x), lambda x, g: (None,), tangent=lambda r, t: None
    )
    assert (jax.jvp(nothing, (X,), (X,))[1] == 0).all()


def _jvp(primals, tangents, n, scale):
    """The same rule as `jax.custom_jvp` would have it."""
    RAN.append("jvp")
    (x, w, b), (dx, dw, db) = primals, tangents
    z = _lin(x, w, b)
    dz = dx @ w + x @ dw + jnp.broadcast_to(db, z.shape)
    out = {"y": jnp.sin(z) * scale * n, "k": jnp.arange(2)}
    return out, {"y": jnp.cos(z) * dz * scale * n, "k": None}


by_values = register(wave, _fwd, _bwd, static_argnames="n", jvp=_jvp)


def test_derivatives_by_jvp():
    def every(f):
        f = LOSS["an option and a static argument"](f)
        return {order: make(f)(X, W, B) for order, make in ORDERS.items()}

    RAN.clear()
    got = jax.jit(lambda: every(by_values))()
    assert RAN
    same(got, jax.jit(lambda: every(wave))())
    same(
        jax.jvp(by_values, (X, W, B), (X, W, B))[1]["y"],
        jax.jvp(wave, (X, W, B), (X, W, B))[1]["y"],
    )


def test_it_is_jvp_that_runs():
    wrong = register(
        jnp.sin,
        lambda x: (jnp.sin(x), x),
        lambda x, g: (jnp.cos(x) * g,),
        jvp=lambda p, t: (jnp.sin(p[0]), 9 * t[0]),
    )
    for f in (wrong, jax.jit(wrong)):
        assert jax.jvp(f, (1.0,), (1.0,))[1] == 9
        assert jax.grad(f)(1.0) == jnp.cos(1.0)


WRONG_JVP = {
    "pair": (lambda p, t: p[0], r"^f: jvp must return a pair .*it returned"),
    "value": (lambda p, t: ((p[0], p[0]), t[0]), r"^f: jvp must return the value that forward .*"),
    "structure": (lambda p, t: (p[0], (t[0], t[0])), r"^f: the tangent rule must .*structure"),
    "dtype": (lambda p, t: (p[0], t[0].astype("float32")), r"^f: a tangent must .*astype"),
}


@pytest.mark.parametrize("what", WRONG_JVP)
def test_contract_of_jvp(what):
    rule, match = WRONG_JVP[what]
    f = register(jnp.sin, lambda x: (jnp.sin(x), x), lambda x, g: (g,), name="f", jvp=rule)
    with pytest.raises(TypeError, match=match):
        jax.jvp(f, (X[0],), (X[0],))


def test_an_option_has_no_derivative_by_jvp():
    with pytest.raises(TypeError, match=r"wave: a derivative .*keyword-only argument \(`scale`\)"):
        jax.jvp(lambda s: by_values(X, W, B, scale=s)["y"], (3.0,), (1.0,))


def test_rules_that_contradict_each_other():
    rules = (jnp.sin, lambda x: (jnp.sin(x), x), lambda x, g: (g,))
    with pytest.raises(ValueError, match="two rules of forward mode; give one"):
        register(*rules, jvp=lambda p, t: (p[0], t[0]), tangent=lambda res, t: t)
    for rule in ({"jvp": lambda p, t: (p[0], t[0])}, {"tangent": lambda res, t: t}):
        with pytest.raises(ValueError, match="forward_mode=False, and a rule of forward mode"):
            register(*rules, forward_mode=False, **rule)


@pytest.mark.parametrize("rule", ["tangent", "jvp"])
def test_the_checker_asks_it(rule):
    def made(factor):
        rules = {
            "tangent": lambda res, t: factor * jnp.cos(res) * t,
            "jvp": lambda p, t: (jnp.sin(p[0]), factor * jnp.cos(p[0]) * t[0]),
        }
        triple = (jnp.sin, lambda x: (jnp.sin(x), x), lambda x, g: (jnp.cos(x) * g,))
        return register(*triple, name="sine", **{rule: rules[rule]})

    report = check_vjp(made(1), (X,))
    assert report.verdict == "correct"
    assert any(f.check == "forward against autodiff" for f in report.findings)
    report = check_vjp(made(2), (X,))
    assert report.verdict == "wrong"
    (found,) = (f for f in report.findings if f.check == "forward against autodiff")
    assert found.diagnosis == "scaled"
