"""attention, rnn, gru, rope: what is their own, beside the rows of the table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import fnnet
from fnnet import attention, gru, rnn, rope
from tests.compare import assert_close, loss_of
from tests.ops.test_memory import stored
from tests.rows.sequences import _attention as plain_attention

ALL = (0, 1, 2)


def qkv(n=2, t=10, s=12, heads=4, kv_heads=2, d=3, e=5, dtype="float64"):
    k1, k2, k3 = jax.random.split(jax.random.key(5), 3)
    shapes = ((k1, (n, t, heads, d)), (k2, (n, s, kv_heads, d)), (k3, (n, s, kv_heads, e)))
    return [jax.random.normal(k, shape, dtype) for k, shape in shapes]


def both(f):
    return jax.value_and_grad(loss_of(f), ALL)


@pytest.mark.parametrize("block", [1, 3, 4, 12, 100, None])
@pytest.mark.parametrize("causal", [False, True])
def test_any_block_gives_the_same(block, causal):
    args = qkv()
    assert_close(
        both(lambda *a: attention(*a, causal=causal, block=block))(*args),
        both(lambda *a: plain_attention(*a, causal=causal))(*args),
    )


@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 12), (2, 1, 10, 1), (1, 4, 10, 12), (2, 4, 1, 12), (1, 1, 1, 1)]
)
@pytest.mark.parametrize("causal", [False, True])
def test_masks_of_every_shape(shape, causal):
    args = qkv()
    mask = jax.random.bernoulli(jax.random.key(1), 0.6, shape)
    assert_close(
        both(lambda *a: attention(*a, mask=mask, causal=causal, block=4))(*args),
        both(lambda *a: plain_attention(*a, mask=mask, causal=causal))(*args),
    )


def test_a_query_that_may_look_nowhere():
    q, k, v = qkv()
    mask = jnp.ones((1, 1, 10, 12), bool).at[0, 0, 3].set(False)
    out, vjp = jax.vjp(lambda *a: attention(*a, mask=mask, block=4), q, k, v)
    assert (out[:, 3] == 0).all()
    dq, dk, dv = vjp(jnp.ones_like(out))
    assert (dq[:, 3] == 0).all()
    for d in (dq, dk, dv):
        assert np.isfinite(d).all()
    assert np.isfinite(jax.hessian(lambda q: attention(q, k, v, mask=mask).sum())(q)).all()


def test_nothing_to_look_at():
    q, k, v = qkv(s=0)
    assert (attention(q, k, v) == 0).all()
    assert [d.shape for d in both(attention)(q, k, v)[1]] == [a.shape for a in (q, k, v)]


def test_large_logits_do_not_overflow():
    q, k, v = qkv()
    args = (1e4 * q, k, v)
    assert_close(both(lambda *a: attention(*a, block=4))(*args), both(plain_attention)(*args))


def test_the_weights_are_never_held():
    """A sixth of the plain form's scratch memory at 2,048 positions: compiled, not run."""
    shape = jax.ShapeDtypeStruct((1, 2048, 4, 64), jnp.float32)

    def temp(f, **options):
        g = jax.grad(lambda *a: (f(*a, **options) ** 2).sum(), ALL)
        return jax.jit(g).lower(shape, shape, shape).compile().memory_analysis().temp_size_in_bytes

    for causal in (False, True):
        assert temp(attention, causal=causal) <= temp(plain_attention, causal=causal) / 6
    stored = fnnet.memory.residuals(attention, shape, shape, shape)
    # o, and two numbers for each query
    assert stored.stored == (64 + 2) * 4 * 2048 * 4


def test_grouped_heads_are_repeated_keys():
    q, k, v = qkv()
    repeated = attention(q, jnp.repeat(k, 2, 2), jnp.repeat(v, 2, 2))
    assert_close(attention(q, k, v), repeated)


@pytest.mark.parametrize(("op", "gates"), [(rnn, 1), (gru, 3)])
def test_weight_gradients_are_one_product(op, gates):
    """Not one a step: the loop of the backward pass has a single product in it."""
    t, n, i, h = 7, 2, 3, 4
    shapes = [(t, n, i), (n, h), (i, gates * h), (h, gates * h), (gates * h,)]
    args = [jnp.ones(s) for s in shapes]
    jaxpr = jax.make_jaxpr(jax.grad(lambda *a: op(*a).sum(), tuple(range(5))))(*args)
    loops = [e for e in _equations(jaxpr.jaxpr) if e.primitive.name == "scan"]
    inside = [
        sum(e.primitive.name == "dot_general" for e in _equations(loop.params["jaxpr"].jaxpr))
        for loop in loops
    ]
    assert inside == [1, 1]


def _equations(jaxpr):
    for e in jaxpr.eqns:
        yield e
        if e.primitive.name != "scan":
            for p in jax.tree.leaves(
                list(e.params.values()), is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")
            ):
                inner = getattr(p, "jaxpr", p)
                if hasattr(inner, "eqns"):
                    yield from _equations(inner)


def test_the_state_goes_on():
    """Two halves one after the other are the whole."""
    ks = jax.random.split(jax.random.key(0), 5)
    shapes = [(6, 2, 3), (2, 4), (3, 12), (4, 12), (12,)]
    x, h0, wx, wh, b = (jax.random.normal(k, s) for k, s in zip(ks, shapes, strict=True))
    whole = gru(x, h0, wx, wh, b)
    first = gru(x[:3], h0, wx, wh, b)
    second = gru(x[3:], first[-1], wx, wh, b)
    np.testing.assert_allclose(jnp.concatenate([first, second]), whole, rtol=1e-12)


def test_no_step_at_all():
    x, h0, w = jnp.ones((0, 2, 3)), jnp.ones((2, 4)), jnp.ones
    assert rnn(x, h0, w((3, 4)), w((4, 4)), w(4)).shape == (0, 2, 4)
    dh0 = jax.grad(lambda h0: gru(x, h0, w((3, 12)), w((4, 12)), w(12)).sum())(h0)
    assert (dh0 == 0).all()


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("spec", [P("d"), P()], ids=["keys cut", "keys whole"])
def test_blocks_inside_shard_map(check_vma, spec):
    """The loop over blocks begins with zeros, which vary over no axis; what it adds does."""
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
    q, k, v = qkv(n=2 if spec == P("d") else 1, heads=2)
    q = jnp.concatenate([q, q + 1])[:2]

    def gradients(f):
        def loss(*args):
            return jax.lax.psum(jnp.sin(f(*args)).sum(), "d")

        specs = (P("d"), spec, spec)
        mapped = jax.shard_map(loss, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=check_vma)
        return jax.jit(jax.value_and_grad(mapped, ALL))(q, k, v)

    got = gradients(lambda *a: attention(*a, causal=True, block=4))
    assert_close(got, gradients(lambda *a: plain_attention(*a, causal=True)))


def test_the_result_is_sharded_as_the_first_argument():
    """On a mesh of explicit axes, on the leading axes they share."""
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Explicit,))
    q, k, v = (jax.device_put(a, NamedSharding(mesh, P("d"))) for a in qkv())
    assert jax.typeof(jax.jit(attention)(q, k, v)).sharding.spec == P("d", None, None, None)
    x = jax.device_put(jnp.ones((3, 2, 4)), NamedSharding(mesh, P(None, "d")))
    h0 = jax.device_put(jnp.ones((2, 5)), NamedSharding(mesh, P("d")))
    w = [jax.device_put(jnp.ones(s), NamedSharding(mesh, P())) for s in ((4, 5), (5, 5), (5,))]
    assert jax.typeof(jax.jit(rnn)(x, h0, *w)).sharding.spec == P(None, "d", None)


@pytest.mark.parametrize(
    ("op", "gates", "sizes"), [(rnn, 1, (9, 25, 30, 10)), (gru, 3, (3, 8, 30, 10))]
)
def test_second_derivatives_in_float16(op, gates, sizes):
    """Cotangents of states pass 65504 on their way to a unit whose slope is 0, and inf 0 is NaN."""
    large_w, large_x, large_g, large_t = sizes

    def hessian_product(args, g, tangents):
        def gradient(args):
            return jax.grad(lambda args: jnp.sum(op(*args) * g))(args)

        return jax.vjp(gradient, args)[1](tangents)[0]

    product, seen = jax.jit(hessian_product), 0
    for seed in range(12):
        ks = jax.random.split(jax.random.key(seed), 11)
        shapes = [(5, 4, 3), (4, 6), (3, gates * 6), (6, gates * 6), (gates * 6,)]
        large = (large_x, 1, large_w, large_w, 1)
        args, tangents = (
            tuple(
                (jax.random.normal(k, s, "float32") * c).astype("float16")
                for k, s, c in zip(keys, shapes, by, strict=True)
            )
            for keys, by in ((ks[:5], large), (ks[5:10], (large_t,) * 5))
        )
        g = (jax.random.normal(ks[10], (5, 4, 6), "float32") * large_g).astype("float16")
        wide = jax.tree.map(lambda a: a.astype("float32"), (args, g, tangents))
        want = product(*wide)
        if max(float(jnp.abs(w).max()) for w in want) < 1e4:
            seen += 1
            assert all(jnp.isfinite(h).all() for h in product(args, g, tangents))
    assert seen >= 3


def test_residuals_by_name():
    shapes = [(5, 4, 3), (4, 6), (3, 18), (6, 18), (18,)]
    args = [jnp.ones(s) for s in shapes]
    policy = jax.checkpoint_policies.save_only_these_names(*(f"fnnet.gru.{k}" for k in "hrznu"))
    saved = stored(jax.checkpoint(gru, policy=policy), *args)
    assert saved == stored(gru, *args) == 5 * 5 * 4 * 6 * 8


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotated_products_depend_on_distances_alone(interleaved, key):
    q, k = (jax.random.normal(x, (6, 2, 8)) for x in jax.random.split(key))
    at = jnp.array([0, 3, 4, 9, 100, 101])

    def products(shift):
        turned = (rope(x, at + shift, interleaved=interleaved) for x in (q, k))
        return jnp.einsum("thd,shd->hts", *turned)

    assert_close(products(1000), products(0), 1e-10)
    assert_close(rope(q, 0 * at, interleaved=interleaved), q)
    assert jnp.abs(products(0) - jnp.einsum("thd,shd->hts", q, k)).max() > 0.1


def test_the_two_pairings_of_rope_are_one_up_to_the_order_of_features(key):
    x = jax.random.normal(key, (5, 2, 6))
    order = jnp.array([0, 3, 1, 4, 2, 5])  # of halves, as neighbours
    halves = rope(x, jnp.arange(5))
    neighbours = rope(x[..., order], jnp.arange(5), interleaved=True)
    assert_close(neighbours, halves[..., order])


def test_rope_stores_nothing(key):
    """Counted positions are made where they are needed; float ones, and x for them, are given."""
    x = jax.random.normal(key, (4, 16, 2, 8), "float32")
    at = jnp.linspace(0, 1, 16, dtype="float32")
    assert stored(lambda x: rope(x, jnp.arange(16)), x) <= 16 * 8  # the positions
    assert stored(rope, x, at) == 0
    assert stored(lambda x: rope(x, at), x) == 0


def test_positions_may_be_traced(key):
    """One step of decoding: where it is, is known when the program runs."""
    x = jax.random.normal(key, (3, 1, 2, 8))
    step = jax.jit(lambda x, at: jax.value_and_grad(lambda x: jnp.sin(rope(x, at)).sum())(x))
    for at in (0, 7):
        whole = jnp.broadcast_to(x, (3, 9, 2, 8))
        assert_close(step(x, jnp.array([at]))[0], jnp.sin(rope(whole, jnp.arange(9))[:, at]).sum())


def test_a_traced_base_is_a_number(key):
    x = jax.random.normal(key, (5, 2, 8))
    got = jax.jit(lambda b: rope(x, jnp.arange(5), base=b))(500.0)
    assert_close(got, rope(x, jnp.arange(5), base=500.0))
