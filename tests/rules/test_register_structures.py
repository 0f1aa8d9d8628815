"""What a rule may take apart, return and keep: trees, several outputs, residuals of every kind."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnnet.rules import Like, Static, register
from tests.rules.textbook import agree, arguments, auto, same

X = jnp.arange(1.0, 7.0).reshape(2, 3)


class Pair(NamedTuple):
    a: jax.Array
    b: jax.Array | None


@functools.partial(jax.tree_util.register_dataclass, data_fields=["w"], meta_fields=["kind"])
@dataclasses.dataclass
class Layer:
    w: jax.Array
    kind: str


@jax.tree_util.register_pytree_node_class
class Opaque:
    """A pytree without ==."""

    def __init__(self, a):
        self.a = a

    def tree_flatten(self):
        return (self.a,), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


def _tree_op():
    def forward(params, state):
        w, b = params["pair"]
        y = params["layer"].w * w if b is None else params["layer"].w * w + b
        return {"y": y, "extra": (state[0] * 2.0, None, jnp.int32(3))}

    def fwd(params, state):
        return forward(params, state), params

    def bwd(params, g):
        w, b = params["pair"]
        gy, (ge, none, gi) = g["y"], g["extra"]
        assert none is None
        assert gi.dtype == jax.dtypes.float0
        dparams = {
            "layer": Layer(gy * w, params["layer"].kind),
            "pair": Pair((gy * params["layer"].w), None if b is None else gy),
            "name": None,
        }
        return dparams, [ge * 2.0, None, None]

    return forward, register(forward, fwd, bwd, name="tree")


@pytest.mark.parametrize("b", [None, X])
def test_pytrees(b):
    forward, rule = _tree_op()
    params = {"layer": Layer(X, "dense"), "pair": Pair(X * 2, b), "name": "net"}
    state = [X + 1, jnp.arange(2), None]

    def loss(f, which):
        def of(layer, w, extra):
            pair = Pair(w, b)
            out = f({"layer": layer, "pair": pair, "name": "net"}, [extra, *state[1:]])
            return {"y": (out["y"] ** 2).sum(), "extra": out["extra"][0].sum()}[which]

        return of

    args = (params["layer"], params["pair"].a, state[0])
    for which in ("y", "extra"):
        for wrap in (lambda f: f, jax.jit, jax.checkpoint):

            def grad(f, which=which, wrap=wrap):
                return jax.grad(wrap(loss(f, which)), (0, 1, 2))(*args)

            agree(grad, rule, forward)


def test_outputs():
    """Several outputs, of any structure, some integer, some without a cotangent."""

    def forward(x, w):
        y = x * w
        return Opaque({"y": y, "argmax": y.argmax(), "sum": (x.sum(), jnp.float32(1.0))})

    def fwd(x, w):
        return forward(x, w), (x, w)

    def bwd(res, g):
        x, w = res
        g = g.a
        assert g["argmax"].dtype == jax.dtypes.float0
        assert g["sum"][1].dtype == jnp.float32
        return g["y"] * w + jnp.broadcast_to(g["sum"][0], x.shape), g["y"] * x

    rule = register(forward, fwd, bwd)
    losses = (
        lambda out: out.a["y"].sum() ** 2,
        lambda out: out.a["sum"][0] ** 2,
        lambda out: out.a["y"][0, out.a["argmax"] % 3] * out.a["sum"][0],
        lambda out: out.a["sum"][1],
    )
    for loss in losses:
        for at in (0, 1, (0, 1)):

            def grad(f, loss=loss, at=at):
                return jax.grad(lambda x, w: loss(f(x, w)), at)

            agree(lambda f, grad=grad: grad(f)(X, X + 1), rule, forward)
            agree(lambda f, grad=grad: jax.vmap(grad(f))(X[None], X[None] + 1), rule, forward)


def test_key_as_output():
    def forward(x, key):
        return x * 2, jax.random.split(key)[0]

    rule = register(forward, lambda x, key: (forward(x, key), None), lambda _, g: (g[0] * 2, None))
    got = jax.grad(lambda x: rule(x, jax.random.key(0))[0].sum())(X)
    same(got, jnp.full_like(X, 2))


def test_residuals_of_every_kind():
    """Leaves that are not arrays come back as they were, even where jit stands between."""
    fixed = {"axis": -1, "name": "softmax", "shape": (2, 3), "dtype": np.dtype("float32")}

    def fwd(x):
        out = jnp.sin(x)
        res = (x, None, fixed, Like.of(x), Static([1]), np.arange(3), 2.5, jnp.sin, True, [{}, ()])
        return out, res

    def bwd(res, g):
        x, none, kept, like, static, array, number, function, flag, empty = res
        assert none is None
        assert kept == fixed
        assert isinstance(kept["axis"], int)
        assert like == Like((2, 3), np.dtype("float64"))
        assert static.value == [1]
        assert array.shape == (3,)
        assert number == 2.5
        assert flag is True
        assert empty == [{}, ()]
        return (function(x + np.pi / 2) * g,)

    rule = register(jnp.sin, fwd, bwd, name="sin")
    for f in (jax.grad(lambda x: rule(x).sum()), jax.grad(jax.jit(lambda x: rule(x).sum()))):
        same(f(X), jnp.cos(X))
        same(jax.jit(f)(X), jnp.cos(X))
        same(jax.vmap(f)(X[None]), jnp.cos(X)[None])


def test_a_vjp_function_may_be_the_residual():
    f = register(
        auto.lin, lambda x, w, b: jax.vjp(auto.lin, x, w, b), lambda pull, g: pull(g), name="lin"
    )
    for at in (0, 1, (0, 2), (0, 1, 2)):

        def grad(f, at=at):
            return jax.grad(lambda *a: jnp.sin(f(*a)).sum(), at)

        agree(lambda f, grad=grad: grad(f)(*arguments()), f, auto.lin)
        agree(lambda f, grad=grad: jax.jit(grad(f))(*arguments()), f, auto.lin)


def test_none_and_symbolic_zeros_as_cotangents():
    zero = jax.custom_derivatives.SymbolicZero
    rule = register(
        lambda x, y, z: x + 0 * y + 0 * z["a"],
        lambda x, y, z: (x + 0 * y + 0 * z["a"], None),
        lambda _, g: (g, zero(jax.typeof(g)), None),
    )
    got = jax.grad(lambda *a: rule(*a).sum(), (0, 1, 2))(X, X, {"a": X})
    same(got, (jnp.ones_like(X), jnp.zeros_like(X), {"a": jnp.zeros_like(X)}))


def test_python_numbers_as_cotangents():
    for dtype, number in [("float32", 2), ("float64", 2.5), ("bfloat16", 2.0), ("complex64", 1j)]:
        rule = register(lambda s: s * 1, lambda s: (s * 1, None), lambda _, g, n=number: (n,))
        out, pull = jax.vjp(rule, jnp.asarray(1, dtype))
        (got,) = pull(out)
        assert got.dtype == dtype
        assert got == jnp.asarray(number, dtype)


def test_no_arguments_at_all():
    rule = register(lambda: jnp.ones(3), lambda: (jnp.ones(3), None), lambda res, g: ())
    same(rule(), jnp.ones(3))
    same(jax.grad(lambda x: (x * rule()).sum())(jnp.ones(3)), jnp.ones(3))


def test_callables_of_other_kinds():
    """A partial, a bound method, a callable object and a jitted function may be registered."""

    class Cube:
        def __call__(self, x):
            return x**3

        def fwd(self, x):
            return x**3, x

        def bwd(self, x, g):
            return (3 * x**2 * g,)

    cube = Cube()
    partial = functools.partial(lambda k, x: x**k, 3)
    for forward in (cube, partial, jax.jit(lambda x: x**3)):
        rule = register(forward, jax.jit(cube.fwd), jax.jit(cube.bwd), name="cube")
        assert rule.__name__ == "cube"
        same(jax.grad(lambda x, f=rule: f(x).sum())(X), 3 * X**2)
