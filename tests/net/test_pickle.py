"""Layers pickle and copy, as the call that made them."""

import copy
import pickle

import jax.numpy as jnp
import pytest

import fnnet

LAYERS = {
    "linear": lambda: fnnet.layers.linear(3, 2, bias=False),
    "relu": fnnet.layers.relu_layer,
    "sequential": lambda: fnnet.layers.sequential(
        fnnet.layers.linear(3, 4), fnnet.layers.relu_layer(), fnnet.layers.layer_norm_layer(4)
    ),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("again", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy])
def test_layers(layer, again, key):
    one = LAYERS[layer]()
    two = again(one)
    x = jnp.ones((5, 3), "float32")
    a, b = (m.apply(m.init(key), x) for m in (one, two))
    assert (a == b).all()
