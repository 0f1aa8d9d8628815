"""attention: what is hidden, what is saved, sizes that are symbolic or nothing, learned scales."""

import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.ad_checkpoint import checkpoint_policies

import fnnet
from fnnet import attention
from fnnet.proof import reference as twin
from tests.compare import assert_close, loss_of
from tests.ops.test_memory import temp
from tests.ops.test_sequences import both, qkv
from tests.rows.sequences import _attention as plain_attention

ALL = (0, 1, 2)


def _textbook(q, k, v):
    z = jnp.einsum("nthd,nshd->nhts", q, k) / math.sqrt(q.shape[-1])
    return jnp.einsum("nhts,nshe->nthe", jax.nn.softmax(z, -1), v)


MASKS = {
    "causal": (True, None),
    "keys": (False, (2, 1, 1, 12)),
    "pairs": (False, (2, 1, 10, 12)),
    "pairs of each head, causal": (True, (1, 4, 10, 12)),
}


@pytest.mark.parametrize("block", [None, 4])
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("where", ["q", "k", "v", "g"])
def test_what_is_hidden_leaves_no_trace(kind, where, block, key):
    """NaN in one position: the twin looks at each query's own keys alone, one after the other."""
    causal, shape = MASKS[kind]
    mask = None if shape is None else np.array(jax.random.bernoulli(key, 0.5, shape))
    args = dict(zip("qkv", qkv(), strict=True))
    args["g"] = jax.random.normal(key, (2, 10, 4, 5))
    args[where] = args[where].at[1, 6].set(jnp.nan)
    q, k, v, g = args.values()

    out, vjp = jax.vjp(lambda *a: attention(*a, causal=causal, mask=mask, block=block), q, k, v)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = [np.asarray(a) for a in (q, k, v)]
        want = twin.attention(*given, causal=causal, mask=mask)
        cotangents = twin.attention_vjp(*given, np.asarray(g), causal=causal, mask=mask)
    assert_close((out, *vjp(g)), (want, *cotangents))


@pytest.mark.parametrize("block", [None, 64])
def test_the_last_of_300_spoils_itself_alone(block):
    q, k, v = qkv(1, 300, 300, 2, 2)
    out = attention(q, k, v.at[:, 299].set(jnp.inf), causal=True, block=block)
    assert np.isfinite(out[:, :299]).all()
    assert np.isinf(out[:, 299]).all()


def test_logits_that_overflow_are_not_hidden():
    """NaN, never a silent zero."""
    q, k, v = qkv(dtype="float32")
    for mask in (None, jnp.ones((10, 12), bool)):
        f = lambda *a, m=mask: attention(*a, mask=m, block=4)  # noqa: E731
        out, vjp = jax.vjp(f, jnp.abs(1e25 * q), -jnp.abs(1e25 * k), v)
        assert jnp.isnan(out).all()
        assert all(jnp.isnan(d).all() for d in vjp(jnp.ones_like(out)))


def test_leading_axes():
    """None of them, or two, and masks of as few axes as there is need for."""
    q, k, v = qkv(n=6)
    mask = jax.random.bernoulli(jax.random.key(1), 0.6, (10, 12))
    whole = both(lambda *a: attention(*a, mask=mask))(q, k, v)
    two = [a.reshape(2, 3, *a.shape[1:]) for a in (q, k, v)]
    for m in (mask, mask[None], jnp.broadcast_to(mask, (2, 1, 1, 10, 12))):
        value, grads = both(lambda *a, m=m: attention(*a, mask=m, block=4))(*two)
        grads = [g.reshape(a.shape) for g, a in zip(grads, (q, k, v), strict=True)]
        assert_close((value, tuple(grads)), whole)
    assert_close(attention(q[0], k[0], v[0], mask=mask), attention(q, k, v, mask=mask)[0])
    assert_close(
        jax.vmap(lambda *a: attention(*a, mask=mask))(q, k, v), attention(q, k, v, mask=mask)
    )


@pytest.mark.parametrize("block", [None, 4])
def test_a_learned_scale(block):
    args = (*qkv(), jnp.asarray(0.7))

    def of_four(f, **options):
        g = lambda *a: f(*a[:3], causal=True, scale=a[3], **options)  # noqa: E731
        return jax.value_and_grad(loss_of(g), (0, 1, 2, 3))

    f, auto = of_four(attention, block=block), of_four(plain_attention)
    assert_close(f(*args), auto(*args))
    q, k, v, scale = args
    second, auto = (
        jax.hessian(lambda s, f=f: jnp.sin(f(q, k, v, scale=s)).sum())(scale)
        for f in (lambda *a, **o: attention(*a, block=block, **o), plain_attention)
    )
    assert_close(second, auto, 1e-10)


EMPTY = [
    ((2, 0, 2, 2), (2, 3, 2, 2)),
    ((2, 3, 2, 2), (2, 0, 2, 2)),
    ((2, 0, 2, 2), (2, 0, 2, 2)),
    ((2, 3, 0, 2), (2, 3, 1, 2)),
    ((2, 3, 0, 2), (2, 3, 0, 2)),
    ((0, 3, 2, 2), (0, 3, 2, 2)),
    ((2, 3, 2, 0), (2, 4, 2, 0)),
]


@pytest.mark.parametrize("shapes", EMPTY)
@pytest.mark.parametrize("features", [0, 3])
def test_empty_axes(shapes, features):
    q, k = (jnp.ones(s) for s in shapes)
    v = jnp.ones((*k.shape[:-1], features))
    mask = jnp.ones((1, 1, q.shape[1], k.shape[1]), bool)
    for options in ({}, {"mask": mask, "block": 2}, {"mask": mask, "causal": True}):
        out, vjp = jax.vjp(lambda *a, o=options: attention(*a, **o), q, k, v)
        assert out.shape == (*q.shape[:-1], features)
        assert (out == (1 if k.size or not k.shape[-1] else 0)).all()
        for ct, a in zip(vjp(out), (q, k, v), strict=True):
            assert ct.shape == a.shape
            assert np.isfinite(ct).all()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("keys", ["t", "s"])
def test_symbolic_lengths(keys, causal):
    """One exported gradient, of any number of positions: fewer than a block, or several blocks."""
    scope = export.SymbolicScope()
    shapes = ("n, t, 4, 3", f"n, {keys}, 2, 3", f"n, {keys}, 2, 5", f"t, {keys}")
    specs = [
        jax.ShapeDtypeStruct(export.symbolic_shape(s, scope=scope), dtype)
        for s, dtype in zip(shapes, ["float32"] * 3 + ["bool"], strict=True)
    ]

    def gradient(q, k, v, mask):
        f = lambda *a: attention(*a, mask=mask, causal=causal, block=4)  # noqa: E731
        return jax.grad(loss_of(f), ALL)(q, k, v)

    again = export.export(jax.jit(gradient))(*specs)
    for t, s in ((3, 3), (9, 9)) if keys == "t" else ((3, 9), (9, 2)):
        args = qkv(2, t, s, dtype="float32")
        mask = jax.random.bernoulli(jax.random.key(0), 0.7, (t, s))
        assert_close(again.call(*args, mask), gradient(*args, mask), 1e-5)


@pytest.mark.parametrize(
    ("shape", "kv_heads"), [((2, 64, 4, 32), 4), ((2, 256, 4, 32), 2), ((1, 512, 8, 64), 8)]
)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scratch_memory_straight_line(shape, kv_heads, causal, dtype):
    """A value and its gradient, once: not above autodiff's of the same text, nor of the usual.

    The usual text rounds dp to bfloat16, in half the bytes, and dq loses its digits with it: of
    one block in bfloat16 it needs less, by up to a fifth.
    """
    q = jax.ShapeDtypeStruct(shape, dtype)
    k = jax.ShapeDtypeStruct((*shape[:2], kv_heads, shape[-1]), dtype)

    def needs(f):
        return temp(jax.value_and_grad(lambda *a: (f(*a, causal=causal) ** 2).sum(), ALL), q, k, k)

    hand = needs(attention)
    assert hand <= needs(fnnet.plain(attention))
    if dtype == "float32":
        two_numbers = 8 * math.prod(shape[:-1])  # for each query
        assert hand <= needs(plain_attention) + two_numbers


POLICIES = ["nothing_saveable", "dots_saveable", "dots_with_no_batch_dims_saveable"]


def _saved(f, policy, *args):
    f = jax.checkpoint(f, policy=policy)
    kept = jax.make_jaxpr(lambda *a: jax.tree.leaves(jax.vjp(f, *a)[1]))(*args).jaxpr.outvars
    return [v.aval for v in kept]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("block", [None, 4])
def test_no_policy_saves_logits(policy, block):
    """Their blocks are products, and "save the products" must not mean them: here of 10 x 12."""
    args = qkv()
    f = lambda *a: jnp.sin(attention(*a, block=block))  # noqa: E731
    most = max(a.size for a in (*args, attention(*args)))
    saved = _saved(f, getattr(checkpoint_policies, policy), *args)
    assert max(a.size for a in saved) <= most < 2 * 4 * 10 * 12


def _products(f, *args):
    """How many there are in the program: what nobody asks for is left out."""
    return jax.jit(f).lower(*args).as_text().count("stablehlo.dot_general")


@pytest.mark.parametrize("block", [None, 4])
def test_what_is_saved_by_name(block):
    """o and l saved, nothing of the forward pass is made again but the logits, by the rule.

    Nothing saved: z again, for m and S; and o, where there are several blocks and D needs it.
    """
    args, g = qkv(), jnp.ones((2, 10, 4, 5))
    f = lambda *a: attention(*a, block=block)  # noqa: E731
    by_name = checkpoint_policies.save_only_these_names("fnnet.attention.o", "fnnet.attention.l")
    rule, named, nothing = (
        _products(jax.vjp(h, *args)[1], g)
        for h in (
            f,
            jax.checkpoint(f, policy=by_name),
            jax.checkpoint(f, policy=checkpoint_policies.nothing_saveable),
        )
    )
    assert named == rule == 5
    assert nothing == rule + (1 if block is None else 2)


@pytest.mark.parametrize(("axes", "block"), [((None, None, 0), None), ((0, None, None), 4)])
def test_bfloat16_under_vmap_and_jacrev(axes, block):
    """Batches that an argument does not have give products of axes like none written here.

    In dv = Σ_i p_ij g_ie it is p, summed over an axis that is not its last, that has no such batch:
    where v alone is mapped, and under `jacrev`. Of a batch axis of size 1 nothing is left to see.
    """
    args = qkv(n=2, t=3, s=5, dtype="bfloat16")
    several = [jnp.stack([a, -a, a / 2]) for a in args]
    given = [a if axis is None else b for a, b, axis in zip(args, several, axes, strict=True)]

    def each(f):
        return jax.jit(jax.vmap(jax.grad(loss_of(f), ALL), axes)), jax.jit(jax.jacrev(f, ALL))

    hand, jacobian = each(lambda *a: attention(*a, block=block, causal=True))
    auto, auto_jacobian = each(lambda *a: plain_attention(*a, causal=True))
    wide = jax.tree.map(lambda a: a.astype("float64"), (given, args))
    for got, want in ((hand(*given), auto(*wide[0])), (jacobian(*args), auto_jacobian(*wide[1]))):
        assert {a.dtype for a in got} == {jnp.dtype("bfloat16")}
        assert_close(tuple(a.astype("float64") for a in got), tuple(want), 2**-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("block", [None, 32])
def test_as_exact_as_jax_nn(dtype, block):
    """Against float64: scores of 1 to 4e4, values far from 0; medians of the largest errors.

    At 4e4 keys that look alike share a weight and dq is a difference of equals: right where the dz
    of a query add up to 0 exactly.
    """
    ratios = []
    for number, (scores, offset) in enumerate(((1, 0), (36, 10), (400, 0), (4e4, 0))):
        ks = jax.random.split(jax.random.key(number), 4)
        q, k, v, g = (jax.random.normal(key, (2, 64, 2, 16), "float64") for key in ks)
        # keys in pairs that are nearly alike: else one weight is 1, and every derivative is 0
        k = jnp.concatenate(
            [k[:, :32], k[:, :32] + jax.random.normal(ks[0], k[:, :32].shape) / scores], 1
        )
        q, k = (x * math.sqrt(scores) for x in (q, k))
        args = [x.astype(dtype) for x in (q, k, v + offset, g)]

        def passes(f, *args):
            out, vjp = jax.vjp(f, *args[:3])
            return out, *vjp(args[3])

        exact = passes(_textbook, *(a.astype("float64") for a in args))

        def error(f, args=args, exact=exact):
            return np.array(
                [
                    float(jnp.abs(got.astype("float64") - want).max() / jnp.abs(want).max())
                    for got, want in zip(passes(f, *args), exact, strict=True)
                ]
            )

        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            peer = error(jax.nn.dot_product_attention)
        ratios.append(error(lambda *a: attention(*a, block=block)) / peer)
    assert np.median(ratios) <= 1.01  # of float32 both have the error of the logits
    assert np.max(ratios) <= (2 if dtype == "float32" else 1.5)
