"""What JAX refuses, said with the name of the op and what to do."""

import dataclasses
import traceback
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import dtypes

import fnnet
from fnnet import register

square = register(
    lambda x: x * x,
    lambda x: (x * x, x),
    lambda x, g: (2 * x * g,),
    name="square",
    forward_mode=False,
)
through_rule = register(
    lambda x: x * x, lambda x: (x * x, x), lambda x, g: (2 * square(x) * g,), name="through_rule"
)
times = register(
    lambda s, p: p * s,
    lambda s, p: (p * s, s),
    lambda s, g: (g * s,),
    static_argnames="s",
    name="times",
)
X = np.ones(3)

FORWARD_MODE = {
    "jvp": lambda f: jax.jvp(f, (X,), (X,)),
    "jacfwd": lambda f: jax.jacfwd(lambda x: f(x))(X),
    "jit of jacfwd": lambda f: jax.jit(jax.jacfwd(lambda x: f(x)))(X),
    "vmap of jvp": lambda f: jax.vmap(lambda x: jax.jvp(f, (x,), (x,)))(X),
}


@pytest.mark.parametrize("mode", FORWARD_MODE)
def test_forward_mode(mode):
    """Of a function that is registered without it."""
    remedy = r"register\(\.\.\., forward_mode=True\).*fnnet\.plain\(square\)"
    with pytest.raises(TypeError, match=rf"(?s)^square: .*forward-mode.*{remedy}"):
        FORWARD_MODE[mode](square)
    with_it = jax.tree.leaves(FORWARD_MODE[mode](fnnet.relu))
    assert all(np.isfinite(x).all() for x in with_it)


def test_forward_mode_through_a_rule_that_calls_a_rule():
    with pytest.raises(TypeError, match=r"^through_rule: its backward rule .*square.*fnnet\.plain"):
        jax.hessian(lambda x: through_rule(x).sum())(X)


def test_a_derivative_by_a_static_argument():
    for f in (times, jax.jit(times)):
        with pytest.raises(TypeError, match=r"times: .* a static argument \(`s`\)"):
            jax.grad(f)(2.0, 3.0)


def test_a_traced_static_argument_is_no_more_than_that():
    """Not differentiated, it may be traced, and the jitted function has a gradient."""
    assert jax.jit(times)(2.0, 3.0) == 6
    assert jax.grad(jax.jit(times), 1)(2.0, 3.0) == 2
    assert jax.vmap(jax.grad(times, 1), (0, None))(jnp.arange(3.0), 3.0).tolist() == [0, 1, 2]
    scaled = register(
        lambda x, *, c: x * c,
        lambda x, *, c: (x * c, None),
        lambda res, g, c: (g * c,),
        static_argnames="c",
    )
    assert jax.jit(jax.grad(lambda x, c: scaled(x, c=c)))(1.0, 3.0) == 3


def test_a_derivative_by_what_is_closed_over():
    def f(s):
        times_s = register(
            lambda x: x * s, lambda x: (x * s, s), lambda s, g: (g * s,), name="by_s"
        )
        return times_s(2.0)

    with pytest.raises(TypeError, match=r"by_s: .* a closed-over value \(`s`\)"):
        jax.grad(f)(3.0)
    with pytest.raises(Exception, match="closed-over"):
        jax.grad(jax.jit(f))(3.0)
    assert jax.vmap(f)(jnp.arange(3.0)).tolist() == [0, 2, 4]


@dataclasses.dataclass
class Hidden:
    x: Any


class Plain:
    def __init__(self, x):
        self.x = x


HIDES = {"dataclass": Hidden, "object": Plain, "closure": lambda x: lambda: x}


@pytest.mark.parametrize("hides", HIDES)
@pytest.mark.parametrize("around", [jax.jit, jax.checkpoint])
def test_residuals_that_hide_traced_arrays(hides, around):
    def bwd(r, g):
        return (2 * (r() if hides == "closure" else r.x) * g,)

    f = register(lambda x: x * x, lambda x: (x * x, HIDES[hides](x)), bwd, name="hides")
    assert jax.grad(f)(3.0) == 6
    with pytest.raises(TypeError, match=r"hides: a residual .* `x`, where JAX cannot see it"):
        jax.grad(around(f))(3.0)


def test_a_float0_cotangent_is_described():
    zero = np.zeros(3, dtypes.float0)
    f = register(lambda x: x * x, lambda x: (x * x, x), lambda x, g: (zero,), name="zero")
    with pytest.raises(TypeError, match=r"zero: .* float0, .* return None"):
        jax.grad(lambda x: f(x).sum())(X)


def test_a_function_that_tells_no_parameters():
    with pytest.raises(ValueError, match="register: max does not tell its parameters"):
        register(max, lambda a: (a, a), lambda r, g: (g,))
    with pytest.raises(TypeError, match="register: forward must be a function; got 3"):
        register(3, lambda a: (a, a), lambda r, g: (g,))  # type: ignore[arg-type]


def test_a_transposed_function_is_found_in_the_traceback():
    """JAX's message names no function; where it was called, it shows, and the remedy."""
    with pytest.raises(NotImplementedError) as raised:
        jax.linear_transpose(square, X)(X)
    shown = "".join(traceback.format_exception(raised.value))
    assert "linear_transpose: see fnnet.plain" in shown


def test_a_transpose_of_what_is_not_linear():
    sine = register(jnp.sin, lambda x: (jnp.sin(x), x), lambda x, g: (g,))
    for op in (sine, jax.jit(sine)):
        with pytest.raises(NotImplementedError, match=r"^sin: its transpose .* linear"):
            jax.linear_transpose(op, X)(X)


def test_a_backward_rule_that_cannot_be_transposed():
    """It is said where a linear function is made of it; the other derivatives are right."""

    def bwd(x, g):
        return (jax.lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, s[1] * x), (0, g))[1],)

    cube = register(lambda x: x**3 / 3, lambda x: (x**3 / 3, x), bwd, name="cube")
    assert jax.grad(cube)(2.0) == 4
    assert jax.jvp(cube, (2.0,), (1.0,))[1] == 4
    with pytest.raises(NotImplementedError, match=r"cube: its linear part .*jax\.jvp.*plain"):
        jax.linearize(cube, 2.0)[1](1.0)


STAND_INS = {
    "ShapeDtypeStruct": (lambda: jax.ShapeDtypeStruct((3,), "float64"), "Give an array"),
    "Ref": (lambda: jax.new_ref(jnp.ones(3)), r"Give what it holds, [xb]\[...\]"),
}


@pytest.mark.parametrize("kind", STAND_INS)
@pytest.mark.parametrize("under", [lambda f: f, jax.jit], ids=["eagerly", "under jit"])
def test_what_stands_for_an_array_is_refused(kind, under):
    make, remedy = STAND_INS[kind]
    for op, f in {
        "square": square,
        "through_rule": lambda x: through_rule(x),
        "relu": fnnet.relu,
        "matmul": lambda x: fnnet.matmul(np.eye(3), b=x),
    }.items():
        x = make()
        with pytest.raises(TypeError, match=rf"^{op}: .*jax.{kind}.*{remedy}"):
            under(lambda f=f, x=x: f(x))()
    if kind == "Ref":
        with pytest.raises(TypeError, match=r"^relu: x .*jax.Ref"):
            jax.jit(fnnet.relu)(make())
        with pytest.raises(TypeError, match=r"^square: x .*jax.Ref"):
            jax.jit(square)(make())


def test_a_registered_function_may_take_a_ref():
    """JAX's own example: a cotangent is stashed on its way back."""

    def bwd(ref, g):
        ref[...] = g
        return None, g

    stash = register(lambda ref, x: x, lambda ref, x: (x, ref), bwd, name="stash")
    ref = jax.new_ref(jnp.zeros(3))
    jax.grad(lambda x: jnp.sum(stash(ref, x) * X * 2))(jnp.ones(3))
    assert np.all(ref[...] == 2)
