"""Shapes and dtypes nobody chose: the right answer or a clear error, never a wrong number."""

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

import fnnet

SIZES = st.integers(0, 4)
FLOATS = st.sampled_from(["float16", "bfloat16", "float32", "float64"])
RTOL = {"float16": 4e-3, "bfloat16": 3e-2, "float32": 1e-5, "float64": 1e-12}


def numbers(shape, dtype, seed):
    """Small whole numbers: exact in every dtype, sums too."""
    return jnp.asarray(np.random.default_rng(seed).integers(-3, 4, shape), dtype)


def assert_near(got, want, dtype):
    want = np.asarray(want, "float64")
    assert got.shape == want.shape
    assert got.dtype == dtype
    np.testing.assert_allclose(np.asarray(got, "float64"), want, rtol=RTOL[dtype], atol=RTOL[dtype])


@given(
    hnp.mutually_broadcastable_shapes(
        signature="(n?,k),(k,m?)->(n?,m?)", max_dims=3, min_side=0, max_side=4
    ),
    FLOATS,
    st.integers(0, 99),
)
def test_matmul(shapes, dtype, seed):
    a, b = (numbers(s, dtype, seed + i) for i, s in enumerate(shapes.input_shapes))
    a64, b64 = (np.asarray(x, "float64") for x in (a, b))
    out, vjp = jax.vjp(fnnet.matmul, a, b)
    assert_near(out, np.matmul(a64, b64), dtype)
    g = numbers(out.shape, dtype, seed + 2)
    # <g, (a + da) b> is linear in a: its slope along a basis is the cotangent
    for ct, x, product in (
        (vjp(g)[0], a64, lambda e: np.matmul(e, b64)),
        (vjp(g)[1], b64, lambda e: np.matmul(a64, e)),
    ):
        want = np.zeros(x.shape)
        for index in np.ndindex(x.shape):
            e = np.zeros(x.shape)
            e[index] = 1
            want[index] = np.sum(np.asarray(g, "float64") * product(e))
        assert_near(ct, want, dtype)


@given(st.lists(SIZES, max_size=3), SIZES, SIZES, st.booleans(), FLOATS, st.integers(0, 99))
def test_lin(batch, n_in, n_out, bias, dtype, seed):
    x, w, b = (
        numbers(s, dtype, seed + i) for i, s in enumerate(((*batch, n_in), (n_in, n_out), (n_out,)))
    )
    args = (x, w, b) if bias else (x, w)
    x64, w64, b64 = (np.asarray(a, "float64") for a in (x, w, b))
    out, vjp = jax.vjp(fnnet.lin, *args)
    assert_near(out, x64 @ w64 + (b64 if bias else 0), dtype)
    g = numbers(out.shape, dtype, seed + 3)
    rows, gs = (
        x64.reshape(-1, n_in) if n_in else np.zeros((g.size // max(n_out, 1), 0)),
        np.asarray(g, "float64"),
    )
    flat = gs.reshape(-1, n_out) if n_out else np.zeros((rows.shape[0], 0))
    want = (gs @ w64.T, rows.T @ flat, flat.sum(0))
    for ct, expected in zip(vjp(g), want, strict=False):
        assert_near(ct, expected, dtype)


@given(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4), FLOATS, st.integers(0, 99))
def test_relu_and_mse(shape, dtype, seed):
    x, t = numbers(shape, dtype, seed), numbers(shape, dtype, seed + 1)
    x64, t64 = (np.asarray(a, "float64") for a in (x, t))
    assert_near(fnnet.relu(x), np.maximum(x64, 0), dtype)
    n = max(x64.size, 1)
    for pred in (x, x[..., None]):
        loss, vjp = jax.vjp(fnnet.mse, pred, t)
        assert_near(loss, ((x64 - t64) ** 2).sum() / n, dtype)
        dpred, dtarg = vjp(jnp.ones((), dtype))
        assert_near(dpred.reshape(shape), 2 / n * (x64 - t64), dtype)
        assert_near(dtarg, -2 / n * (x64 - t64), dtype)


@given(
    hnp.array_shapes(min_dims=0, max_dims=3, max_side=3),
    hnp.array_shapes(min_dims=0, max_dims=3, max_side=3),
)
def test_any_two_shapes(a, b):
    """NumPy is the judge of which shapes go together; mse allows fewer."""
    x, y = jnp.ones(a), jnp.ones(b)
    try:
        want = np.matmul(np.ones(a), np.ones(b))
    except ValueError:
        with pytest.raises(ValueError, match="matmul: "):
            fnnet.matmul(x, y)
    else:
        np.testing.assert_allclose(fnnet.matmul(x, y), want)
    if a == b or a == (*b, 1):
        assert float(fnnet.mse(x, y)) == 0
    else:
        with pytest.raises(ValueError, match="mse: "):
            fnnet.mse(x, y)


@given(FLOATS, FLOATS)
def test_mixed_dtypes_promote_or_are_refused(one, other):
    """JAX's promotion, when it is on; each cotangent keeps its own argument's dtype."""
    x, w = jnp.ones((2, 3), one), jnp.ones((3, 4), other)
    with jax.numpy_dtype_promotion("standard"):
        out, vjp = jax.vjp(fnnet.lin, x, w)
        assert out.dtype == jnp.promote_types(one, other)
        assert [ct.dtype for ct in vjp(out)[:2]] == [x.dtype, w.dtype]
    if one != other:
        with pytest.raises(Exception, match="promotion"):
            fnnet.lin(x, w)
