"""Rules of every kind: which are seen, what is asked of each; what is said without a witness."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.custom_batching import custom_vmap
from jax.custom_derivatives import linear_call
from jax.interpreters import ad

from fnnet.check import GradientError, assert_vjp, check_vjp, compare_gradients, verify
from fnnet.check.case.kinds import rules_in
from fnnet.check.questions import (
    absent,
    accumulate,
    batch,
    differences,
    forward,
    reverse,
    transpose,
    which_rule,
)
from tests.planted.kinds_custom import callback, symbolic
from tests.planted.kinds_hijax import sin, there, times, two
from tests.planted.kinds_linear import like, root, solver
from tests.planted.made import primitive
from tests.planted.row import normal, rule

X = normal(4)


@pytest.fixture
def few(monkeypatch):
    """Only the questions that these tests are about."""
    asked = (reverse, differences, transpose, forward, absent, accumulate, batch, which_rule)
    monkeypatch.setitem(verify.LEVELS, "full", asked)


def checks(report):
    return {f.check for f in report.findings}


def closed(factor, name, f=jnp.sin):
    """A primitive that nothing can look into, with a rule of `factor` times the right one."""
    p = primitive(name, f, opaque=True)
    ad.defjvp(p, lambda t, x: factor * jax.jvp(f, (x,), (t,))[1])
    return p.bind


def kinds_of(f, *args):
    return {r.kind for r in rules_in(jax.make_jaxpr(f)(*args)) if r.foreign}


@pytest.mark.parametrize(
    ("kind", "f"),
    [
        ("custom_vjp", rule(jnp.sin, lambda a, y, g: (g,))),
        ("custom_vjp", jax.custom_gradient(lambda x: (jnp.sin(x), lambda g: g))),
        ("custom_vmap", custom_vmap(jnp.sin)),
        ("linear_call", lambda x: linear_call(lambda r, x: x, lambda r, g: g, (), x)),
        ("custom_linear_solve", lambda x: solver(lambda vm, b: b)(x[:3])),
        ("custom_root", root(lambda g, y: y)),
        ("hijax primitive", sin()),
        ("hijax primitive", jax.vmap(sin())),
        ("primitive", closed(1, "kinds_of_closed")),
        ("pure_callback", lambda x: callback(np.sin, x)),
    ],
)
def test_the_kind_of_a_rule_is_seen(kind, f):
    if isinstance(f, custom_vmap):
        f.def_vmap(lambda n, b, x: (jnp.sin(x), True))
    assert kinds_of(f, X) == {kind}
    assert kinds_of(jax.jit(lambda x: jax.lax.map(lambda _: f(x), jnp.arange(2))), X) == {kind}


def test_rules_of_jax_are_not_somebody_elses():
    def f(x):
        return jax.nn.relu(jax.nn.softmax(x)) + jnp.linalg.solve(jnp.eye(4, dtype=x.dtype), x)

    assert kinds_of(f, X) == set()
    assert rules_in(jax.make_jaxpr(f)(X))
    assert kinds_of(jax.checkpoint(jnp.sin), X) == set()
    assert kinds_of(lambda x: jax.debug.print("{}", x), X) == set()


def test_a_function_that_calls_a_rule_of_jax_has_none(few):
    def f(x):
        return jax.nn.relu(x)

    report = check_vjp(f, (X,))
    assert report.verdict == "undecidable"
    assert report.no_rule
    assert "relu" in str(report)
    with pytest.raises(GradientError, match="relu"):
        assert_vjp(f, (X,))
    assert check_vjp(f, (X,), allow_no_rule=True).verdict == "correct"
    # JAX's own function is what is checked here
    assert check_vjp(jax.nn.relu, (X,)).verdict == "correct"


def test_nothing_to_differentiate():
    for report in (
        check_vjp(lambda x: x + 1, (jnp.arange(3),)),
        check_vjp(lambda: 1.0, ()),
        compare_gradients(lambda x: jnp.sum(x.astype(jnp.float32)), jnp.arange(3)),
    ):
        assert report.verdict == "undecidable", report
        assert report.no_rule
    with pytest.raises(GradientError):
        assert_vjp(lambda x: x + 1, (jnp.arange(3),))


@pytest.mark.parametrize("n", [4, 700])
def test_differences_decide_alone_where_the_oracle_holds_the_rule(few, n):
    f = closed(1.0, f"alone_right_{n}")
    report = check_vjp(f, (normal(n),))
    assert report.verdict == "correct", report
    found = {x.check: x for x in report.findings}
    assert found["reverse against autodiff"].verdict == "skipped"
    assert f"alone_right_{n}" in str(found["reverse against autodiff"].detail)
    assert 0 < report.power["args[0]"] < 1e-2
    wrong = check_vjp(closed(1.001, f"alone_wrong_{n}"), (normal(n),))
    assert (wrong.verdict, wrong.diagnosis) == ("wrong", "scaled")


def test_one_element_of_many_that_only_differences_see(few):
    p = primitive("one_of_many", jnp.exp, opaque=True)
    ad.defjvp(p, lambda t, x: (t * jnp.exp(x)).at[411].mul(1.5))
    report = check_vjp(p.bind, (normal(700),))
    assert report.verdict == "wrong"
    assert report.power == {} or report.power["args[0]"] < 0.5


def test_one_complex_element_of_many(few):
    p = primitive("one_complex", lambda x: x * x, opaque=True)
    ad.defjvp(p, lambda t, x: (t * 2 * x).at[99].mul(1 + 0.5j))
    x = jax.lax.complex(normal(100), normal(100, seed=1))
    assert check_vjp(p.bind, (x,)).verdict == "wrong"
    p = primitive("complex_right", lambda x: x * x, opaque=True)
    ad.defjvp(p, lambda t, x: t * 2 * x)
    assert check_vjp(p.bind, (x,)).verdict == "correct"


def test_undecidable_where_differences_alone_cannot_tell(few):
    def rough(x):
        return jnp.sin(1e7 * x) + 0.25 * jnp.floor(1e9 * x) % 3

    report = check_vjp(closed(1.0, "rough", rough), (X,))
    assert report.verdict == "undecidable", report


def test_a_settled_difference_is_not_overruled(few):
    """Rule and autodiff agree, and the value moves otherwise: nobody knows what is meant."""

    def half(x):
        return x * jax.lax.stop_gradient(x)

    f = rule(half, lambda a, y, g: (g * a[0],))
    report = check_vjp(f, (X,))
    assert report.verdict == "undecidable"
    assert "reference=" in str(report)
    assert check_vjp(f, (X,), reference=half).verdict == "correct"
    # and the other way round: the rule is the value's derivative, autodiff's is not
    whole = rule(half, lambda a, y, g: (2 * g * a[0],))
    assert check_vjp(whole, (X,)).verdict == "undecidable"
    assert check_vjp(whole, (X,), reference=lambda x: x * x).verdict == "correct"
    neither = rule(half, lambda a, y, g: (3 * g * a[0],))
    assert check_vjp(neither, (X,)).verdict == "wrong"


def test_a_wrong_rule_around_a_primitive_that_is_wrong_too(few):
    """Autodiff agrees with the rule, as it runs the same: it is no witness."""
    inside = closed(2.0, "inside_wrong")
    f = rule(lambda x: inside(x) * 3, lambda a, y, g: (6 * g * jnp.cos(a[0]),))
    assert check_vjp(f, (X,)).verdict == "wrong"
    right = rule(lambda x: inside(x) * 3, lambda a, y, g: (3 * g * jnp.cos(a[0]),))
    assert check_vjp(right, (X,)).verdict == "correct"


def test_a_reference_that_holds_the_rule_is_no_witness(few):
    f = closed(2.0, "own_reference")
    assert check_vjp(f, (X,), reference=f).verdict == "wrong"
    assert check_vjp(f, (X,), reference=lambda x: 2 * jnp.sin(x), kwargs=None).verdict == "correct"


def test_compare_gradients_without_a_witness():
    def loss(f):
        return lambda p: jnp.sum(f(p["w"]) ** 2)

    params = {"w": X}
    assert compare_gradients(loss(closed(2.0, "loss_wrong")), params).verdict == "wrong"
    report = compare_gradients(loss(closed(1.0, "loss_right")), params)
    assert report.verdict == "correct"
    assert report.power
    assert compare_gradients(loss(jax.nn.relu), params).verdict == "undecidable"


NEW = {
    forward.LINEARITY,
    "forward against autodiff",
    batch.NAME,
    transpose.NAME,
    transpose.SOLVER,
    absent.NAME,
    absent.OUTPUTS,
    accumulate.NAME,
}


@pytest.mark.parametrize(
    ("f", "n", "asked"),
    [
        (rule(jnp.sin, lambda a, y, g: (g * jnp.cos(a[0]),)), 1, set()),
        (sin(), 1, {forward.LINEARITY, "forward against autodiff", batch.NAME, accumulate.NAME}),
        (times(), 2, {batch.NAME, absent.NAME, accumulate.NAME}),
        (
            two(lambda s, res, g: (there(g[0]) * jnp.cos(res[0]) + 2 * there(g[1]) * res[0],)),
            1,
            {batch.NAME, absent.OUTPUTS, accumulate.NAME},
        ),
        (
            lambda x: linear_call(lambda r, x: 2 * x, lambda r, g: 2 * g, (), x),
            1,
            {forward.LINEARITY, "forward against autodiff", transpose.NAME},
        ),
        (
            symbolic(
                lambda x, y: x * y,
                lambda x, y: (x.value * y.value, (x.value, y.value)),
                lambda res, g: (g * res[1], g * res[0]),
            ),
            2,
            {absent.NAME},
        ),
    ],
)
def test_each_question_is_asked_where_it_applies(few, f, n, asked):
    report = check_vjp(f, (X, normal(4, seed=1))[:n])
    assert report.verdict == "correct", report
    assert checks(report) & NEW == asked


def test_a_linear_solver_is_told_which_of_its_functions_is_wrong(few):
    report = check_vjp(solver(lambda vm, b: 1.5 * jnp.linalg.solve(like(b).T, b)), (normal(3),))
    found = {x.check: x for x in report.wrong}
    assert found[transpose.SOLVER].diagnosis == "scaled"
    assert "transpose_solve" in str(found[transpose.SOLVER].detail)


def test_without_a_reverse_mode_the_others_are_asked():
    f = custom_vmap(lambda x: jnp.sin(x))
    f.def_vmap(lambda n, b, x: (jnp.sin(x), b[0]))
    report = check_vjp(f, (X,))
    assert report.verdict == "correct", report
    assert {"forward against autodiff", batch.NAME} <= checks(report)
    f.def_vmap(lambda n, b, x: (jnp.cos(x), b[0]))
    report = check_vjp(f, (X,))
    assert report.wrong[0].check == batch.NAME


def test_forward_and_reverse_that_are_not_adjoint(few):
    p = primitive("not_adjoint", jnp.sin, opaque=True)
    ad.primitive_jvps[p] = lambda primals, tangents: (
        p.bind(*primals),
        linear_call(lambda c, t: c * t, lambda c, g: 2 * c * g, jnp.cos(primals[0]), tangents[0]),
    )
    report = check_vjp(p.bind, (X,))
    assert "not_adjoint" in {x.diagnosis for x in report.wrong}, report


def test_rules_of_equinox(few):
    eqx = pytest.importorskip("equinox")

    def made(factor):
        @eqx.filter_custom_vjp
        def f(xy):
            return xy[0] * xy[1]

        @f.def_fwd
        def _(perturbed, xy):
            return xy[0] * xy[1], None

        @f.def_bwd
        def _(res, g, perturbed, xy):
            c = 1 if all(jax.tree.leaves(perturbed)) else factor
            return c * g * xy[1], g * xy[0]

        return f

    args = ((X, normal(4, seed=1)),)
    assert check_vjp(made(1), args).verdict == "correct"
    report = check_vjp(made(3), args)
    assert (report.wrong[0].check, report.diagnosis) == (absent.NAME, "scaled")

    def sine(factor):
        @eqx.filter_custom_jvp
        def f(x):
            return jnp.sin(x)

        @f.def_jvp
        def _(p, t):
            return jnp.sin(p[0]), factor * t[0] * jnp.cos(p[0])

        return f

    assert check_vjp(sine(1), (X,)).verdict == "correct"
    assert check_vjp(sine(2), (X,)).diagnosis == "scaled"


def test_rules_of_flax(few):
    nn = pytest.importorskip("flax.linen")

    class Scaled(nn.Module):
        factor: float

        @nn.compact
        def __call__(self, x):
            factor = self.factor

            def bwd(back, g):
                params, dx = back(g)
                return jax.tree.map(lambda d: factor * d, params), dx

            f = nn.custom_vjp(
                lambda mdl, x: mdl(x),
                forward_fn=lambda mdl, x: nn.vjp(lambda m, x: m(x), mdl, x),
                backward_fn=bwd,
            )
            return f(nn.Dense(2), x)

    for factor, verdict in ((1.0, "correct"), (2.0, "wrong")):
        net = Scaled(factor)
        params = net.init(jax.random.key(0), X)
        assert check_vjp(net.apply, (params, X)).verdict == verdict
