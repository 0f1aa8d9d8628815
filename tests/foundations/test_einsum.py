"""Row B3: Einstein's summation, whose meaning is one loop over all letters."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnnet
from fnnet.measure.memory import compiled_memory
from tests.compare import assert_close


def einsum_by_loops(subscripts, *operands):
    """What `einsum` means.

    Every letter is an index. For every value of all letters: multiply the operands' elements there,
    and add the product to the result's element. A letter that the result lacks is thereby summed.
    """
    inputs, output = subscripts.split("->")
    terms = inputs.split(",")
    sizes = {}
    for term, x in zip(terms, operands, strict=True):
        for letter, n in zip(term, np.shape(x), strict=True):
            if sizes.setdefault(letter, n) != n:
                raise ValueError(f"letter {letter} has sizes {sizes[letter]} and {n}")
    out = np.zeros([sizes[letter] for letter in output])
    for values in itertools.product(*(range(n) for n in sizes.values())):
        at = dict(zip(sizes, values, strict=True))
        product = math.prod(
            float(x[tuple(at[letter] for letter in term)])
            for term, x in zip(terms, operands, strict=True)
        )
        out[tuple(at[letter] for letter in output)] += product
    return out


SPECS = {
    "ij,jk->ik": [(2, 3), (3, 4)],  # the matrix product
    "ij,jk->ki": [(2, 3), (3, 4)],  # transposed
    "ij,jk->ijk": [(2, 3), (3, 4)],  # before the sum
    "i,ij->i": [(2,), (2, 3)],
    "i,ij->ij": [(2,), (2, 3)],
    "i,ij->": [(2,), (2, 3)],
    "ij->ji": [(2, 3)],
    "ij->j": [(2, 3)],
    "ii->i": [(3, 3)],  # the diagonal
    "ii->": [(3, 3)],  # the trace
    "i,j->ij": [(2,), (3,)],  # the outer product
    "bij,bjk->bik": [(2, 3, 2), (2, 2, 3)],  # a batch
    "i,i->i": [(3,), (3,)],  # repeated, and not summed
    "i,i,i->": [(3,), (3,), (3,)],  # three times
}


@pytest.mark.parametrize("subscripts", SPECS)
def test_B3_one_meaning(subscripts, key):
    operands = [
        jax.random.normal(k, shape)
        for k, shape in zip(jax.random.split(key, 3), SPECS[subscripts], strict=False)
    ]
    want = einsum_by_loops(subscripts, *operands)
    assert_close(jnp.einsum(subscripts, *operands), jnp.asarray(want), rtol=1e-14)
    np.testing.assert_allclose(np.einsum(subscripts, *operands), want, rtol=1e-12)


def test_B3_what_a_repeated_letter_means(key):
    """The axes with this letter run together; they are summed if the result has not the letter."""
    a, b = jax.random.normal(key, (2,)), jax.random.normal(key, (2, 3))
    products = a[:, None] * b
    assert_close(jnp.einsum("i,ij->ij", a, b), products)
    assert_close(jnp.einsum("i,ij->i", a, b), products.sum(axis=1))  # j is gone, i is not
    assert_close(jnp.einsum("i,ij->", a, b), products.sum())
    # without an arrow the repeated letters are the summed ones, as on paper, in alphabetical order
    m, n = jax.random.normal(key, (2, 3)), jax.random.normal(key, (3, 4))
    assert_close(jnp.einsum("ij,jk", m, n), m @ n)
    assert_close(jnp.einsum("kj,ji", m, n), (m @ n).T)
    assert_close(jnp.einsum("i,i", a, a), a @ a)


def test_B3_the_matrix_product():
    a, b = jnp.arange(9.0).reshape(3, 3), jnp.arange(15.0).reshape(3, 5)
    want = [[25, 28, 31, 34, 37], [70, 82, 94, 106, 118], [115, 136, 157, 178, 199]]
    rung = fnnet.ladder.matmul_einsum
    for product in (jnp.einsum("ik,kj->ij", a, b), rung(a, b), fnnet.matmul(a, b), a @ b):
        assert product.tolist() == want
    assert jnp.einsum("ik,kj->ji", a, b).tolist() == np.transpose(want).tolist()


def test_B3_each_product_of_a_step_and_a_step():
    """The terms that a matrix product sums can mean something: here, paths through each node."""
    steps = jnp.array([[0.0, 1, 1], [0, 0, 1], [1, 0, 0]])  # from i to j
    through = jnp.einsum("ij,jk->ijk", steps, steps)
    assert through[0, :, 2].tolist() == [0, 1, 0]  # from 0 to 2 in two steps: by way of 1
    assert (through.sum(axis=1) == steps @ steps).all()


@pytest.mark.parametrize(
    ("subscripts", "shapes"),
    [
        ("ij,jk->ik", [(2, 3), (4, 5)]),  # one letter, two sizes
        ("ij->k", [(2, 3)]),  # a letter of the result that no operand has
        ("ij->ii", [(2, 3)]),  # a letter twice in the result
        ("ijk->i", [(2, 3)]),  # more letters than axes
        ("ij,jk->ik", [(2, 3)]),  # more terms than operands
    ],
)
def test_B3_rules_that_are_enforced(subscripts, shapes):
    operands = [jnp.ones(shape) for shape in shapes]
    with pytest.raises((ValueError, TypeError)):
        jnp.einsum(subscripts, *operands)
    with pytest.raises(ValueError):  # noqa: PT011 - NumPy has another sentence for each
        np.einsum(subscripts, *map(np.asarray, operands))


def test_B3_no_array_of_products_is_made():
    a, b = jnp.ones((100, 200)), jnp.ones((200, 100))
    products = 100 * 200 * 100 * 8
    assert compiled_memory(lambda a, b: jnp.einsum("ij,jk->ik", a, b), a, b).temp < products / 20
    assert compiled_memory(lambda a, b: a[:, :, None] * b[None], a, b).output == products


def test_B3_the_cotangent_of_an_einsum_is_an_einsum(key):
    """Swap the result's letters with those of the operand that is asked for."""
    a, b = jax.random.normal(key, (5, 2, 3)), jax.random.normal(key, (3, 4))
    out, vjp = jax.vjp(lambda a, b: jnp.einsum("bij,jk->bik", a, b), a, b)
    g = jnp.cos(out)
    want = (jnp.einsum("bik,jk->bij", g, b), jnp.einsum("bik,bij->jk", g, a))
    assert_close(vjp(g), want)
    assert_close(jax.vjp(fnnet.matmul, a, b)[1](g), want)
