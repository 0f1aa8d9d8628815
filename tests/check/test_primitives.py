"""JAX's primitives in NumPy give what XLA gives, at edges too, but for the last digits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fnnet
from fnnet.check.case import primitives
from fnnet.check.case.interpret import Interpreted, TooLong, pays
from fnnet.check.case.modes import NATIVE, WIDE, Program
from fnnet.rules import gathered

EDGES = np.array([-np.inf, -1e300, -2.5, -1.0, -1e-300, -0.0, 0.0, 1e-9, 0.5, 1.5, 2.5, 1e300])
EDGES = np.concatenate([EDGES, [np.inf, np.nan]])
PAIRS = [x.ravel() for x in np.meshgrid(EDGES, EDGES)]
X = np.random.default_rng(0).normal(size=(3, 4, 5))
Z = X + 1j * np.random.default_rng(1).normal(size=X.shape)
COMPLEX = "abs conj cos cosh exp imag log neg real sin sinh square"
I = np.arange(-6, 6).reshape(3, 4)
B = X > 0

UNARY = (
    "abs cbrt ceil cos cosh exp exp2 expm1 floor is_finite log log1p logistic neg reciprocal rsqrt "
    "sign sin sinh sqrt square tan tanh"
)
BINARY = "add atan2 div eq ge gt le lt max min mul ne pow rem sub"


def _in_both_modes(x):
    """An op's value and what each of its modes makes of it."""

    def loss(x):
        return fnnet.mse(fnnet.lin(x[0], x[1].T), x[2, :, :4])

    return loss(x), jax.grad(loss)(x), jax.jvp(loss, (x,), (x,))[1]


CASES = {
    **{name: (getattr(lax, name), EDGES) for name in UNARY.split()},
    **{name: (getattr(lax, name), *PAIRS) for name in BINARY.split()},
    **{f"{name}, complex": (getattr(lax, name), Z) for name in COMPLEX.split()},
    **{
        f"{name}, complex": (getattr(lax, name), Z, Z[::-1])
        for name in ("add", "div", "mul", "sub")
    },
    **{
        f"{name}, integers": (getattr(lax, name), I, I[::-1])
        for name in ("add", "max", "min", "mul")
    },
    **{
        f"{name}, booleans": (getattr(lax, "bitwise_" + name), B, B[::-1])
        for name in ("and", "or", "xor")
    },
    "not": (lax.bitwise_not, B),
    "not, integers": (lax.bitwise_not, I),
    "complex": (lax.complex, X, X[::-1]),
    "integer powers": (lambda x: [lax.integer_pow(x, n) for n in (0, 1, 2, 3, 7, -1, -4)], EDGES),
    "round": (lambda x: lax.round(x, lax.RoundingMethod.TO_NEAREST_EVEN), EDGES),
    "round away": (lambda x: lax.round(x, lax.RoundingMethod.AWAY_FROM_ZERO), EDGES),
    "gathered": (lambda x: gathered(x, {0: 1}), X),
    "clamp": (lambda x: lax.clamp(-1.0, x, 2.0), EDGES),
    "to bool": (lambda x: x.astype(bool), EDGES),
    "to float": (lambda x: x.astype("float64"), I),
    "from bool": (lambda x: x.astype("float64"), B),
    "to integer": (lambda x: x.astype("int32"), EDGES),
    "complex to real": (lambda z: lax.real(z), Z),
    "sums": (lambda x: [x.sum(), x.sum(1), x.sum((0, 2)), x[:0].sum(0)], X),
    "products": (lambda x: [x.prod(), x.prod((0, 2)), x[:0].prod()], X),
    "largest": (lambda x: [x.max(), x.max(1), x.min((0, 2)), x.min()], X),
    "largest of edges": (lambda x: [x.max(), x[:-1].max(), x[:-1].min()], EDGES),
    "all, any": (lambda x: [x.all(1), x.any(0), x.all(), x.any()], B),
    "argmax": (lambda x: [x.argmax(1), x.argmin(0), x[:, 0].argmax(1)], X),
    "argmax of edges": (lambda x: [x.argmax(), x.argmin(), x[:-1].argmax()], EDGES),
    "cumulative": (
        lambda x: [lax.cumsum(x, 1), lax.cumsum(x, 2, reverse=True), lax.cumprod(x, 0)],
        X,
    ),
    "sort": (lambda x: [lax.sort(x, dimension=0), lax.sort((x, 2 * x), dimension=1)], X),
    "sort edges": (lambda x: lax.sort(x[::-1]), EDGES),
    "sort ties": (lambda x: lax.sort((jnp.round(x), x), dimension=0, num_keys=1), X),
    "shapes": (
        lambda x: [
            x.reshape(15, 4),
            x.transpose(2, 0, 1),
            x[:, :1].squeeze(1),
            x[1:, ::2, 3],
            jnp.flip(x, (0, 2)),
            lax.broadcast_in_dim(x[0], (4, 2, 5), (0, 2)),
            lax.expand_dims(x, (1,)),
            jnp.concatenate([x, x[:, :1]], 1),
            jnp.stack([x, x]),
        ],
        X,
    ),
    "pad": (
        lambda x: [
            lax.pad(x, 1.5, ((1, 2, 0), (0, 0, 2), (-1, 1, 1))),
            lax.pad(x, 0.0, ((-1, -1, 0), (2, -3, 1), (0, 0, 0))),
            lax.pad(x[:0], 2.0, ((1, 2, 3), (0, 0, 0), (0, 0, 0))),
        ],
        X,
    ),
    "iota": (lambda x: lax.broadcasted_iota("int32", (2, 3), 1) + x[0, 0, 0], X),
    "select": (lambda b, x: jnp.where(b, x, -x), B, X),
    "dynamic slices": (
        lambda x, i: [
            lax.dynamic_slice(x, (i[0, 0], i[1, 0], i[2, 3]), (2, 2, 2)),
            lax.dynamic_update_slice(x, x[:2, :2, :2], (i[2, 3], i[0, 0], i[1, 2])),
        ],
        X,
        I,
    ),
    "dots": (
        lambda x: [
            jnp.einsum("abc,abd->acd", x, x),
            jnp.einsum("abc,dbc->ad", x, x),
            jnp.einsum("abc,bd->adc", x, x[0]),
            x[0, 0] @ x[0, 0],
            jnp.einsum("abc,def->abcdef", x, x),
            x[:0, 0] @ x[0].T,
        ],
        X,
    ),
    "dots, complex": (lambda z: jnp.einsum("abc,dbc->ad", z, z), Z),
    "scan": (lambda x: lax.scan(lambda c, r: (c + r.sum(), c * r), 0.0, x), X),
    "scan backwards": (
        lambda x: lax.scan(lambda c, r: (c + r.sum(), c * r), 0.0, x, reverse=True),
        X,
    ),
    "scan of nothing": (lambda x: lax.scan(lambda c, r: (c, r), 0.0, x[:0]), X),
    "while": (
        lambda x: lax.while_loop(lambda c: c[1] < 50, lambda c: (c[0] * 1.1, c[1] + 1), (x, 0)),
        X,
    ),
    "cond": (
        lambda x: [lax.cond(x[0, 0, k] > 0, jnp.sin, jnp.cos, x) for k in range(4)],
        X,
    ),
    "switch": (
        lambda i, x: [lax.switch(i[k, 0], [jnp.sin, jnp.cos, jnp.tan], x) for k in range(3)],
        I,
        X,
    ),
    "map": (lambda x: lax.map(jnp.sin, x), X),
    "jit, checkpoint": (lambda x: jax.jit(jax.checkpoint(jnp.sin))(x) + 1, X),
    "barriers, and fnnet's own": (
        lambda x: [lax.optimization_barrier((x, 2 * x)), *_in_both_modes(x)],
        X,
    ),
    "rules that are left": (lambda x: [jax.nn.relu(x), jnp.logaddexp(x, x)], X),
    "what NumPy has not": (lambda x: [lax.erf(x), lax.lgamma(x)], X),
    "keys": (lambda x: x + jax.random.normal(jax.random.fold_in(jax.random.key(0), 3), ()), X),
    "vmap": (jax.vmap(lambda x: lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, x)), X),
    "hessian": (jax.hessian(lambda x: (jnp.tanh(x[0]) ** 3).sum() + jax.nn.logsumexp(x)), X),
}


@pytest.mark.parametrize("name", CASES)
def test_numpy_gives_what_xla_gives(name):
    f, *args = CASES[name]
    with WIDE.context(), np.errstate(all="ignore"):
        args = [jnp.asarray(x) for x in args]
        want = jax.tree.leaves(jax.jit(f)(*args))
        got = Interpreted(jax.make_jaxpr(f)(*args))(args)
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        b = np.asarray(b)
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        if b.dtype.kind in "fc":
            np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-300)
        else:
            np.testing.assert_array_equal(a, b)


def test_every_primitive_is_met_above():
    met = set()
    with WIDE.context():
        for f, *args in CASES.values():
            met |= _names(jax.make_jaxpr(f)(*map(jnp.asarray, args)))
    # the second names of two, and what AD leaves behind
    missing = (
        set(primitives.PRIMITIVES) - met - {"copy", "copy_p", "add_any", "stop_gradient", "empty2"}
    )
    assert not missing


def _names(jaxpr):
    from fnnet.check.case.host import equations

    return {eqn.primitive.name for eqn in equations(jaxpr)}


def test_what_pays():
    small = np.ones(100)

    def traced(f, x, mode=WIDE):
        with mode.context():
            return jax.make_jaxpr(f)(x)

    assert pays(traced(jnp.sin, small))
    assert not pays(traced(jnp.sin, np.ones(2_000_000)))
    # what rounds to fewer bits is the compiler's to round; moving such numbers about is not
    assert not pays(traced(lambda x: jnp.sin(x.astype("float32")), small))
    assert pays(traced(lambda x: jnp.sin(x.astype("float32").astype(x.dtype)), small))
    assert not pays(traced(lambda x: lax.fori_loop(0, 10**6, lambda i, c: c + 1, x), small))


def test_a_loop_that_goes_on_is_compiled():
    def f(x):
        return lax.while_loop(lambda c: c[1] < 10**5, lambda c: (c[0] + 1, c[1] + 1), (x, 0))[0]

    with WIDE.context(), pytest.raises(TooLong):
        Interpreted(jax.make_jaxpr(f)(1.0))([1.0])
    assert Program(f)(WIDE, np.float64(1.0)) == 1.0 + 10**5


def test_nothing_small_in_64_bits_is_compiled(compilations):
    program = Program(lambda x: jnp.tanh(x @ x.T).sum())
    with compilations() as counted:
        for _ in range(2):
            program(WIDE, X[0])
    assert counted() == 0
    with compilations() as counted:
        for _ in range(2):
            program(NATIVE, X[0].astype("float32"))
    assert counted() == 1
