"""Models of text made of fnnet's ops: a small transformer, and recurrent nets.

A model reads characters (n, t), as numbers, and predicts at each place the one that follows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from fnnet import attention, glu_mlp, gru, init, lin, linear_cross_entropy, rms_norm, rnn

Params: TypeAlias = dict[str, Any]

HEAD = 32  # features of one attention head


class Model(NamedTuple):
    """How parameters are drawn, and what they make of characters.

    Attributes:
        init: ``(key) -> params``.
        features: ``(params, characters (n, t)) -> (n, t, width)``, from which the next character is
            told by one linear layer, params["out"].
    """

    init: Callable[[Array], Params]
    features: Callable[[Params, Array], Array]

    def loss(self, params: Params, characters: Array, following: Array) -> Array:
        """Mean cross entropy in nats, of (n, t) characters and those that follow them."""
        return linear_cross_entropy(self.features(params, characters), params["out"], following)

    def logits(self, params: Params, characters: Array) -> Array:
        """What is said of the character after the last: (n, classes)."""
        return lin(self.features(params, characters)[:, -1], params["out"])


def transformer(classes: int, width: int, layers: int, length: int) -> Model:
    """Attention with grouped heads and a gated block in each layer, RMS norm before either."""
    heads = max(2, width // HEAD)
    d = width // heads
    shapes = {
        "q": (width, heads * d),
        "kv": (width, 2 * (heads // 2) * d),
        "mix": (heads * d, width),
        "gate": (width, 2 * width),
        "up": (width, 2 * width),
        "down": (2 * width, width),
    }

    def layer(key: Array) -> Params:
        keys = jax.random.split(key, len(shapes))
        weights = {
            name: init.lecun_normal(k, s) for k, (name, s) in zip(keys, shapes.items(), strict=True)
        }
        return weights | {"norm1": jnp.ones(width), "norm2": jnp.ones(width)}

    def draw(key: Array) -> Params:
        k1, k2, k3, k4 = jax.random.split(key, 4)
        return {
            "embed": init.normal(0.5)(k1, (classes, width)),
            "place": init.normal(0.1)(k2, (length, width)),
            "layers": jax.vmap(layer)(jax.random.split(k3, layers)),
            "norm": jnp.ones(width),
            "out": 0.1 * init.lecun_normal(k4, (width, classes)),
        }

    def block(x: Array, p: Params) -> tuple[Array, None]:
        n, t, _ = x.shape
        u = rms_norm(x, p["norm1"])
        q = lin(u, p["q"]).reshape(n, t, heads, d)
        k, v = jnp.split(lin(u, p["kv"]).reshape(n, t, heads // 2 * 2, d), 2, axis=2)
        seen = attention(q, k, v, causal=True).reshape(n, t, heads * d)
        x = x + lin(seen, p["mix"])
        return x + glu_mlp(rms_norm(x, p["norm2"]), p["gate"], p["up"], p["down"]), None

    def features(params: Params, characters: Array) -> Array:
        x = params["embed"][characters]
        x = x + jnp.broadcast_to(params["place"][: x.shape[1]], x.shape)
        x, _ = jax.lax.scan(block, x, params["layers"])
        return rms_norm(x, params["norm"])

    return Model(draw, features)


def recurrent(classes: int, width: int, layers: int, *, gated: bool) -> Model:
    """Recurrent layers one above the other: GRUs, or plain tanh layers."""
    gates, op = (3, gru) if gated else (1, rnn)

    def layer(key: Array) -> Params:
        k1, k2 = jax.random.split(key)
        return {
            "wx": init.lecun_normal(k1, (width, gates * width)),
            "wh": init.lecun_normal(k2, (width, gates * width)),
            "b": jnp.zeros(gates * width),
        }

    def draw(key: Array) -> Params:
        k1, k2, k3 = jax.random.split(key, 3)
        return {
            "embed": init.normal(0.5)(k1, (classes, width)),
            "layers": [layer(k) for k in jax.random.split(k2, layers)],
            "out": 0.1 * init.lecun_normal(k3, (width, classes)),
        }

    def features(params: Params, characters: Array) -> Array:
        x = jnp.moveaxis(params["embed"][characters], 1, 0)  # time first
        for p in params["layers"]:
            x = op(x, jnp.zeros(x.shape[1:]), p["wx"], p["wh"], p["b"])
        return jnp.moveaxis(x, 0, 1)

    return Model(draw, features)


def make(name: str, *, classes: int, width: int, layers: int, length: int) -> Model:
    """The model of this name: "transformer", "gru" or "rnn"."""
    if name == "transformer":
        return transformer(classes, width, layers, length)
    return recurrent(classes, width, layers, gated=name == "gru")
