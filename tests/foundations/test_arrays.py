"""Rows A1-A4, A9, A10: what an array is made of, and arithmetic on whole arrays.

To be read in order. Every claim is run in JAX, and in NumPy where the two agree.
"""

import itertools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnnet
from tests.compare import assert_close

BOTH = pytest.mark.parametrize("xp", [np, jnp], ids=["numpy", "jax"])
INCOMPATIBLE = (TypeError, ValueError)  # JAX raises the first, NumPy the second


@pytest.fixture
def broadcasting():
    """Rank promotion as JAX allows it by default; this test suite forbids it otherwise."""
    with jax.numpy_rank_promotion("allow"):
        yield


@BOTH
def test_A1_make(xp):
    x = xp.arange(12)
    assert (x.shape, x.size, x.ndim) == ((12,), 12, 1)
    assert xp.issubdtype(x.dtype, xp.integer)  # 0, 1, 2 are whole numbers, and stay so
    assert xp.arange(12.0).dtype == "float64"
    rows = x.reshape(3, 4)
    assert rows.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    for with_unknown in (x.reshape(-1, 4), x.reshape(3, -1)):  # -1: whatever is left over
        assert with_unknown.tolist() == rows.tolist()
    with pytest.raises(INCOMPATIBLE, match="reshape"):
        x.reshape(-1, 5)

    assert xp.zeros((2, 3, 4)).sum() == 0
    assert xp.ones((2, 3, 4)).sum() == 24
    assert xp.full((2, 3), 7).tolist() == [[7, 7, 7]] * 2

    listed = xp.array([[2.0, 1, 4, 3], [1, 2, 3, 4], [4, 3, 2, 1]])
    assert listed.shape == (3, 4)  # the outermost list is axis 0
    assert listed.dtype == "float64"  # one float makes all of them floats
    with pytest.raises(INCOMPATIBLE):
        xp.array([[1, 2], [3]])


def test_A1_make_at_random(key):
    """A key is a value: the same key gives the same numbers, another one others."""
    x = jax.random.normal(key, (2, 3, 4))
    assert (x == jax.random.normal(key, (2, 3, 4))).all()
    assert (x != jax.random.normal(jax.random.fold_in(key, 1), (2, 3, 4))).all()
    many = jax.random.normal(key, (10_000,))  # the mean of n has deviation 1/√n, the std 1/√(2n)
    assert abs(float(many.mean())) < 5 / 10_000**0.5
    assert float(many.std()) == pytest.approx(1, abs=5 / 20_000**0.5)


def test_A1_dtypes_users_have():
    """Outside of this suite JAX makes 32-bit numbers, where NumPy makes 64-bit ones."""
    with jax.enable_x64(False):
        assert jnp.arange(3.0).dtype == "float32"
        assert jnp.arange(3).dtype == "int32"
    assert np.arange(3.0).dtype == "float64"


@BOTH
def test_A2_elementwise(xp):
    a, b = xp.array([10.0, 6, -4]), xp.array([2.0, 8, 7])
    assert (a + b).tolist() == [12, 14, 3]
    assert float((a + b).mean()) == pytest.approx(9.6667, abs=5e-5)
    assert (a < b).tolist() == [False, True, True]
    assert not (a < b).all()
    assert (a < b).any()
    assert not (a == b).any()

    x, y = xp.array([1.0, 2, 4, 8]), xp.array([2.0, 2, 2, 2])
    assert (x + y).tolist() == [3, 4, 6, 10]
    assert (x - y).tolist() == [-1, 0, 2, 6]
    assert (x * y).tolist() == [2, 4, 8, 16]
    assert (x / y).tolist() == [0.5, 1, 2, 4]
    assert (x**y).tolist() == [1, 4, 16, 64]
    m = xp.arange(1.0, 10).reshape(3, 3)
    assert (m * m).tolist() == [[1, 4, 9], [16, 25, 36], [49, 64, 81]]


@BOTH
def test_A2_to_a_python_scalar(xp):
    mean = (xp.array([10.0, 6, -4]) + xp.array([2.0, 8, 7])).mean()
    assert mean.shape == ()
    for number in (mean.item(), float(mean), mean.tolist()):
        assert type(number) is float
        assert number == pytest.approx(29 / 3)
    with pytest.raises((TypeError, ValueError)):
        xp.ones(3).item()


@BOTH
def test_A2_shapes_that_do_not_fit(xp):
    m, n = xp.ones((3, 3)), xp.ones((2, 3))
    with pytest.raises(INCOMPATIBLE, match=r"\(3, ?3\).*\(2, ?3\)"):
        m * n


def test_A2_dtypes_that_do_not_fit():
    """JAX can be told to mix no dtypes, as this suite does; by default it promotes."""
    whole, real = jnp.arange(3), jnp.arange(3.0)
    with pytest.raises(ValueError, match="dtype promotion"):
        whole + real
    with jax.numpy_dtype_promotion("standard"):
        assert (whole + real).tolist() == [0, 2, 4]


# Broadcasting


def broadcast_shapes(a, b):
    """The rules, in full.

    Shapes are laid right-aligned; a missing axis counts as 1. Two sizes fit if they are equal or
    one of them is 1, and the result has the other.
    """
    sizes = []
    for m, n in itertools.zip_longest(reversed(a), reversed(b), fillvalue=1):
        if m != n and 1 not in (m, n):
            raise ValueError(f"{a} and {b} do not fit: {m} against {n}")
        sizes.append(n if m == 1 else m)
    return tuple(reversed(sizes))


def test_A3_broadcasting_rules():
    shapes = [s for ndim in range(4) for s in itertools.product((1, 2, 3), repeat=ndim)]
    fitting = 0
    for a, b in itertools.product(shapes, repeat=2):
        try:
            want = np.broadcast_shapes(a, b)
        except ValueError:
            with pytest.raises(ValueError, match="do not fit"):
                broadcast_shapes(a, b)
        else:
            fitting += 1
            assert broadcast_shapes(a, b) == want == jnp.broadcast_shapes(a, b)
    assert 0 < fitting < len(shapes) ** 2


@BOTH
@pytest.mark.usefixtures("broadcasting")
def test_A3_scalar_and_vector(xp):
    assert (xp.array([10.0, 6, -4]) > 0).tolist() == [True, True, False]
    m = xp.arange(1.0, 10).reshape(3, 3)
    scaled = (m - 5) / 2.73
    assert float(scaled[0, 0]) == pytest.approx(-1.4652, abs=5e-5)
    assert float(scaled[2, 2]) == pytest.approx(1.4652, abs=5e-5)
    assert float(scaled[1, 1]) == 0

    c = xp.array([10.0, 20, 30])
    want = [[11, 22, 33], [14, 25, 36], [17, 28, 39]]  # to each row
    assert (m + c).tolist() == (c + m).tolist() == want
    assert (c + m[:2]).tolist() == want[:2]
    with pytest.raises(INCOMPATIBLE, match=r"\(2,\)"):
        xp.array([10.0, 20]) + m[:2]


@BOTH
@pytest.mark.usefixtures("broadcasting")
def test_A3_column_and_row_and_image(xp):
    a, b = xp.arange(3).reshape(3, 1), xp.arange(2).reshape(1, 2)
    assert (a + b).tolist() == [[0, 1], [1, 2], [2, 3]]
    image, rgb = xp.ones((256, 256, 3)), xp.array([1.0, 2, 3])
    assert (image * rgb).shape == (256, 256, 3)
    assert (image * rgb)[7, 9].tolist() == [1, 2, 3]
    with pytest.raises(INCOMPATIBLE):
        image * xp.ones(2)
    # the last axes meet, whichever axis was meant: images with channels first need a column
    first = xp.moveaxis(image, -1, 0)
    with pytest.raises(INCOMPATIBLE):
        first * rgb
    assert (first * rgb[:, None, None])[:, 7, 9].tolist() == [1, 2, 3]


def test_A3_refused_where_it_is_not_wanted():
    """Most mistakes of shape are broadcasts that nobody meant: JAX can refuse missing axes."""
    m, c = jnp.ones((3, 3)), jnp.ones(3)
    with pytest.raises(ValueError, match="rank_promotion='raise'"):
        m + c
    assert (m + c[None]).shape == (3, 3)  # said in so many words it is allowed
    # the classic: (n, 1) minus (n,) is (n, n), and the loss a plausible number
    pred, targ = jnp.ones((4, 1)), jnp.ones(4)
    with jax.numpy_rank_promotion("allow"):
        assert (pred - targ).shape == (4, 4)
    assert float(fnnet.mse(pred, targ)) == 0
    with pytest.raises(ValueError, match="mse: pred must have targ's shape"):
        fnnet.mse(targ, pred)


@BOTH
def test_A4_unit_axes(xp):
    c = xp.array([10.0, 20, 30])
    for row in (c[None], c[None, :], xp.expand_dims(c, 0), c.reshape(1, 3)):
        assert row.tolist() == [[10, 20, 30]]
    for column in (c[:, None], c[..., None], xp.expand_dims(c, 1), xp.expand_dims(c, -1)):
        assert column.tolist() == [[10], [20], [30]]
    x = xp.ones((2, 4, 3))
    assert (x[None].shape, x[:, None].shape, x[..., None].shape) == (
        (1, 2, 4, 3),
        (2, 1, 4, 3),
        (2, 4, 3, 1),
    )
    assert x[:, None].squeeze(1).shape == x.shape
    with pytest.raises(ValueError, match="axis"):
        xp.expand_dims(c, 2)
    with pytest.raises(ValueError, match="squeeze"):
        c[:, None].squeeze(0)  # an axis of size 3 is not taken away


@BOTH
def test_A4_a_column_is_added_to_each_column(xp):
    c, m = xp.array([10.0, 20, 30]), xp.arange(1.0, 10).reshape(3, 3)
    assert (c[:, None] + m).tolist() == [[11, 12, 13], [24, 25, 26], [37, 38, 39]]
    assert (c[None, :] + m).tolist() == [[11, 22, 33], [14, 25, 36], [17, 28, 39]]


# Sums and products


@BOTH
def test_A9_sums_along_axes(xp):
    a = xp.arange(24).reshape(2, 3, 4)
    assert [a.sum(axis=i).shape for i in range(3)] == [(3, 4), (2, 4), (2, 3)]
    assert a.sum(axis=0).tolist() == (a[0] + a[1]).tolist()  # the axis named is the one that goes
    assert a.sum(axis=(1, 2)).tolist() == [sum(range(12)), sum(range(12, 24))]
    assert a.sum(axis=1, keepdims=True).shape == (2, 1, 4)
    assert int(a.sum()) == sum(range(24))


@BOTH
@pytest.mark.usefixtures("broadcasting")
def test_A9_dividing_by_a_sum_needs_the_axis_kept(xp):
    a = xp.arange(20.0).reshape(5, 4)
    with pytest.raises(INCOMPATIBLE, match=r"\(5, ?4\).*\(5,\)"):
        a / a.sum(axis=1)  # (5, 4) over (5,): the last axes meet, 4 against 5
    shares = a / a.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares.sum(axis=1), 1)

    # With a square matrix the mistake is no error. Column j is divided by the sum of row j.
    b = xp.arange(25.0).reshape(5, 5)
    wrong = b / b.sum(axis=1)
    assert float(wrong[0, 1]) == pytest.approx(1 / 35)
    assert float(wrong[1, 0]) == pytest.approx(5 / 10)
    assert not np.allclose(wrong.sum(axis=1), 1)


def test_A9_strict_rank_promotion_finds_the_mistake_that_is_no_error():
    b = jnp.arange(25.0).reshape(5, 5)
    with pytest.raises(ValueError, match="rank_promotion='raise'"):
        b / b.sum(axis=1)


@BOTH
def test_A10_dot_products(xp):
    x, ones = xp.array([1.0, 2, 4, 8]), xp.ones(4)
    for dot in (x @ ones, xp.dot(x, ones), (x * ones).sum(), xp.einsum("i,i->", x, ones)):
        assert float(dot) == 15

    a = xp.arange(20.0).reshape(5, 4)
    assert (a @ x).tolist() == [34, 94, 154, 214, 274]
    product = a @ xp.ones((4, 3))
    assert product.tolist() == [[n] * 3 for n in (6, 22, 38, 54, 70)]
    assert float(a[1] @ xp.ones((4, 3))[:, -1]) == float(product[1, -1]) == 22
    with pytest.raises(INCOMPATIBLE):
        a @ xp.ones(5)


def test_A10_the_same_by_fnnet(key):
    a, x = jnp.arange(20.0).reshape(5, 4), jnp.array([1.0, 2, 4, 8])
    assert fnnet.matmul(a, x).tolist() == [34, 94, 154, 214, 274]
    assert float(fnnet.matmul(x, x)) == 85
    with pytest.raises(ValueError, match=r"matmul: .*got shapes \(5, 4\) and \(5,\)"):
        fnnet.matmul(a, jnp.ones(5))
    # a matrix turns and stretches: here by 90 degrees
    turn = jnp.array([[0.0, -1], [1, 0]])
    assert fnnet.matmul(turn, jnp.array([1.0, 0])).tolist() == [0, 1]
    v = jax.random.normal(key, (2,))
    assert_close(fnnet.matmul(turn, fnnet.matmul(turn, v)), -v)
    assert_close(fnnet.norm(fnnet.matmul(turn, v)), fnnet.norm(v))


@BOTH
@pytest.mark.parametrize("op", [operator.add, operator.mul, operator.lt, operator.eq])
def test_A2_an_operator_is_its_loop(xp, op):
    """Elementwise means: each result from the two elements in its own place, and from no other."""
    a, b = xp.array([10.0, 6, -4]), xp.array([2.0, 6, 7])
    assert op(a, b).tolist() == [op(p, q) for p, q in zip(a.tolist(), b.tolist(), strict=True)]
