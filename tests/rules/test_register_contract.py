"""A breach of the cotangent contract is an error that names the op, the argument and the remedy.

JAX itself lets several of these pass: it broadcasts a cotangent over a pytree's leaves, and takes a
cotangent of another float dtype.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnnet.rules import register


class Pair(NamedTuple):
    a: jax.Array
    b: jax.Array


X = jnp.ones((2, 3))
TREE = {"w": (X, {"b": X[0]}), "n": 3}


def scale(x, s):
    return x * s


def scale_fwd(x, s):
    return x * s, (x, s)


def grad_with(bwd, x=X, s=2.0, wrt=0, jit=False):
    op = register(scale, scale_fwd, bwd)

    def loss(x, s):
        return op(x, s).sum()

    return jax.grad(jax.jit(loss) if jit else loss, wrt)(x, s)


@pytest.mark.parametrize(("wrt", "jit"), [(0, False), (1, True), ((0, 1), False)])
@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        ((X,), TypeError, r"scale: .* 2 cotangent\(s\), \(dx, ds\), .* it returned 1"),
        ((X, 1.0, None), TypeError, r"scale: .* 2 cotangent\(s\), \(dx, ds\), .* it returned 3"),
        ((), TypeError, r"scale: .* 2 cotangent\(s\).* it returned 0"),
        (X, TypeError, r"scale: .* a tuple .* \(dx, ds\); it returned float64\[2,3\]"),
        (None, TypeError, r"scale: .* a tuple .* it returned None"),
        ({"x": X, "s": 1.0}, TypeError, r"scale: .* a tuple .* it returned dict of length 2"),
        ((X[0], 1.0), ValueError, r"`x` must be float64\[2,3\] .* gave float64\[3\]\. Sum over"),
        ((X[None], 1.0), ValueError, r"`x` must be float64\[2,3\] .* gave float64\[1,2,3\]"),
        ((X.T, 1.0), ValueError, r"`x` must be float64\[2,3\] .* gave float64\[3,2\]"),
        ((1.0, 1.0), ValueError, r"`x` must be float64\[2,3\] like the argument; .* gave 1\.0"),
        ((X, X), ValueError, r"`s` must be float64\[\] like the argument.*\(sum_to\)"),
        ((X.astype("float32"), 1.0), TypeError, r"`x` .* gave float32\[2,3\]\. Cast it .*astype"),
        ((X.astype("bfloat16"), 1.0), TypeError, r"scale: .* `x` .* gave bfloat16\[2,3\]"),
        ((X.astype("complex128"), 1.0), TypeError, r"`x` .* gave complex128\[2,3\]"),
        ((X.astype("int32"), 1.0), TypeError, r"`x` .* gave int32\[2,3\]"),
        ((X > 0, 1.0), TypeError, r"`x` .* gave bool\[2,3\]"),
        (
            (np.float32(1) * np.ones((2, 3), "float32"), 1.0),
            TypeError,
            r"`x` .* gave float32\[2,3\]",
        ),
        (((X, X), 1.0), TypeError, r"`x` must be float64\[2,3\] .* gave tuple of length 2"),
        (("huh", 1.0), TypeError, r"`x` must be float64\[2,3\] .* gave 'huh'"),
        ((X, 1j), TypeError, r"`s` must be float64\[\] like the argument; .* gave 1j"),
        ((X, True), TypeError, r"`s` must be float64\[\] like the argument; .* gave True"),
        ((X, jnp.complex128(1)), TypeError, r"`s` must be float64\[\] .* gave complex128\[\]"),
        ((X, jnp.int32(1)), TypeError, r"`s` must be float64\[\] .* gave int32\[\]"),
    ],
)
def test_breaches(returned, error, message, wrt, jit):
    """Whatever is asked for: a wrong cotangent is wrong also where nobody uses it."""
    with pytest.raises(error, match=message):
        grad_with(lambda res, g: returned, wrt=wrt, jit=jit)


def test_a_numpy_scalar_has_a_dtype():
    s = jnp.float32(2)
    with pytest.raises(TypeError, match=r"`s` must be float32\[\] .* gave float64\[\]"):
        grad_with(lambda res, g: (None, np.float64(1)), X.astype("float32"), s)


@pytest.mark.parametrize("s", [2, jnp.int32(2), True, np.True_])
def test_what_has_no_derivative_gets_none(s):
    kind = {int: "int", bool: "bool", np.bool_: r"bool\[\]"}.get(type(s), r"int32\[\]")
    message = (
        rf"scale: .* `s`, which is {kind} and has no derivative, must be None; .* gave float64"
    )
    with jax.numpy_dtype_promotion("standard"):
        with pytest.raises(TypeError, match=message):
            grad_with(lambda res, g: (g * 2, jnp.float64(1)), s=s)
        with pytest.raises(TypeError, match=r"`s`, .* must be None; .* gave 0"):
            grad_with(lambda res, g: (g * 2, 0), s=s)
        assert grad_with(lambda res, g: (g * 2, None), s=s).tolist() == [[2.0] * 3] * 2
        zero = np.zeros((), jax.dtypes.float0)
        assert grad_with(lambda res, g: (g * 2, zero), s=s).tolist() == [[2.0] * 3] * 2


def test_static_values_and_keys_get_none():
    op = register(
        lambda x, mode, key: x * 2,
        lambda x, mode, key: (x * 2, None),
        lambda _, g: (g * 2, g, None),
    )
    with pytest.raises(TypeError, match=r"`mode`, which is str and has no derivative"):
        jax.grad(lambda x: op(x, "m", jax.random.key(0)).sum())(X)
    op = register(lambda x, key: x * 2, lambda x, key: (x * 2, None), lambda _, g: (g * 2, g))
    with pytest.raises(TypeError, match=r"`key`, which is key<fry>\[\] and has no derivative"):
        jax.grad(lambda x: op(x, jax.random.key(0)).sum())(X)
    op = register(lambda x, b=None: x * 2, lambda x, b: (x * 2, None), lambda _, g: (g * 2, g))
    with pytest.raises(TypeError, match=r"`b` must have the argument's structure, .*None"):
        jax.grad(lambda x: op(x).sum())(X)


@pytest.mark.parametrize(
    ("dtree", "error", "message"),
    [
        (X, TypeError, r"`p` must have the argument's structure, .*'n'.*'w'.*gave PyTreeDef\(\*\)"),
        ({"w": None}, TypeError, r"`p` must have the argument's structure"),
        ({"w": X, "n": None}, TypeError, r"`p\['w'\]` must have the argument's structure"),
        (
            {"w": [X, {"b": None}], "n": None},
            TypeError,
            r"`p\['w'\]` .* structure, .* gave .*\(\[\*, \*\]\)",
        ),
        (
            {"w": (X, X[0]), "n": None},
            TypeError,
            r"`p\['w'\]\[1\]` must have the argument's struct",
        ),
        ({"w": (X, {"c": X[0]}), "n": None}, TypeError, r"`p\['w'\]\[1\]` .* structure.*'b'.*'c'"),
        (
            {"w": (X, {"b": X}), "n": None},
            ValueError,
            r"`p\['w'\]\[1\]\['b'\]` must be float64\[3\]",
        ),
        (
            {"w": (X.astype("float16"), None), "n": None},
            TypeError,
            r"tree: .* `p\['w'\]\[0\]` must be float64\[2,3\] .* gave float16",
        ),
        ({"w": None, "n": X}, TypeError, r"`p\['n'\]`, which is int and has no derivative"),
        ({"w": None, "n": None, "z": None}, TypeError, r"`p` must have the argument's structure"),
    ],
)
def test_breaches_in_a_tree(dtree, error, message):
    def forward(p):
        return p["w"][0] * p["n"] + p["w"][1]["b"][None]

    op = register(forward, lambda p: (forward(p), None), lambda _, g: (dtree,), name="tree")
    with pytest.raises(error, match=message):
        jax.grad(lambda x: op({"w": (x, {"b": X[0]}), "n": 3}).sum())(X)


def test_a_named_tuple_is_told_from_a_tuple():
    op = register(lambda p: p.a * p.b, lambda p: (p.a * p.b, None), lambda _, g: ((g, g),))
    with pytest.raises(TypeError, match=r"`p` must have .* structure, .*Pair.* gave .*\(\*, \*\)"):
        jax.grad(lambda p: op(p).sum())(Pair(X, X))


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (X, r"scale: the forward rule must return a pair \(out, res\); it returned Array"),
        ((X,), r"scale: the forward rule must return a pair \(out, res\); it returned tuple"),
        ((X, X, X), r"scale: the forward rule must return a pair"),
        (None, r"scale: the forward rule must return a pair .*NoneType"),
        (
            (X[0], None),
            r"scale: fwd must return what forward returns, float64\[2,3\].*float64\[3\]",
        ),
        ((X.astype("float32"), None), r"returns, float64\[2,3\], .* it returned float32\[2,3\]"),
        (((X, X), None), r"returns, PyTreeDef\(\*\), .* it returned PyTreeDef\(\(\*, \*\)\)"),
        (({"y": X}, None), r"scale: fwd must return what forward returns"),
        ((None, None), r"returns, PyTreeDef\(\*\), .* it returned PyTreeDef\(None\)"),
    ],
)
def test_breaches_of_the_forward_rule(pair, message):
    op = register(scale, lambda x, s: pair, lambda res, g: (g, None))
    with pytest.raises(TypeError, match=message):
        jax.grad(lambda x: op(x, 2.0).sum())(X)
    # nothing is wrong with the value
    assert op(X, 2.0).tolist() == [[2.0] * 3] * 2


def test_errors_of_the_rule_itself_come_through():
    def bwd(res, g):
        raise ZeroDivisionError("mine")

    for wrt in (0, (0, 1)):
        with pytest.raises(ZeroDivisionError, match="mine"):
            grad_with(bwd, wrt=wrt)
    with pytest.raises(TypeError, match="takes 1 positional argument but 2"):
        grad_with(lambda res: res)


def test_lists_of_cotangents_are_taken():
    assert grad_with(lambda res, g: [g * res[1], None]).tolist() == [[2.0] * 3] * 2


def test_an_array_as_cotangent_of_the_right_kind_from_numpy():
    got = grad_with(lambda res, g: (np.full((2, 3), 7.0), None))
    assert isinstance(got, jax.Array)
    assert got.tolist() == [[7.0] * 3] * 2
