"""Registered and plain functions are functions: they pickle, copy, and serve as methods."""

import copy
import inspect
import pickle

import jax
import jax.numpy as jnp
import pytest

import fnnet
from fnnet import plain, register


def cube(x):
    """x to the third."""
    return x**3


def _fwd(x):
    return x**3, x


def _bwd(x, g):
    return (3 * x**2 * g,)


by_hand = register(cube, _fwd, _bwd)  # not the name it was made with
square = register(lambda x: x * x, lambda x: (x * x, x), lambda x, g: (2 * x * g,), name="square")


@pytest.mark.parametrize("f", [by_hand, square, fnnet.relu, fnnet.lin, fnnet.attention])
def test_pickle_and_copy_give_the_function_itself(f):
    assert pickle.loads(pickle.dumps(f)) is f
    assert copy.copy(f) is f
    assert copy.deepcopy({"f": f})["f"] is f


@pytest.mark.parametrize("f", [by_hand, fnnet.relu, cube])
def test_plain_pickles(f):
    again = pickle.loads(pickle.dumps(plain(f)))
    assert again(2.0) == f(2.0)
    assert jax.jvp(again, (2.0,), (1.0,))[1] == jax.jvp(plain(f), (2.0,), (1.0,))[1]
    assert copy.deepcopy(again) is again


def test_without_a_name_in_its_module_the_error_says_so():
    def make():
        return register(cube, _fwd, _bwd, name="nameless")

    with pytest.raises(pickle.PicklingError, match=r"nameless: .*has no name for it"):
        pickle.dumps(make())


def test_it_looks_like_the_function():
    assert by_hand.__name__ == "cube"
    assert by_hand.__doc__ == "x to the third."
    assert repr(square) == "<function square>"
    assert inspect.signature(plain(by_hand)) == inspect.signature(cube)

    class Net:
        def _cubed(self, x):
            return x**3

        cubed = register(_cubed, lambda self, x: _fwd(x), _bwd, static_argnames="self")

    assert jax.grad(Net().cubed)(2.0) == 12
    assert jax.jit(by_hand)(jnp.ones(2)).shape == (2,)
