"""What a registered function may be called with."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fnnet.rules import Like, register
from tests.rules.textbook import agree, same


def scaled(x, s, *, times=1, mode="mul"):
    """x times s.

    A docstring.
    """
    return x * s * times if mode == "mul" else x / s


def scaled_fwd(x, s, *, times=1, mode="mul"):
    return scaled(x, s, times=times, mode=mode), (x, s)


def scaled_bwd(res, g, mode, times):
    x, s = res
    if mode == "mul":
        return g * s * times, (g * x).sum() * times
    return g / s, -(g * x).sum() / s**2


registered = register(scaled, scaled_fwd, scaled_bwd)


X = jnp.arange(1.0, 7.0).reshape(2, 3)


S = jnp.float64(1.5)


def test_identity_is_kept():
    assert registered.__name__ == "scaled"
    assert registered.__doc__ == scaled.__doc__
    assert registered.__module__ == scaled.__module__
    assert inspect.signature(registered) == inspect.signature(scaled)
    named = register(scaled, scaled_fwd, scaled_bwd, name="another")
    assert named.__name__ == named.__qualname__ == "another"
    assert "name=another" in str(jax.make_jaxpr(lambda x: named(x, S))(X))


@pytest.mark.parametrize(
    "call",
    [
        lambda f, x, s: f(x, s),
        lambda f, x, s: f(x, s=s),
        lambda f, x, s: f(s=s, x=x),
        lambda f, x, s: f(x, s, times=3),
        lambda f, x, s: f(x, s, mode="div"),
        lambda f, x, s: f(x, s, times=jnp.float64(2.0)),
        lambda f, x, s: f(x, s, times=np.float64(2.0)),
        lambda f, x, s: f(x, s, times=lax.stop_gradient(s)),
    ],
)
def test_calls(call):
    def loss(f):
        return lambda x, s: jnp.sin(call(f, x, s)).sum()

    agree(lambda f: jax.grad(loss(f), (0, 1))(X, S), registered, scaled)
    agree(lambda f: jax.grad(jax.jit(loss(f)), (0, 1))(X, S), registered, scaled)


def test_wrong_calls_name_the_op():
    with pytest.raises(TypeError, match=r"scaled: missing a required argument: 's'.*scaled\(x, s"):
        registered(X)
    with pytest.raises(TypeError, match=r"scaled: got an unexpected keyword argument 'huh'"):
        registered(X, S, huh=1)
    with pytest.raises(TypeError, match=r"scaled: too many positional arguments"):
        registered(X, S, 3)
    with pytest.raises(ValueError, match=r"scaled: static_argnames names \['huh'\].*\['x', 's'"):
        register(scaled, scaled_fwd, scaled_bwd, static_argnames=("huh",))
    with pytest.raises(ValueError, match=r"scaled: static_argnames names \['huh'\]"):
        register(scaled, scaled_fwd, scaled_bwd, static_argnames="huh")


def test_array_options_reach_the_backward_rule_of_a_traced_call():
    times = jnp.arange(1.0, 4.0)

    def loss(f):
        return lambda x, t: jnp.sin(f(x, S, times=t)).sum()

    for make in (
        lambda f: jax.grad(jax.jit(loss(f)))(X, times[0]),
        lambda f: jax.vmap(jax.grad(loss(f)), (None, 0))(X, times),
        lambda f: jax.grad(lambda x: jax.vmap(loss(f), (None, 0))(x, times).sum())(X),
        lambda f: jax.grad(lambda x: lax.scan(lambda c, t: (loss(f)(x, t) * c, t), S, times)[0])(X),
        lambda f: jax.grad(jax.checkpoint(loss(f)))(X, times[1]),
    ):
        agree(make, registered, scaled)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint])
@pytest.mark.parametrize("argnums", [1, (0, 1)])
def test_an_option_has_no_derivative(wrap, argnums):
    f = wrap(lambda x, t: registered(x, S, times=t).sum())
    for grad in (jax.grad(f, argnums), jax.jit(jax.grad(f, argnums))):
        with pytest.raises(TypeError, match=r"scaled: a derivative with respect to a keyword-only"):
            grad(X, 2.0)


def test_a_gradient_has_a_derivative_by_an_option():
    """JAX's own, of what the rules compute."""
    agree(
        lambda f: jax.grad(lambda t: jax.grad(lambda x: f(x, S, times=t).sum())(X).sum())(2.0),
        registered,
        scaled,
    )


def test_options_that_only_forward_takes_keep_their_defaults():
    """`jnp.multiply` has two, `out` and `where`, that no rule wants."""
    product = register(
        jnp.multiply, lambda x, y: (x * y, (x, y)), lambda r, g: (g * r[1], g * r[0])
    )
    assert jax.grad(product, (0, 1))(2.0, 3.0) == (3.0, 2.0)
    # JAX's next custom_vjp asks the function first, which has no `where` as yet
    with pytest.raises((TypeError, NotImplementedError), match="where"):
        jax.grad(product)(2.0, 3.0, where=True)

    def times(x, *, by=2.0):
        return by * x

    wanted = register(times, lambda x, *, by: (by * x, by), lambda by, g: (by * g,))
    assert jax.grad(wanted)(1.0) == 2.0
    assert jax.grad(wanted)(1.0, by=3.0) == 3.0


def test_integer_options_in_a_carry():
    def forward(x, *, i):
        return x * i.astype(x.dtype)

    rule = register(
        forward, lambda x, *, i: (forward(x, i=i), i), lambda i, g: (g * i.astype(g.dtype),)
    )

    def loss(f):
        def body(carry, _):
            x, i = carry
            return (jnp.sin(f(x, i=i)), i + 1), None

        return lambda x: lax.scan(body, (x, jnp.int32(1)), length=3)[0][0].sum()

    agree(lambda f: jax.grad(loss(f))(X), rule, forward)


def test_positional_defaults():
    def forward(x, w=X, c=None):
        return x * w if c is None else x * w + c

    rule = register(
        forward,
        lambda x, w, c: (forward(x, w, c), (x, w, c)),
        lambda res, g: (g * res[1], g * res[0], None if res[2] is None else g),
    )
    for args in [(X,), (X, X + 1), (X, X, X)]:
        at = tuple(range(len(args)))
        agree(
            lambda f, at=at, args=args: jax.grad(lambda *a: f(*a).sum(), at)(*args), rule, forward
        )


def test_var_positional_and_var_keyword():
    def forward(first, *rest, **scales):
        return first * sum(rest) * (scales.get("s", 1.0) + scales.get("t", 0.0))

    def fwd(first, *rest, **scales):
        return forward(first, *rest, **scales), (first, rest)

    def bwd(res, g, s=1.0, t=0.0):
        first, rest = res
        g = g * (s + t)
        return g * sum(rest), *(g * first for _ in rest)

    rule = register(forward, fwd, bwd)
    for rest in [(X,), (X, X + 2, X - 1)]:
        for options in ({}, {"s": 2.0}, {"s": S, "t": 3.0}):

            def grad(f, rest=rest, options=options):
                at = tuple(range(1 + len(rest)))
                return jax.grad(lambda *a: jnp.sin(f(*a, **options)).sum(), at)(X, *rest)

            agree(grad, rule, forward)
    wrong = register(forward, fwd, lambda res, g: (g, g))
    with pytest.raises(TypeError, match=r"3 cotangent\(s\), \(dfirst, drest\[0\], drest\[1\]\)"):
        jax.grad(lambda x: wrong(x, X, X).sum())(X)


def test_static_arguments():
    def forward(x, axis, kind, power=2):
        return (x**power).sum(axis) if kind == "sum" else (x**power).mean(axis)

    def fwd(x, axis, kind, power=2):
        return forward(x, axis, kind, power), x

    def bwd(x, g, axis, power, kind):
        n = 1 if kind == "sum" else x.shape[axis[0]]
        return (jnp.expand_dims(g, axis) * power * x ** (power - 1) / n,)

    rule = register(forward, fwd, bwd, static_argnames=("axis", "kind", "power"))
    # a static argument need not be hashable
    for axis, *rest in [([0], "sum", 2), ([1], "mean", 3)]:

        def loss(f, axis=axis, rest=rest):
            return lambda x: jnp.sin(f(x, axis, *rest)).sum()

        want = jax.grad(loss(lambda x, axis, *rest: forward(x, tuple(axis), *rest)))(X)
        same(jax.grad(loss(rule))(X), want)
        same(jax.jit(jax.grad(loss(rule)))(X), want)
        same(jax.grad(loss(lambda x, a, k, p: rule(x, axis=a, power=p, kind=k)))(X), want)
    # only x has a cotangent
    wrong = register(
        forward, fwd, lambda x, g: (x, None), static_argnames=("axis", "kind", "power")
    )
    with pytest.raises(TypeError, match=r"1 cotangent\(s\), \(dx,\)"):
        jax.grad(lambda x: wrong(x, (0,), "sum").sum())(X)


def test_values_that_are_no_arrays_need_no_declaration():
    def forward(x, activation, mode, n, flag, spec):
        y = activation(x) * n
        return y if flag and mode == "on" and spec.shape == (9,) else -y

    rule = register(
        forward,
        lambda x, *a: (forward(x, *a), (x, a)),
        lambda res, g: (
            jax.vjp(lambda x: forward(x, *res[1]), res[0])[1](g)[0],
            *(None for _ in res[1]),
        ),
    )
    spec = jax.ShapeDtypeStruct((9,), "float32")
    for others in [
        (jnp.sin, "on", 3, True, spec),
        (jnp.cos, np.str_("off"), 2, False, spec),
    ]:
        agree(lambda f, a=others: jax.grad(lambda x: f(x, *a).sum())(X), rule, forward)


def test_an_array_after_a_shape():
    """A `jax.ShapeDtypeStruct` among the arguments is not taken for an array."""

    def forward(x, like, w):
        return x * w

    rule = register(
        forward,
        lambda x, like, w: (x * w, (x, w)),
        lambda res, g: (g * res[1], None, g * res[0]),
    )
    like = jax.ShapeDtypeStruct((2, 3), "float32")
    got = jax.grad(lambda x, w: rule(x, like, w).sum(), (0, 1))(X, X + 1)
    same(got, (X + 1, X))


def test_integers_booleans_and_keys():
    def forward(x, index, mask, key):
        noise = jax.random.normal(key, x.shape[1:])
        return jnp.where(mask, x[index] + noise, 0.0)

    def fwd(x, index, mask, key):
        return forward(x, index, mask, key), (Like.of(x), index, mask)

    def bwd(res, g):
        like, index, mask = res
        dx = jnp.zeros(like.shape, like.dtype).at[index].add(jnp.where(mask, g, 0.0))
        return dx, None, np.zeros(mask.shape, jax.dtypes.float0), None

    rule = register(forward, fwd, bwd)
    index, mask, key = jnp.int32(1), jnp.array([True, False, True]), jax.random.key(3)

    def loss(f):
        return lambda x, *a: (f(x, *a) ** 2).sum()

    args = (X, index, mask, key)
    agree(lambda f: jax.grad(loss(f))(*args), rule, forward)

    indices, keys = jnp.array([0, 1, 1]), jax.random.split(key, 3)

    def compiled(f):
        def body(key, index):
            return jax.random.split(key)[0], jax.grad(loss(f))(X, index, mask, key)

        return {
            "jit": jax.grad(jax.jit(loss(f)))(*args),
            "checkpoint": jax.grad(jax.checkpoint(loss(f)))(*args),
            "vmap": jax.vmap(jax.grad(loss(f)), (None, 0, None, 0))(X, indices, mask, keys),
            "scan": lax.scan(body, key, indices)[1],
        }

    agree(lambda f: jax.jit(lambda: compiled(f))(), rule, forward)
    got = jax.grad(loss(rule), argnums=(0, 1), allow_int=True)(X, index, mask, key)
    assert got[1].dtype == jax.dtypes.float0


def test_complex_arguments():
    def forward(x, w):
        return x @ w

    rule = register(
        forward, lambda x, w: (x @ w, (x, w)), lambda res, g: (g @ res[1].T, res[0].T @ g)
    )
    x, w = lax.complex(X, X[::-1]), lax.complex(X, X - 2).T

    def loss(f):
        return lambda x, w: (jnp.abs(f(x, w)) ** 2).sum()

    agree(lambda f: jax.grad(loss(f), (0, 1))(x, w), rule, forward)
    agree(lambda f: jax.grad(lambda c: loss(f)(c, w))(x), rule, forward)
    number = register(
        lambda c, x: c * x, lambda c, x: (c * x, (c, x)), lambda r, g: ((g * r[1]).sum(), g * r[0])
    )
    agree(lambda f: jax.grad(lambda c: jnp.abs(f(c, x)).sum())(2 + 1j), number, lambda c, x: c * x)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_python_floats_are_differentiated(dtype):
    """A Python float takes the dtype of what it meets; its cotangent may come in that dtype."""
    x = X.astype(dtype)
    for mode in ("mul", "div"):

        def loss(f, mode=mode):
            return lambda x, s: f(x, s, mode=mode).sum()

        agree(lambda f: jax.grad(loss(f))(x, 1.5), registered, scaled)
        # of the sum, in x's dtype, autodiff and the rule round differently
        agree(lambda f: jax.grad(loss(f), 1)(x, 1.5), registered, scaled, 1e-2)


def test_an_array_is_no_number():
    wrong = register(scaled, scaled_fwd, lambda res, g: (None, jnp.float32(1)))
    with pytest.raises(TypeError, match=r"`s` must be float64\[\] like the argument.*float32\[\]"):
        jax.grad(lambda s: wrong(X, s).sum())(S)


def test_numpy_scalars_and_arrays():
    for s in (np.float64(2.0), np.array(2.0)):

        def grad(f, s=s):
            return jax.grad(lambda x, s: f(x, s).sum(), (0, 1))(np.asarray(X), s)

        agree(grad, registered, scaled)
