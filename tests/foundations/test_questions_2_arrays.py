"""The chapter's questions 10-25: elementwise arithmetic, broadcasting, memory, einsum.

Each comment gives the question in few words and its answer; the code shows it. "Often answered"
names an answer that is met with and is wrong. At length: test_arrays, test_memory, test_einsum.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnnet
from fnnet import ladder
from fnnet.measure.memory import compiled_memory, storage
from tests.compare import assert_close
from tests.foundations.test_arrays import broadcast_shapes
from tests.foundations.test_einsum import einsum_by_loops


@pytest.fixture(autouse=True)
def broadcasting():
    """Rank promotion as JAX allows it by default."""
    with jax.numpy_rank_promotion("allow"):
        yield


def test_Q10_elementwise_arithmetic():
    # What is it? The operation on the elements in the same place of each operand, for every place.
    a, b = jnp.array([10.0, 6, -4]), jnp.array([2.0, 8, 7])
    assert (a * b).tolist() == [x * y for x, y in zip(a.tolist(), b.tolist(), strict=True)]


def test_Q11_is_every_element_greater():
    # Test that each element of a is greater than b's? (a > b).all(). Often answered with a < b: the
    # wrong way round, and an array where one answer was asked for.
    a, b = jnp.array([3.0, 4, 5]), jnp.array([2.0, 3, 6])
    assert (a > b).tolist() == [True, True, False]
    assert not (a > b).all()
    assert (a > b - 2).all()


def test_Q12_rank_0():
    # A rank-0 array, as a Python number? One without axes, shape (); .item() or float() unpack it.
    # One element is not enough: (1,) has one element and one axis.
    x = jnp.array([1.0, 2]).sum()
    assert (x.ndim, x.shape) == (0, ())
    assert type(x.item()) is type(float(x)) is float
    assert jnp.ones(1).ndim == 1


def test_Q13_one_element_against_two():
    # [1, 2] + [1]? [2, 3], of shape (2,): the single element meets both. Not of shape (1, 2).
    total = jnp.array([1, 2]) + jnp.array([1])
    assert total.tolist() == [2, 3]
    assert total.shape == (2,)


def test_Q14_two_elements_against_three():
    # [1, 2] + [1, 2, 3]? An error: 2 and 3 are different and neither is 1.
    with pytest.raises((TypeError, ValueError), match=r"\(2,\).*\(3,\)"):
        jnp.array([1, 2]) + jnp.array([1, 2, 3])


def test_Q15_elementwise_speeds_up_the_product(key):
    # How does it speed matmul up? A row times a column is one operation instead of a loop of k
    # steps in Python: n m steps are left of n k m.
    a, b = jax.random.normal(key, (4, 7)), jax.random.normal(key, (7, 3))
    steps, out = 0, np.zeros((4, 3))
    for i in range(4):
        for j in range(3):
            out[i, j] = (a[i] * b[:, j]).sum()
            steps += 1
    assert steps == 12
    assert_close(ladder.matmul_rowcol(a, b), jnp.asarray(out))


def test_Q16_broadcasting_rules():
    # The rules? Shapes are compared from the last axis to the first; two sizes fit if they are
    # equal or one is 1; a missing axis is a 1. Often the comparison from the right is left out,
    # and with it which axis a vector meets.
    assert broadcast_shapes((256, 256, 3), (3,)) == (256, 256, 3)
    assert broadcast_shapes((3, 1), (1, 2)) == (3, 2)
    with pytest.raises(ValueError, match="256 against 3"):
        broadcast_shapes((3, 256, 256), (3,))  # the first axis was meant, the last one is met


def test_Q17_expand_as():
    # What is expand_as? One array seen in another's shape, as broadcasting would: broadcast_to.
    c, m = np.array([10.0, 20, 30]), np.zeros((3, 3))
    assert np.broadcast_to(c, m.shape).tolist() == (c + m).tolist()
    assert jnp.broadcast_to(jnp.array(c), m.shape).tolist() == (c + m).tolist()


def test_Q18_unit_axes_choose_the_direction():
    # How does unsqueeze help? A new axis of size 1 says along which axis an array is repeated: a
    # column instead of a row. Often shown with a scalar, which needs none: it fits everything.
    c, m = jnp.array([10.0, 20]), jnp.zeros((2, 3))
    with pytest.raises((TypeError, ValueError)):
        c + m
    assert (jnp.expand_dims(c, 1) + m).tolist() == [[10] * 3, [20] * 3]
    assert (jnp.array([1, 2, 3]) + jnp.array(2)).tolist() == [3, 4, 5]


def test_Q19_unit_axes_by_indexing():
    # The same by indexing? None where the axis is to be.
    c = jnp.arange(3.0)
    assert (c[None].shape, c[:, None].shape, c[..., None].shape) == ((1, 3), (3, 1), (3, 1))
    assert c[:, None][None, :].shape == (1, 3, 1)


def test_Q20_the_contents_of_memory():
    # How are the actual contents of an array's memory shown? `storage(x).contents`. Often answered
    # with a conversion or a print, which show the elements, or with the device's memory in use.
    wide = np.broadcast_to(np.array([1.0, 2, 3]), (3, 3))
    assert storage(wide).contents.tolist() == [1, 2, 3]
    assert len(np.array(wide).ravel()) == 9
    assert storage(np.arange(6.0).reshape(2, 3).T).contents.tolist() == [0, 1, 2, 3, 4, 5]


def test_Q21_rows_or_columns():
    # Is a vector added to each row of a matrix, or to each column? To each row: it is one row,
    # repeated. This is no matrix product, which the question is often mistaken for.
    m, v = jnp.arange(1.0, 10).reshape(3, 3), jnp.array([10.0, 20, 30])
    assert (m + v).tolist() == [(row + v).tolist() for row in m]
    assert (m + v).tolist() == [[11, 22, 33], [14, 25, 36], [17, 28, 39]]


def test_Q22_does_broadcasting_cost_memory():
    # Does it? The view costs nothing: its stride is 0, and compiled code never makes it. The result
    # does, whole: often answered with a plain no. A view leaks nothing either.
    x, y = np.zeros((3000, 1, 10), np.float32), np.zeros((20, 10), np.float32)
    view = storage(np.broadcast_to(x, (3000, 20, 10)))
    assert (view.held, view.logical) == (x.nbytes, 20 * x.nbytes)
    assert (x - y).nbytes == 20 * x.nbytes
    memory = compiled_memory(jnp.subtract, x, y)
    assert (memory.output, memory.temp) == (20 * x.nbytes, 0)


def test_Q23_the_product_by_einsum(key):
    # matmul by einsum? "ik,kj->ij".
    a, b = jnp.arange(9.0).reshape(3, 3), jnp.arange(15.0).reshape(3, 5)
    assert jnp.einsum("ik,kj->ij", a, b)[0].tolist() == [25, 28, 31, 34, 37]
    assert_close(ladder.matmul_einsum(a, b), fnnet.matmul(a, b))


def test_Q24_a_repeated_letter():
    # What does a letter repeated on the left mean? Those axes run together, element by element.
    # That they are summed, as often answered, is so only if the letter is not on the right.
    a, b = jnp.array([1.0, 2]), jnp.array([3.0, 4])
    assert jnp.einsum("i,i->i", a, b).tolist() == [3, 8]
    assert float(jnp.einsum("i,i->", a, b)) == 11


def test_Q25_the_three_rules():
    # The rules, and why? On paper: a repeated index is summed over; no index is in a term more than
    # twice; every term has the same free indices. They make the sum sign superfluous: which sums
    # are meant, and what the axes of the result are, follows from the letters. einsum with an arrow
    # is freer: it sums what is not on the right, however often it is on the left.
    a, b = jnp.arange(6.0).reshape(2, 3), jnp.arange(12.0).reshape(3, 4)
    assert_close(jnp.einsum("ij,jk", a, b), a @ b)  # without an arrow: the rules of paper
    x = jnp.array([1.0, 2, 3])
    assert float(jnp.einsum("i,i,i->", x, x, x)) == 36  # three times
    assert float(einsum_by_loops("i,i,i->", x, x, x)) == 36
    assert jnp.einsum("ij->i", a).tolist() == [3, 12]  # summed without being repeated
    with pytest.raises(ValueError, match="k"):
        jnp.einsum("ij->ik", a)  # a letter of the result comes from an operand
