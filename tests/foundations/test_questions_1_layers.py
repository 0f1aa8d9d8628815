"""The chapter's questions 1-9: neurons, layers, and the product they are made of.

Each comment gives the question in few words and its answer; the code shows it. "Often answered"
names an answer that is met with and is wrong.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnnet
from fnnet import lin, relu
from tests.compare import assert_close


def test_Q01_a_single_neuron():
    # One neuron in code? The weighted sum of its inputs plus a bias, through an activation. Often
    # answered with x @ w + b, which is a layer's linear part: many neurons and no activation.
    def neuron(inputs, weights, bias):
        return max(0.0, sum(x * w for x, w in zip(inputs, weights, strict=True)) + bias)

    assert neuron([1.0, 2.0], [3.0, -1.0], 0.5) == 1.5
    assert neuron([1.0, 2.0], [-3.0, 1.0], 0.5) == 0


def test_Q02_relu():
    # ReLU in code? max(x, 0) of every element. Often answered with `x if x >= 0 else 0`, which is
    # right for one number and no function of arrays.
    assert relu(jnp.array([-2.0, 0, 3])).tolist() == [0, 0, 3]
    with pytest.raises(ValueError, match="truth value"):
        (lambda x: x if x >= 0 else 0)(np.array([-2.0, 3]))


def test_Q03_a_dense_layer_by_a_matrix_product(key):
    # A dense layer by matrix multiplication? x @ w + b: samples in rows, neurons in columns. Often
    # answered with the sum of x_i w_i, which is one neuron for one sample.
    x, w, b = jax.random.normal(key, (5, 3)), jnp.ones((3, 4)), jnp.arange(4.0)
    assert_close(x @ w + b[None], lin(x, w, b))


def test_Q04_a_dense_layer_in_plain_python():
    # The same without arrays? One comprehension in another. With weights of shape (n_out, n_in), as
    # some store them, a neuron's weights are a row of w and the array form is x @ w.T + b.
    def dense(x, w, b):
        return [
            [
                sum(p * q for p, q in zip(row, ws, strict=True)) + bias
                for ws, bias in zip(w, b, strict=True)
            ]
            for row in x
        ]

    x, w, b = [[1.0, 2.0], [3.0, 4.0]], [[1.0, 0.0], [0.5, -1.0], [2.0, 2.0]], [0.0, 1.0, -1.0]
    assert dense(x, w, b) == lin(jnp.array(x), jnp.array(w).T, jnp.array(b)).tolist()


def test_Q05_hidden_size():
    # The hidden size? The number of neurons of a layer that is neither input nor output: what its
    # weights have as columns and the next ones as rows. Data fix the other two sizes, not this one.
    first, second = fnnet.backprop.init_mlp(jax.random.key(0), (784, 50, 10))
    assert first.w.shape == (784, 50)
    assert second.w.shape == (50, 10)


def test_Q06_transpose():
    # What does `t` do? It swaps the two axes of a matrix, m.T here: rows become columns.
    m = jnp.arange(6.0).reshape(2, 3)
    assert m.T.tolist() == [[0, 3], [1, 4], [2, 5]]


def seconds(f):
    start = time.perf_counter()
    jax.block_until_ready(f())
    return time.perf_counter() - start


def test_Q07_why_plain_python_is_slow(key):
    # Why is the product in plain Python slow? Every one of n k m multiplications is done by the
    # interpreter: looked up, checked for its types, boxed; compiled code does several in a cycle.
    a, b = np.ones((5, 784)), np.ones((784, 10))
    lists = a.tolist(), b.T.tolist()

    def loops():
        return [[sum(x * y for x, y in zip(r, c, strict=True)) for c in lists[1]] for r in lists[0]]

    assert loops() == (a @ b).tolist()
    assert min(seconds(loops) for _ in range(5)) > 10 * min(
        seconds(lambda: a @ b) for _ in range(5)
    )


def test_Q08_inner_sizes():
    # Why must the columns of a be as many as the rows of b? Each element of the product pairs a row
    # of a with a column of b, number by number.
    with pytest.raises(
        ValueError, match="the last axis of a must equal the last but one axis of b"
    ):
        fnnet.matmul(jnp.ones((5, 4)), jnp.ones((3, 2)))
    with pytest.raises(ValueError, match="zip"):
        [x * y for x, y in zip(range(4), range(3), strict=True)]


def test_Q09_measuring_time():
    # How is the time of a cell taken? %time and %timeit in a notebook; with JAX after a first call,
    # which compiles, and up to the moment when the result is there and not just promised. So does
    # `python -m fnnet ladder`.
    traced = []

    @jax.jit
    def f(x):
        traced.append(1)
        return jnp.tanh(x @ x)

    x = jnp.ones((50, 50))
    first = seconds(lambda: f(x))
    later = min(seconds(lambda: f(x)) for _ in range(5))
    assert first > 5 * later
    assert len(traced) == 1
