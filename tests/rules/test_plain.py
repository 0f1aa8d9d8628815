"""`plain(f)`: the values of f, bit for bit, and no custom rule left, at whatever depth."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P

import fnnet
from fnnet.rules import plain, register
from tests.compare import assert_close
from tests.rules.textbook import same
from tests.rules.wrong import X, bits, left, shard_map, wrong, wrong_forward, wrong_registered

CONSTANT = jnp.arange(8.0)


def _nested(f):
    @jax.custom_vjp
    def outer(x):
        return inner(x) * 2

    @jax.custom_jvp
    def inner(x):
        return f(x) + f(2 * x)

    inner.defjvp(lambda p, t: (inner(*p), 999 * t[0]))
    outer.defvjp(lambda x: (outer(x), None), lambda _, g: (999 * g,))
    return outer


def _nondiff(f):
    @functools.partial(jax.custom_vjp, nondiff_argnums=(0, 2))
    def with_static(g, x, n):
        return g(f(x)) * n

    with_static.defvjp(lambda g, x, n: (g(f(x)) * n, None), lambda g, n, _, ct: (999 * ct,))
    return lambda x: with_static(jnp.sin, x, 3)


def _with_constants(f):
    """Functions with arrays of their own, under a checkpoint, whose jaxpr has room for none."""
    rule = jax.custom_jvp(lambda x: f(x) * CONSTANT * np.arange(8.0))
    rule.defjvp(lambda p, t: (rule(*p), 999 * t[0]))
    return jax.checkpoint(lambda x: rule(x) + CONSTANT)


def _symbolic_zeros(f):
    rule = jax.custom_vjp(f)
    rule.defvjp(lambda x: (f(x.value), None), lambda _, g: (999 * g,), symbolic_zeros=True)
    return rule


DEPTHS = {
    "itself": lambda f: f,
    "jit": jax.jit,
    "jit in jit": lambda f: jax.jit(lambda x: jax.jit(f)(x) * 2),
    "donated jit": lambda f: jax.jit(lambda x: jax.jit(f, donate_argnums=0)(x * 1) + 1),
    "scan": lambda f: lambda x: lax.scan(lambda c, _: (f(c), c), x, length=2)[0],
    "scan over xs": lambda f: (
        lambda x: lax.scan(lambda c, y: (f(c) * y, (c, f(y))), x.sum(), x, reverse=True, unroll=2)[
            1
        ][1]
    ),
    "fori_loop": lambda f: lambda x: lax.fori_loop(0, 3, lambda i, c: f(c) + i.astype(c.dtype), x),
    "cond": lambda f: lambda x: lax.cond(x.sum() > 0, f, lambda x: x, x),
    "switch": lambda f: lambda x: lax.switch(1, [jnp.sin, f, jnp.cos], x),
    "map": lambda f: lambda x: lax.map(f, x),
    "map in batches": lambda f: lambda x: lax.map(f, x, batch_size=3),
    "associative_scan": lambda f: lambda x: lax.associative_scan(lambda a, b: a * f(b), x[:4]),
    "reduce": lambda f: lambda x: lax.reduce(f(x), np.float64(0), lambda a, b: a + b, (0,)),
    "checkpoint": jax.checkpoint,
    "checkpoint of jit": lambda f: jax.checkpoint(
        lambda x: jax.jit(f)(x) * x, policy=jax.checkpoint_policies.dots_saveable
    ),
    "checkpoint of names": lambda f: jax.checkpoint(
        lambda x: jnp.sin(checkpoint_name(f(x), "here")),
        policy=jax.checkpoint_policies.save_only_these_names("here"),
    ),
    "checkpoint of constants": _with_constants,
    "vmap": lambda f: jax.vmap(f),
    "vmap with an axis": lambda f: jax.vmap(lambda v: f(v) - lax.pmean(v, "i"), axis_name="i"),
    "vmap of scan": lambda f: jax.vmap(lambda v: lax.scan(lambda c, _: (f(c), c), v, length=2)[0]),
    "shard_map": lambda f: shard_map(lambda x: lax.psum(f(x), "d")),
    "shard_map unchecked": lambda f: shard_map(lambda x: lax.psum(f(x), "d"), check_vma=False),
    "shard_map of scan": lambda f: shard_map(
        lambda x: lax.scan(lambda c, _: (f(c) + lax.pmean(c, "d"), c), x, length=2)[0],
        out_specs=P("d"),
    ),
    "shard_map with the index": lambda f: shard_map(
        lambda x: f(x) * lax.axis_index("d").astype(x.dtype), out_specs=P("d")
    ),
    "other rules": _nested,
    "static arguments": _nondiff,
    "symbolic zeros": _symbolic_zeros,
    "custom_gradient": lambda f: jax.custom_gradient(lambda x: (f(x), lambda g: 999 * g)),
    "linear solve": lambda f: (
        lambda x: lax.custom_linear_solve(
            lambda v: 2 * v, f(x), lambda _, b: b / 2, lambda _, b: b / 2
        )
    ),
    "in a linear solve": lambda f: (
        lambda x: lax.custom_linear_solve(
            lambda v: 2 * v, x, lambda _, b: b / 2 + 0 * f(b), symmetric=True
        )
    ),
    "root": lambda f: (
        lambda x: lax.custom_root(lambda y: y - f(x), x, lambda _, y: f(x), lambda _, y: y)
    ),
    "linear_call": lambda f: (
        lambda x: jax.custom_derivatives.linear_call(
            lambda r, x: r * x, lambda r, g: r * g, 2.0, f(x)
        )
    ),
    "platform_dependent": lambda f: lambda x: lax.platform_dependent(x, cpu=f, default=jnp.sin),
    "optimization_barrier": lambda f: lambda x: lax.optimization_barrier(f(x)),
    "a gradient": lambda f: lambda x: jax.grad(lambda x: (plain(f)(x) ** 2).sum())(x),
    "plain": lambda f: plain(lambda x: f(x) * 2),
    "jax.nn": lambda f: lambda x: jax.nn.silu(f(x)) + jax.nn.relu(x) + jax.nn.softplus(x),
    "jax.nn, jitted": lambda f: jax.jit(lambda x: jax.nn.gelu(f(x)) + jax.nn.softmax(x)),
    "jnp": lambda f: lambda x: jnp.linalg.det(jnp.diag(f(x)) + 0.1) * jnp.sinc(x),
    "random": lambda f: (
        lambda x: lax.scan(
            lambda k, _: (jax.random.split(k)[0], f(x) * jax.random.normal(k)),
            jax.random.key(0),
            length=2,
        )[1]
    ),
}


@pytest.mark.parametrize("depth", DEPTHS)
def test_values(depth):
    f = DEPTHS[depth](wrong)
    assert bits(plain(f)(X)) == bits(f(X))
    for rule in (wrong, wrong_forward, wrong_registered):
        assert left(DEPTHS[depth](rule), X) or depth in ("a gradient", "plain")
        assert not left(plain(DEPTHS[depth](rule)), X)


def at_all_depths(make):
    """Compiled together: one by one takes far longer."""
    return jax.jit(lambda x: {name: make(depth)(x) for name, depth in DEPTHS.items()})(X)


def test_compiled_values():
    want = at_all_depths(lambda depth: depth(wrong))
    inside = at_all_depths(lambda depth: plain(depth(wrong)))
    around = at_all_depths(lambda depth: plain(jax.jit(depth(wrong))))
    for name in DEPTHS:
        assert bits(inside[name]) == bits(around[name]) == bits(want[name]), name


def test_derivatives():
    """Each rule by one way of differentiating; all ways meet in `test_transforms`."""
    tangent = jnp.cos(17 * X)

    def total(f):
        return lambda x: jnp.sin(f(x)).sum()

    def forward(f):
        return lambda x: jax.jvp(total(plain(f)), (x,), (tangent,))[1]

    honest = at_all_depths(lambda depth: jax.grad(total(plain(depth(jnp.tanh)))))
    assert all(np.abs(g).max() < 500 for g in honest.values())
    same(at_all_depths(lambda depth: jax.grad(plain(total(depth(wrong))))), honest)
    tangents = {name: g @ tangent for name, g in honest.items()}
    same(at_all_depths(lambda depth: forward(depth(wrong_registered))), tangents, 1e-11)


def test_while_loops():
    def f(x):
        return lax.while_loop(
            lambda c: wrong(c).sum() < 7, lambda c: wrong_forward(c) + wrong_registered(x) + 0.5, x
        )

    assert not left(plain(f), X)
    assert bits(plain(f)(X)) == bits(f(X))
    assert bits(jax.jit(plain(f))(X)) == bits(jax.jit(f)(X))

    def honest(x):
        return lax.while_loop(
            lambda c: jnp.tanh(c).sum() < 7, lambda c: jnp.tanh(c) + jnp.tanh(x) + 0.5, x
        )

    same(jax.jit(jax.jacfwd(plain(f)))(X), jax.jit(jax.jacfwd(honest))(X))


TRANSFORMS = {
    "grad": lambda f: jax.grad(lambda x: f(x).sum()),
    "value_and_grad": lambda f: jax.value_and_grad(lambda x: f(x).sum()),
    "jvp": lambda f: lambda x: jax.jvp(f, (x,), (x + 1,)),
    "jacfwd": jax.jacfwd,
    "jacrev": jax.jacrev,
    "linearize": lambda f: lambda x: jax.linearize(f, x)[1](x),
    "hessian": lambda f: jax.hessian(lambda x: f(x).sum()),
    "hessian, reverse over forward": lambda f: jax.jacrev(jax.jacfwd(lambda x: f(x).sum())),
    "vmap": lambda f: lambda x: jax.vmap(f)(x[:, None]),
    "vmap of jvp": lambda f: jax.vmap(lambda x: jax.jvp(f, (x,), (x,))),
    "vmap of grad": lambda f: jax.vmap(jax.grad(f)),
    "checkpoint": lambda f: jax.grad(lambda x: jax.checkpoint(f)(x).sum()),
    "scan": lambda f: jax.grad(lambda x: lax.scan(lambda c, _: (f(c), c), x, length=2)[0].sum()),
    "shard_map": lambda f: jax.grad(lambda x: shard_map(lambda x: lax.psum(f(x).sum(), "d"))(x)),
    "disable_jit": lambda f: lambda x: _without_jit(jax.jacfwd(f), x),
}


def _without_jit(f, x):
    with jax.disable_jit():
        return f(x)


def test_transforms():
    def f(x):
        return jax.jit(wrong)(x) * wrong_forward(x) + wrong_registered(x)

    def honest(x):
        return jnp.tanh(x) * jnp.tanh(x) + jnp.tanh(x)

    def answers(f):
        return jax.jit(lambda x: {name: make(f)(x) for name, make in TRANSFORMS.items()})(X)

    want = answers(honest)
    same(answers(plain(f)), want)
    for name in ("grad", "jvp", "jacfwd", "linearize", "vmap of grad", "shard_map", "disable_jit"):
        same(TRANSFORMS[name](plain(f))(X), want[name])


@pytest.mark.skipif(jax.__version_info__ < (0, 12), reason="JAX before 0.12 has no such rules")
def test_rules_batched_as_a_whole():
    @jax.custom_vjp
    def generic(x, n):
        return wrong(x) * n

    generic.defvjp(
        lambda x, n: (wrong(x) * n, None), lambda _, g: (999 * g, g), generic_batching=True
    )
    for depth in ("itself", "jit", "scan", "vmap", "checkpoint", "shard_map", "vmap of scan"):

        def f(x, make=DEPTHS[depth]):
            return make(lambda x: generic(x, 1.0))(x)

        def honest(x, make=DEPTHS[depth]):
            return make(jnp.tanh)(x)

        assert left(f, X)
        assert not left(plain(f), X)
        assert bits(jax.jit(plain(f))(X)) == bits(jax.jit(f)(X))
        got, want = (jax.jit(jax.grad(lambda x, f=f: f(x).sum()))(X) for f in (plain(f), honest))
        same(got, want)


def test_constants_come_back_as_they_are():
    """What does not depend on the arguments is what `f` returns, not a literal of a jaxpr."""

    def f(x):
        return x, np.arange(3), 2.0, 3, True, 1j, None, "a", jnp.float32(2), jnp.ones(2)

    got, want = plain(f)(X), f(X)
    for a, b in zip(got, want, strict=True):
        assert type(a) is type(b)
        assert np.all(a == b)
    assert isinstance(plain(lambda x: jnp.zeros_like(x))(X), jax.Array)


def test_a_solver_that_transposes_a_rule():
    a = jnp.array([[3.0, 1.0], [1.0, 2.0]])

    def solve(matvec):
        return lambda b: jax.scipy.sparse.linalg.bicgstab(matvec, b)[0]

    @jax.custom_vjp
    def product(x):
        return a @ x

    product.defvjp(lambda x: (a @ x, None), lambda _, g: (a.T @ g,))
    b = jnp.array([1.0, 2.0])
    with pytest.raises(NotImplementedError, match=r"plain: .* transposes .*plain\(g\)"):
        plain(solve(product))(b)
    assert jnp.allclose(solve(plain(product))(b), jnp.linalg.solve(a, b))
    # an op of this package has a transpose of its own
    assert jnp.allclose(solve(lambda x: fnnet.matmul(a, x))(b), jnp.linalg.solve(a, b))


def test_a_derivative_taken_inside_keeps_the_rule():
    """As documented: plain has to be applied before the derivative is taken."""
    wrong = jax.custom_vjp(lambda x: x * x)
    wrong.defvjp(lambda x: (x * x, x), lambda x, g: (3 * x * g,))
    assert plain(jax.grad(wrong))(2.0) == 6
    assert jax.grad(plain(wrong))(2.0) == 4


def test_a_derivative_in_forward_mode_inside(key):
    """`jax.jvp` of a registered function is opened too: autodiff's derivative of it is found."""
    f = register(lambda x: jnp.sin(x) * x, lambda x: (jnp.sin(x) * x, x), lambda x, g: (7 * g,))
    x = jax.random.normal(key, (5,))

    def pushed(f):
        return lambda x: jnp.sum(jax.jvp(f, (x,), (x * x,))[1])

    want = jax.grad(pushed(lambda x: jnp.sin(x) * x))(x)
    for compiled in (False, True):
        plainly = plain(jax.jit(pushed(f)) if compiled else pushed(f))
        assert_close(jax.grad(plainly)(x), want)
