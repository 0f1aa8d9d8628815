"""attention in forward mode: its tangent is derived by hand, and holds no matrix of weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnnet
from fnnet import attention
from fnnet.proof import reference as twin
from tests.compare import assert_close
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


def test_scratch_memory_grows_with_the_length_alone():
    def needs(t):
        x = jax.ShapeDtypeStruct((1, t, 4, 64), jnp.float32)
        return temp(lambda *a: jax.jvp(attention, a, a), x, x, x)

    small, middle, large = map(needs, (512, 1024, 2048))
    assert large - middle <= 2.1 * (middle - small)  # of squares it would be 4
