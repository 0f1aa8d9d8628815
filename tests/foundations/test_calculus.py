"""Rows E1-E5: derivatives by the limit, by rule and by machine; and through control flow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnnet
from tests.compare import assert_close

# E1: the limit


def f(x):
    """Slope 6x - 4: at 1 it is 2."""
    return 3 * x**2 - 4 * x


def quotient(f, x, h):
    return (f(x + h) - f(x)) / h


def test_E1_the_numerical_limit():
    """(f(1+h) - f(1)) / h is 2 + 3h exactly."""
    for k in range(1, 6):
        h = 10.0**-k
        assert quotient(f, 1.0, h) == pytest.approx(2 + 3 * h, abs=1e-10)
    seen = [f"{quotient(f, 1.0, 10.0**-k):.{k}f}" for k in range(1, 6)]
    assert seen == ["2.3", "2.03", "2.003", "2.0003", "2.00003"]
    assert float(jax.grad(f)(1.0)) == 2


def errors(dtype, powers):
    """Of the quotient at 1, by h = 10^-k, with every number in this dtype."""
    one, slope = dtype(1), 2
    return {k: abs(float(quotient(f, one, dtype(10.0**-k))) - slope) for k in powers}


def test_E1_why_small_steps_fail():
    """Truncation errs by 3h; rounding of f, of size eps, is divided by h. Between is the best h."""
    in64, in32 = errors(np.float64, range(1, 18)), errors(np.float32, range(1, 12))
    # large steps: both err alike, by 3h
    for k in (1, 2):
        assert in64[k] == pytest.approx(3 * 10.0**-k, rel=1e-3)
        assert in32[k] == pytest.approx(3 * 10.0**-k, rel=0.01)
    # small steps: the sum 1 + h is 1, the difference 0, and nothing is left of the slope
    assert in64[17] == in32[8] == 2
    # the best h is about √eps: 1e-8 in float64, 3e-4 in float32
    assert min(in64, key=in64.get) in (7, 8, 9)
    assert min(in32, key=in32.get) in (3, 4)
    assert min(in64.values()) < 1e-6
    assert min(in32.values()) > 1e-4
    # and on the way down there is no digit left
    assert in64[14] > 1e-3
    assert in32[7] > 0.1


def test_E1_jax_is_float32_unless_told():
    with jax.enable_x64(False):
        x = jnp.array([1.0])
        assert x.dtype == "float32"
        assert float(quotient(f, x, 1e-8)[0]) == 0  # wrong by all of it, and no warning
        assert float(jax.grad(lambda x: f(x).sum())(x)[0]) == 2


def test_E1_central_differences():
    """(f(x+h) - f(x-h)) / 2h errs by h² f'''/6: for a parabola not at all, but for rounding."""

    def central(f, x, h):
        return (f(x + h) - f(x - h)) / (2 * h)

    assert central(f, 1.0, 0.1) == pytest.approx(2, abs=1e-14)
    x = 0.7
    for h in (1e-1, 1e-2, 1e-3):
        error = central(np.sin, x, h) - np.cos(x)
        assert error == pytest.approx(-np.cos(x) * h**2 / 6, rel=0.01)
    # the best step grows to the third root of eps, and so does what it can see
    best = min(abs(central(np.sin, x, 10.0**-k) - np.cos(x)) for k in range(1, 12))
    assert best < 1e-10


# E2: partial derivatives, gradients, the chain rule


def test_E2_partial_derivatives_and_gradient(key):
    def g(x, y):
        return x**2 * y + jnp.sin(y)

    x, y = 1.5, -0.5
    assert_close(jax.grad(g, (0, 1))(x, y), (jnp.array(2 * x * y), x**2 + jnp.cos(y)))

    x = jnp.arange(4.0)
    y, dx = jax.value_and_grad(lambda x: 2 * jnp.dot(x, x))(x)
    assert float(y) == 28
    assert dx.tolist() == [0, 4, 8, 12]  # 4x
    assert jax.grad(jnp.sum)(x).tolist() == [1, 1, 1, 1]
    assert jax.grad(lambda x: (x * x).sum())(x).tolist() == [0, 2, 4, 6]

    # nothing is accumulated: a gradient is a value, not a field of x to be set to 0
    assert jax.grad(jnp.sum)(x).tolist() == [1, 1, 1, 1]

    # the gradient points where it rises fastest; along v it rises by their product
    v = jax.random.normal(key, (4,))
    rise = jax.jvp(lambda x: 2 * jnp.dot(x, x), (x,), (v,))[1]
    assert_close(rise, dx @ v)


def test_E2_chain_rule():
    """dy/dx = dy/du du/dx; with several u it is a sum over them, a product of Jacobians."""
    x = 0.7
    by_parts = jax.grad(jnp.sin)(x**2) * jax.grad(jnp.square)(x)
    assert float(jax.grad(lambda x: jnp.sin(x**2))(x)) == pytest.approx(float(by_parts), rel=1e-15)

    def u(x):
        return jnp.array([x[0] * x[1], jnp.sin(x[1]), x[0] ** 2])

    def y(u):
        return u[0] * u[2] + jnp.exp(u[1])

    x = jnp.array([0.5, -1.2])
    assert_close(jax.grad(lambda x: y(u(x)))(x), jax.grad(y)(u(x)) @ jax.jacobian(u)(x))


# E3: more than one number


def test_E3_backward_of_a_non_scalar():
    x = jnp.arange(4.0)
    with pytest.raises(TypeError, match="scalar-output"):
        jax.grad(lambda x: x * x)(x)

    y, vjp = jax.vjp(lambda x: x * x, x)
    assert y.tolist() == [0, 1, 4, 9]
    assert vjp(jnp.ones(4))[0].tolist() == [0, 2, 4, 6]  # of the sum of y
    assert vjp(jnp.array([0.0, 0, 1, 0]))[0].tolist() == [0, 0, 4, 0]  # of y[2]
    assert vjp(jnp.array([1.0, 10, 100, 1000]))[0].tolist() == [0, 20, 400, 6000]
    with pytest.raises((TypeError, ValueError), match="shape"):
        vjp(1.0)


def test_E3_jacobians(key):
    x = jnp.arange(4.0)
    jacobian = jax.jacrev(lambda x: x * x)(x)
    assert_close(jacobian, jnp.diag(2 * x))
    assert_close(jax.jacfwd(lambda x: x * x)(x), jacobian)

    # a vjp is a row of weights times the Jacobian, without the Jacobian being made
    a, w = jax.random.normal(key, (3, 4)), jnp.array([1.0, -2, 3])
    _, vjp = jax.vjp(lambda x: fnnet.matmul(a, x), x)
    assert_close(vjp(w)[0], w @ a)
    # and a gradient for each sample is a map over the gradient of one
    samples = jax.random.normal(key, (5, 4))
    each = jax.vmap(jax.grad(lambda x: jnp.dot(x, x)))(samples)
    assert_close(each, 2 * samples)


# E4: constants that depend on x


def test_E4_stop_gradient():
    x = jnp.arange(4.0)

    def z(x, constant):
        y = x * x
        u = lax.stop_gradient(y) if constant else y
        return (u * x).sum()

    assert jax.grad(z)(x, True).tolist() == [0, 1, 4, 9]  # u
    assert jax.grad(z)(x, False).tolist() == [0, 3, 12, 27]  # 3x²
    assert float(z(x, True)) == float(z(x, False))
    # y itself can still be differentiated
    assert jax.grad(lambda x: (x * x).sum())(x).tolist() == [0, 2, 4, 6]


def test_E4_one_argument_only():
    x, u = jnp.arange(4.0), jnp.arange(4.0) ** 2
    assert jax.grad(lambda x, u: (u * x).sum(), argnums=0)(x, u).tolist() == u.tolist()


# E5: control flow


def python_flow(a):
    """k a, where k depends on how far a is from 1000, and on its sign."""
    b = 2 * a
    while abs(b) < 1000:
        b = 2 * b
    return b if b > 0 else 100 * b


SOME = [0.6563, -0.3, 7.0, 999.0, -1e-3]


@pytest.mark.parametrize("a", SOME)
def test_E5_through_python(a):
    """Not compiled, Python runs on the numbers themselves, and what was done is differentiated."""
    value, slope = jax.value_and_grad(python_flow)(a)
    assert float(value) == python_flow(a)
    assert float(slope) == pytest.approx(python_flow(a) / a, rel=1e-15)
    if a == 0.6563:
        assert float(slope) == 2048


def test_E5_jit_refuses_python_control_flow():
    """Compiled once for all values, a function cannot ask which value it is."""
    with pytest.raises(jax.errors.TracerBoolConversionError, match="boolean"):
        jax.jit(python_flow)(0.5)
    with pytest.raises(jax.errors.TracerBoolConversionError):
        jax.vmap(python_flow)(jnp.array(SOME))


def step(b):
    return 2 * b


def unfinished(b):
    return abs(b) < 1000


def finished(b):
    return jnp.where(b > 0, b, 100 * b)


def while_flow(a):
    return finished(lax.while_loop(unfinished, step, 2 * a))


def scan_flow(a, steps=64):
    """As many steps for every a; those that are not needed change nothing."""

    def turn(b, _):
        return jnp.where(unfinished(b), step(b), b), None

    return finished(lax.scan(turn, 2 * a, length=steps)[0])


def cond_flow(a):
    b = lax.fori_loop(0, 64, lambda _, b: lax.cond(unfinished(b), step, lambda b: b, b), 2 * a)
    return lax.cond(b > 0, lambda b: b, lambda b: 100 * b, b)


def test_E5_while_loop_runs_forward_only():
    """How often it will turn is not known, so nothing can be set aside for the way back."""
    a = jnp.array(0.6563)
    assert float(jax.jit(while_flow)(a)) == python_flow(0.6563)
    with pytest.raises(ValueError, match="Reverse-mode differentiation does not work"):
        jax.grad(while_flow)(a)
    # forward mode needs no memory of the turns
    assert float(jax.jvp(while_flow, (a,), (jnp.ones(()),))[1]) == 2048
    assert float(jax.jacfwd(while_flow)(a)) == 2048


@pytest.mark.parametrize("flow", [scan_flow, cond_flow])
def test_E5_bounded_loops_can_be_differentiated(flow):
    many = jnp.array(SOME)
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(flow)))(many)
    assert values.tolist() == [python_flow(a) for a in SOME]
    assert_close(slopes, values / many)


def test_E5_a_bound_that_is_too_low_is_seen():
    assert float(scan_flow(jnp.array(1e-3), steps=3)) != python_flow(1e-3)


def test_E5_a_rule_by_hand_needs_no_bound():
    """As f(a) = k a, the derivative is f(a)/a: known on paper, it goes round any loop."""
    by_rule = fnnet.register(
        while_flow,
        lambda a: ((out := while_flow(a)), out / a),
        lambda k, g: (k * g,),
        name="while_flow",
    )
    many = jnp.array(SOME)
    slopes = jax.jit(jax.vmap(jax.grad(by_rule)))(many)
    assert_close(slopes, jax.vmap(jax.grad(scan_flow))(many))


def test_E5_where_is_no_way_round_a_nan():
    """Both sides are computed, and 0 times the slope of the other one may be NaN."""
    x = jnp.array(0.0)
    wrong = lambda x: jnp.where(x > 0, jnp.sqrt(x), 0.0)  # noqa: E731
    assert float(wrong(x)) == 0
    assert jnp.isnan(jax.grad(wrong)(x))
    safe = lambda x: jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1.0)), 0.0)  # noqa: E731
    assert float(jax.grad(safe)(x)) == 0
    assert float(jax.grad(lambda x: lax.cond(x > 0, jnp.sqrt, lambda x: 0 * x, x))(x)) == 0


REFUSED = {
    "an if": (
        lambda x: x[0] if x.sum() > 0 else x[1],
        jax.errors.TracerBoolConversionError,
        lambda x: jnp.where(x.sum() > 0, x[0], x[1]),
    ),
    "a Python number": (
        lambda x: x * float(x.sum()),
        jax.errors.ConcretizationTypeError,
        lambda x: x * x.sum(),
    ),
    "a NumPy function": (
        lambda x: np.sin(x),
        jax.errors.TracerArrayConversionError,
        lambda x: jnp.sin(x),
    ),
    "a range": (
        lambda x: sum(x[0] for _ in range(x.astype(int)[1])),
        jax.errors.TracerIntegerConversionError,
        lambda x: lax.fori_loop(0, x.astype(int)[1], lambda _, s: s + x[0], 0.0),
    ),
    "a shape that depends on values": (
        lambda x: x[x > 0].sum(),
        jax.errors.NonConcreteBooleanIndexError,
        lambda x: jnp.where(x > 0, x, 0.0).sum(),
    ),
    "an array as long as a value": (
        lambda x: jnp.arange(x.astype(int)[1]).sum(),
        jax.errors.ConcretizationTypeError,
        lambda x: jnp.where(jnp.arange(5) < x.astype(int)[1], jnp.arange(5), 0).sum(),
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_E5_what_jit_refuses_and_what_to_do(what):
    refused, error, instead = REFUSED[what]
    x = jnp.array([1.5, 3.0])
    with pytest.raises(error):
        jax.jit(refused)(x)
    want = jnp.asarray(refused(x))  # not compiled, it runs
    assert_close(jax.jit(instead)(x), want)


def test_E5_a_value_that_is_known_when_compiling():
    """A static argument is a constant: Python may look at it, and each value is compiled anew."""

    def power(x, n):
        for _ in range(n):
            x = x * x
        return x

    with pytest.raises(jax.errors.TracerIntegerConversionError):
        jax.jit(power)(2.0, 3)
    assert float(jax.jit(power, static_argnums=1)(2.0, 3)) == 256
    assert float(jax.grad(power)(2.0, 2)) == 32


def test_E5_side_effects_happen_once_and_tracers_do_not_escape():
    seen = []

    @jax.jit
    def leaky(x):
        seen.append(x)
        return 2 * x

    leaky(1.0)
    leaky(2.0)
    assert len(seen) == 1  # while compiling; later calls run the program, not the Python
    with pytest.raises(jax.errors.UnexpectedTracerError):
        seen[0] + 1
