"""attention in forward mode, and reverse over forward: by hand, no matrix of weights is held."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnnet
from fnnet import attention
from fnnet.proof import reference as twin
from tests.compare import assert_close
from tests.marks import thorough
from tests.ops.test_memory import temp
from tests.ops.test_sequences import qkv


def _mask():
    mask = jax.random.bernoulli(jax.random.key(1), 0.6, (2, 1, 10, 12))
    return mask.at[0, 0, 3].set(False)  # this query sees nothing


@pytest.mark.parametrize("block", [None, 4])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_tangent_is_autodiffs_and_the_twins(masked, causal, block):
    args = qkv()
    dots = [jnp.cos(3 * a) for a in args]
    options = {"causal": causal, "mask": _mask() if masked else None}
    out, dot = jax.jvp(lambda *a: attention(*a, block=block, **options), args, dots)
    plain = fnnet.plain(attention)
    assert_close((out, dot), jax.jvp(lambda *a: plain(*a, block=block, **options), args, dots))
    if masked:
        options["mask"] = np.asarray(options["mask"])
    arrays = [np.asarray(a) for a in (*args, *dots)]
    assert_close(dot, jnp.asarray(twin.attention_jvp(*arrays, **options)))


@pytest.mark.parametrize("scale", [0.7, -0.7, 0.0])
def test_tangents_of_some_arguments_and_of_a_learned_scale(scale):
    args = (*qkv(), jnp.asarray(scale))
    plain = fnnet.plain(attention)
    for n in range(4):

        def of_one(f, n=n):
            g = lambda x: f(*args[:n], x, *args[n + 1 :])  # noqa: E731
            return jax.jvp(g, (args[n],), (jnp.cos(args[n]),))

        f, auto = (lambda q, k, v, s, h=h: h(q, k, v, scale=s, block=4) for h in (attention, plain))
        assert_close(of_one(f), of_one(auto))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_tangent_of_16_bits(dtype):
    """Against float64, at keys and values with much in common; never above autodiff's error."""
    q, k, v = qkv(1, 48, 48, 2, 2, 12, 12)
    args = [a.astype(dtype) for a in (q, k + 30, v + 30)]
    dots = [jnp.cos(3 * a) for a in args]
    push = lambda f, a, d: jax.jvp(f, a, d)[1].astype("float64")  # noqa: E731
    exact = push(fnnet.plain(attention), *jax.tree.map(lambda a: a.astype("float64"), (args, dots)))
    for block in (None, 16):
        hand, auto = (
            jnp.abs(push(lambda *a, f=f, b=block: f(*a, block=b), args, dots) - exact).max()
            for f in (attention, fnnet.plain(attention))
        )
        assert hand <= 1.5 * auto + jnp.abs(exact).max() * float(jnp.finfo(dtype).eps)


WHICH = {"all": (0, 1, 2, 3), "q": (0,), "k": (1,), "v": (2,), "scale": (3,), "q and v": (0, 2)}


def _of_tangent(f, which, **options):
    """Of arguments and tangents, what is made of a value and its tangent by some of them."""

    def loss(args, dots):
        def of_some(*some):
            full = list(args)
            for i, x in zip(which, some, strict=True):
                full[i] = x
            q, k, v, scale = full
            return f(q, k, v, scale=scale, **options)

        out, dot = jax.jvp(of_some, [args[i] for i in which], [dots[i] for i in which])
        return jnp.sum(jnp.sin(dot) * jnp.cos(out))

    return loss


def _args(scale=-0.7):
    args = (*qkv(), jnp.asarray(scale))
    return args, tuple(jnp.cos(3 * a) for a in args)


@pytest.mark.parametrize("block", [None, 4])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_gradient_of_what_is_made_of_a_tangent(masked, causal, block):
    options = {"causal": causal, "mask": _mask() if masked else None, "block": block}

    @jax.jit
    def both(args, dots):
        return [
            {n: jax.grad(_of_tangent(f, w, **options), (0, 1))(args, dots) for n, w in some.items()}
            for f in (attention, fnnet.plain(attention))
        ]

    some = WHICH if block == 4 and not causal else {"all": WHICH["all"]}
    assert_close(*both(*_args()))


@pytest.mark.parametrize("masked", [False, True])
def test_gradient_of_a_tangent_is_the_twins(masked):
    (q, k, v, scale), dots = _args()
    options = {"mask": _mask() if masked else None}

    def push(*args):
        f = lambda *a: attention(*a[:3], scale=a[3], block=4, **options)  # noqa: E731
        return jax.jvp(f, args[:4], args[4:])[1]

    out, pull = jax.vjp(push, q, k, v, scale, *dots)
    g = jnp.sin(5 * out)
    arrays = [np.asarray(a) for a in (q, k, v, *dots[:3], g)]
    options = {name: x if x is None else np.asarray(x) for name, x in options.items()}
    want = twin.attention_jvp_vjp(
        *arrays, scale=np.asarray(scale), dscale=np.asarray(dots[3]), **options
    )
    dq, dk, dv, dscale, *of_dots = pull(g)
    assert_close((dq, dk, dv, *of_dots[:3], dscale, of_dots[3]), tuple(map(jnp.asarray, want)))


THIRD = {
    "jvp of grad": lambda f, x, t: jax.jvp(jax.grad(f), (x, t), (t, x))[1],
    "grad of grad": lambda f, x, t: jax.grad(
        lambda x, t: sum(jnp.vdot(a, b) for a, b in zip(jax.grad(f)(x, t), t, strict=True)), (0, 1)
    )(x, t),
    "grad of jvp": lambda f, x, t: jax.grad(lambda *a: jax.jvp(f, a, (t, x))[1], (0, 1))(x, t),
    "jvp of jvp": lambda f, x, t: jax.jvp(lambda *a: jax.jvp(f, a, (t, x)), (x, t), (t, x)),
    "checkpoint": lambda f, x, t: jax.grad(jax.checkpoint(f), (0, 1))(x, t),
    "vmap": lambda f, x, t: jax.vmap(jax.grad(f), (None, 0))(
        x, jax.tree.map(lambda a: jnp.stack([a, -2 * a]), t)
    ),
}


@thorough
@pytest.mark.parametrize("block", [None, 4])
def test_third_derivatives(block):
    @jax.jit
    def both(args, dots):
        of = [
            _of_tangent(f, WHICH["all"], block=block) for f in (attention, fnnet.plain(attention))
        ]
        return [{name: made(f, args, dots) for name, made in THIRD.items()} for f in of]

    assert_close(*both(*_args()), 1e-11)


@pytest.mark.parametrize("block", [None, 4])
@pytest.mark.parametrize("of", ["q", "k", "v", "dq", "dk", "dv", "g"])
def test_what_is_hidden_leaves_no_trace(of, block):
    """Not even as NaN; what is seen does, in the tangent and in the gradient made of it."""
    args, dots = _args()
    every = dict(
        zip(("q", "k", "v", "scale", "dq", "dk", "dv", "dscale"), args + dots, strict=True)
    )
    every["g"] = jnp.ones((2, 10, 4, 5))

    def run(f, at):
        its = dict(every)
        if at is not None:
            its[of] = its[of].at[1, at, 0].set(jnp.nan)
        *primals, g = its.values()

        def push(*a):
            h = lambda q, k, v, s: f(q, k, v, scale=s, causal=True, block=block)  # noqa: E731
            return jax.jvp(h, a[:4], a[4:])[1]

        out, pull = jax.vjp(push, *primals)
        return out, pull(g)

    late = 9  # as a key it is seen by the last query alone
    (want, wants), (out, found) = run(attention, None), run(attention, late)
    assert_close(out[:, :late], want[:, :late])
    is_query = of in ("q", "dq", "g")
    if is_query:  # what another key head serves has no part in it
        assert_close(out[0], want[0])
        assert_close([found[i][0] for i in (0, 1, 2)], [wants[i][0] for i in (0, 1, 2)])
    else:
        assert_close([found[i][:, :late] for i in (0, 4)], [wants[i][:, :late] for i in (0, 4)])
    # where autodiff has NaN, for what is seen, so has this: no error is swallowed
    _, auto = run(fnnet.plain(attention), late)
    seen = [1, late] if is_query or of in ("k", "dk") else None
    if of != "g":
        assert jnp.isnan(out[1, late]).any()
    if seen:
        assert jnp.isnan(found[0][1, late]).any() or not jnp.isnan(auto[0][1, late]).any()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gradient_of_a_tangent_in_16_bits(dtype):
    """As `test_tangent_of_16_bits`."""
    q, k, v = qkv(1, 48, 48, 2, 2, 12, 12)
    args = [a.astype(dtype) for a in (q, k + 3, v + 3)]
    dots = [jnp.cos(3 * a) for a in args]

    def made(f, args, dots, block=None):
        def loss(args, dots):
            dot = jax.jvp(lambda *a: f(*a, block=block), args, dots)[1]
            return jnp.vdot(dot.astype("float64"), jnp.cos(jnp.arange(dot.size)).reshape(-1))

        return jax.tree.map(lambda a: a.astype("float64"), jax.grad(loss, (0, 1))(args, dots))

    wide = jax.tree.map(lambda a: a.astype("float64"), (args, dots))
    exact = jax.tree.leaves(made(fnnet.plain(attention), *wide))
    for block in (None, 16):
        hand, auto = (
            jax.tree.leaves(made(f, args, dots, block)) for f in (attention, fnnet.plain(attention))
        )
        for h, a, e in zip(hand, auto, exact, strict=True):
            bound = 1.5 * jnp.abs(a - e).max() + jnp.abs(e).max() * float(jnp.finfo(dtype).eps)
            assert jnp.abs(h - e).max() <= bound


def _needs(f, t):
    """The scratch memory of value and tangent, and of a gradient made of the tangent."""
    x = [jax.ShapeDtypeStruct((1, t, 4, 64), jnp.float32)] * 6
    push = lambda *a: jax.jvp(f, a[:3], a[3:])  # noqa: E731
    return temp(push, *x), temp(jax.grad(lambda *a: jnp.sum(push(*a)[1] ** 2), range(6)), *x)


def test_scratch_memory_grows_with_the_length_alone():
    small, middle, large = (_needs(attention, t) for t in (512, 1024, 2048))
    for i in range(2):
        assert large[i] - middle[i] <= 2.1 * (middle[i] - small[i])  # of squares it would be 4
    # two blocks of weights and a few arrays of the length of q, whatever the length
    auto = _needs(fnnet.plain(attention), 2048)
    assert large[0] <= auto[0]
    assert large[1] <= auto[1] / 10
