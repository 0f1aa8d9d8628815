"""The tools of a rule: contraction with a wide sum, un-broadcasting, residuals without contents."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fnnet.rules import Like, Static, accumulator, contract, sum_to

DTYPES = ["float16", "bfloat16", "float32", "float64", "complex64", "complex128"]


@pytest.mark.parametrize(
    ("dtypes", "wide"),
    [
        (("float16",), "float32"),
        (("bfloat16", "bfloat16"), "float32"),
        (("float32",), "float32"),
        (("float64", "float64"), "float64"),
        (("complex64",), "complex64"),
        (("complex128",), "complex128"),
    ],
)
def test_accumulator(dtypes, wide):
    got = accumulator(*(jnp.ones(2, dtype) for dtype in dtypes))
    assert got == np.dtype(wide)
    assert isinstance(got, np.dtype)


def test_accumulator_of_mixed_operands():
    with jax.numpy_dtype_promotion("standard"):
        assert accumulator(jnp.ones(2, "float16"), jnp.ones(2, "bfloat16")) == np.dtype("float32")
        assert accumulator(jnp.ones(2, "float16"), jnp.ones(2)) == np.dtype("float64")
    # a number has the dtype of what it meets
    assert accumulator(jnp.ones(2, "bfloat16"), 2.0) == np.dtype("float32")
    assert accumulator(np.ones(2, ml_dtypes.float8_e4m3fn)) == np.dtype("float32")


@pytest.mark.parametrize("dtype", DTYPES)
def test_contract_agrees_with_einsum(dtype, key):
    a, b = (
        jax.random.normal(k, shape, dtype)
        for k, shape in zip(jax.random.split(key), [(4, 3), (3, 5)], strict=True)
    )
    got = contract("ij,jk->ik", a, b)
    assert got.dtype == dtype
    wide = "complex128" if "complex" in dtype else "float64"
    want = np.einsum("ij,jk->ik", np.asarray(a, wide), np.asarray(b, wide))
    # exact sums, rounded once
    eps = float(jnp.finfo(dtype).eps)
    scale = np.einsum("ij,jk->ik", np.abs(np.asarray(a, wide)), np.abs(np.asarray(b, wide)))
    assert (np.abs(np.asarray(got, wide) - want) <= 2 * eps * scale).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_long_sums_are_held_in_float32(dtype):
    """In bfloat16 itself a sum of ones stops at 256, in float16 at 2048."""
    n = 4096
    ones = jnp.ones(n, dtype)
    assert contract("i,i->", ones, ones).astype("float32") == n
    assert sum_to(jnp.ones((n, 1), dtype), jnp.ones(1, dtype)).astype("float32") == n
    assert contract("i,i->", ones, ones, dtype="float32") == n
    assert contract("i->", ones).astype("float32") == n
    jaxpr = str(jax.make_jaxpr(lambda a: contract("i,i->", a, a, dtype="float32"))(ones))
    assert "preferred_element_type=float32" in jaxpr
    assert "preferred_element_type=float64" in str(
        jax.make_jaxpr(lambda a: contract("i,i->", a, a))(jnp.ones(n))
    )


def test_contract_is_rounded_once():
    """In float32 until the end: 1 + 2^-9 + 2^-9 is not 1 in bfloat16, though each sum of two is."""
    a = jnp.array([1, 2.0**-8, 2.0**-8], "bfloat16")
    ones = jnp.ones(3, "bfloat16")
    assert contract("i,i->", a, ones) == jnp.bfloat16(1 + 2.0**-7)


@pytest.mark.parametrize(
    ("narrow", "dtype"), [("bfloat16", None), ("bfloat16", "float32"), ("float16", None)]
)
def test_narrow_products_where_one_operand_alone_is_mapped(narrow, dtype, key):
    """vmap gives the product every order of axes; XLA's CPU compiler has no kernel for some."""
    n, a_axes, b_axes = 33, (None, 0, 1, 2), (0, 1, 2)
    one, two = jax.random.split(key)
    for a_axis, b_axis, transposed in itertools.product(a_axes, b_axes, (False, True)):
        # for an axis of a that is mapped, a second map over b alone
        a_shape, b_shape = [n, 3] if transposed else [3, n], [n, 4]
        b_shape.insert(b_axis, 2)
        if a_axis is not None:
            a_shape.insert(a_axis, 5)
        a = jax.random.normal(one, a_shape, narrow) + jnp.ones((), narrow)
        b = jax.random.normal(two, b_shape, narrow) + jnp.ones((), narrow)
        f = partial(contract, "ki,kj->ij" if transposed else "ik,kj->ij", dtype=dtype)
        f = jax.vmap(f, (None, b_axis))
        if a_axis is not None:
            f = jax.vmap(f, (a_axis, None))
        wide = (a.astype("float64"), b.astype("float64"))
        got, want = np.asarray(jax.jit(f)(a, b), "float64"), np.asarray(f(*wide), "float64")
        eps = 2.0**-20 if dtype else float(jnp.finfo(narrow).eps) / 2
        np.testing.assert_allclose(got, want, rtol=1.01 * eps, atol=1e-5)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_accelerators_multiply_the_narrow_numbers_themselves(platform, dtype):
    f = jax.jit(partial(contract, "ik,kj->ij", dtype=dtype))
    a, b = jax.ShapeDtypeStruct((4, 8), "bfloat16"), jax.ShapeDtypeStruct((8, 16), "bfloat16")
    text = jax.export.export(f, platforms=[platform])(a, b).mlir_module()
    (product,) = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    out = {"float32": "f32", "bfloat16": "bf16"}[dtype]
    assert f"(tensor<4x8xbf16>, tensor<8x16xbf16>) -> tensor<4x16x{out}>" in product
    assert "algorithm" not in product


def test_what_a_policy_saves_of_a_narrow_product_is_narrow():
    a = jnp.ones((4, 4), "bfloat16")
    f = jax.checkpoint(
        lambda a: jnp.sin(contract("ij,jk->ik", a, a)).sum(),
        policy=jax.checkpoint_policies.dots_saveable,
    )
    saved = [s for s in jax.tree.leaves(jax.vjp(f, a)[1]) if s.ndim]
    assert {str(s.dtype) for s in saved} == {"bfloat16"}


def test_results_dtype():
    a = jnp.ones((2, 3), "bfloat16")
    primal = jnp.ones(2, "float16")
    assert contract("ij->i", a).dtype == "bfloat16"
    assert contract("ij->i", a, dtype="float64").dtype == "float64"
    assert contract("ij->i", a, like=primal).dtype == "float16"
    assert contract("ij->i", a, like=Like.of(primal)).dtype == "float16"


@pytest.mark.parametrize(
    ("subscripts", "shapes"),
    [
        ("bj->j", [(4, 3)]),
        ("ij->ji", [(2, 3)]),
        ("ii->i", [(3, 3)]),
        ("ii->", [(3, 3)]),
        ("ij,kl->il", [(2, 3), (4, 5)]),
        ("i,j->ij", [(2,), (3,)]),
        ("...i,ij->...j", [(2, 2, 3), (3, 4)]),
        ("bi,bj,b->ij", [(4, 2), (4, 3), (4,)]),
    ],
)
def test_subscripts_of_every_kind(subscripts, shapes, key):
    """Also where einsum sums an axis on the side, or has a single operand."""
    keys = jax.random.split(key, len(shapes))
    operands = [jax.random.normal(k, s, "bfloat16") for k, s in zip(keys, shapes, strict=True)]
    got = contract(subscripts, *operands)
    assert got.dtype == "bfloat16"
    # products of bfloat16 are exact in float32, and the sum is rounded once
    want = np.einsum(subscripts, *(np.asarray(a, "float64") for a in operands))
    scale = np.einsum(subscripts, *(np.abs(np.asarray(a, "float64")) for a in operands))
    assert (
        np.abs(np.asarray(got, "float64") - want) <= 2.0**-8 * np.abs(want) + 1e-5 * scale
    ).all()


def test_mixed_dtypes_stay_refused_where_promotion_is_strict():
    with pytest.raises(jax.dtypes.TypePromotionError):
        contract("i,i->", jnp.ones(2, "float32"), jnp.ones(2, "float64"), dtype="float64")
    with pytest.raises(jax.dtypes.TypePromotionError):
        contract("i,i->", jnp.ones(2, "float32"), jnp.ones(2), like=jnp.ones(()))


def test_precision():
    def of(precision):
        return lambda a: contract("ij,jk->ik", a, a, precision=precision)

    a = jnp.ones((2, 2))
    assert "HIGHEST" in str(jax.make_jaxpr(of("highest"))(a))
    assert "HIGHEST" not in str(jax.make_jaxpr(of(None))(a))
    with jax.default_matmul_precision("highest"):
        assert "HIGHEST" in str(jax.make_jaxpr(of(None))(a))
        assert "HIGHEST" not in str(jax.make_jaxpr(of("default"))(a))


def test_contract_is_differentiable_and_maps():
    a, b = jnp.arange(6.0).reshape(2, 3), jnp.arange(12.0).reshape(3, 4)

    def f(a, b):
        return jnp.sin(contract("ij,jk->ik", a, b)).sum()

    def g(a, b):
        return jnp.sin(a @ b).sum()

    for got, want in zip(jax.grad(f, (0, 1))(a, b), jax.grad(g, (0, 1))(a, b), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)
    assert jax.vmap(lambda a: contract("j,jk->k", a, b))(a).shape == (2, 4)
    assert contract("bi,bj->ij", jnp.ones((0, 2)), jnp.ones((0, 3))).tolist() == [[0.0] * 3] * 2


@st.composite
def broadcasts(draw):
    """A shape, and a shape that it broadcasts to."""
    full = draw(st.lists(st.integers(0, 3), max_size=4))
    kept = full[draw(st.integers(0, len(full))) :]
    return tuple(1 if draw(st.booleans()) else n for n in kept), tuple(full)


@given(broadcasts(), st.sampled_from(["float64", "complex128", "float32"]))
def test_sum_to_is_the_transpose_of_broadcasting(shapes, dtype):
    """<broadcast(x), g> = <x, sum_to(g)>, and the shape and dtype are x's."""
    shape, full = shapes
    rng = np.random.default_rng(len(full))
    g = jnp.asarray(rng.normal(size=full), dtype)
    x = jnp.asarray(rng.normal(size=shape), dtype)
    got = sum_to(g, x)
    assert (got.shape, got.dtype) == (shape, dtype)
    assert (sum_to(g, Like.of(x)) == got).all()
    (want,) = jax.vjp(lambda x: jnp.broadcast_to(x, full), x)[1](g)
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


def test_sum_to_casts_last():
    g = jnp.full((3,), 2.0**-8, "float32")
    assert sum_to(g + 1, jnp.ones(1, "bfloat16")).dtype == "bfloat16"
    # 3 + 3/256 is between 3 and 3 + 1/64: rounded once, to the nearer
    assert sum_to(g + 1, jnp.ones(1, "bfloat16")) == jnp.bfloat16(3 + 1 / 64)
    assert sum_to(jnp.ones((2, 3), "bfloat16"), jnp.ones((2, 3), "float32")).dtype == "float32"


@pytest.mark.parametrize(
    ("shape", "full"),
    [((2,), (3,)), ((3,), (1,)), ((2, 3), (3,)), ((3, 1), (2, 3)), ((0,), (2,)), ((2,), (0,))],
)
def test_sum_to_refuses_what_does_not_broadcast(shape, full):
    with pytest.raises(
        ValueError, match=r"sum_to: like of shape .* does not broadcast to g's shape"
    ):
        sum_to(jnp.ones(full), jnp.ones(shape))


def test_sum_to_under_transformations():
    like = Like((3, 1), np.dtype("float64"))
    g = jnp.arange(24.0).reshape(2, 3, 4)
    want = g.sum((0, 2))[:, None]
    assert (jax.jit(lambda g: sum_to(g, like))(g) == want).all()
    assert (jax.vmap(lambda g: sum_to(g, like))(g[None])[0] == want).all()


def test_like_is_structure():
    """It stores nothing, compares by value, and passes through every transformation."""
    x = jnp.ones((2, 3), "bfloat16")
    like = Like.of(x)
    assert like == Like((2, 3), jnp.dtype("bfloat16"))
    assert hash(like) == hash(Like.of(x * 2))
    assert like != Like.of(x.T)
    assert jax.tree.leaves(like) == []
    assert jax.jit(lambda x: (x, Like.of(x)))(x)[1] == like
    assert Like.of(np.ones(2)) == Like((2,), np.dtype("float64"))


def test_static_is_structure():
    assert jax.tree.leaves(Static("relu")) == []
    assert Static((1, "a")) == Static((1, "a"))
    assert Static(1) != Static(2)
    assert Static(1) != 1
    assert hash(Static("a")) == hash(Static("a"))
    assert jax.jit(lambda x: (x, Static("a")))(1.0)[1].value == "a"
