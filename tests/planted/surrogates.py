"""Gradients that are another function's on purpose, said so and not."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from .row import bug, f32, normal, right, rule


def declared(reference: Any = None) -> dict[str, Any]:
    return {"surrogate": True} | ({"reference": reference} if reference else {})


def step(x):
    return jnp.heaviside(x, jnp.asarray(0.0, x.dtype))


def spike_bwd(args, y, g):
    s = jax.nn.sigmoid(4 * args[0])
    return (g * 4 * s * (1 - s),)


def fake_quant(x, s):
    return jnp.clip(jnp.round(x / s), -8, 7) * s


def nearest(z, codes):
    return codes[jnp.argmin(((z[:, None] - codes[None]) ** 2).sum(-1), -1)]


def sampled(key, p):
    return (jax.random.uniform(key, p.shape, p.dtype) < p).astype(p.dtype)


def reward(key, logits):
    drawn = jax.random.categorical(key, logits)
    return jnp.asarray([1.0, -2.0, 0.5, 3.0], logits.dtype)[drawn]


def reward_bwd(args, y, g):
    key, logits = args
    drawn = jax.random.categorical(key, logits)
    return None, g * y * (jax.nn.one_hot(drawn, 4, dtype=logits.dtype) - jax.nn.softmax(logits))


def clip_value(args, y, g):
    return (jnp.clip(g, -1, 1),)


def clip_norm(args, y, g):
    return (g / jnp.maximum(1, jnp.linalg.norm(g)),)


def same(x):
    return x * 1


ROUND = rule(lambda x: jnp.round(x), lambda a, y, g: (g,))

bug("rounding, straight-through", "surrogate")(lambda: (ROUND, (f32(0.3, 1.7, 2.2),)))
bug("floor, straight-through", "surrogate")(
    lambda: (rule(lambda x: jnp.floor(4 * x) / 4, lambda a, y, g: (g,)), (normal(8),))
)
bug("binary weights, straight-through within 1", "surrogate")(
    lambda: (
        rule(jnp.sign, lambda a, y, g: (jnp.where(jnp.abs(a[0]) <= 1, g, 0),)),
        (normal(3, 4),),
    )
)
bug("spikes with a sigmoid's slope", "surrogate")(lambda: (rule(step, spike_bwd), (normal(7),)))
bug("nearest code, straight-through", "surrogate", "swapped")(
    lambda: (
        rule(nearest, lambda a, y, g: (g, jnp.zeros_like(a[1]))),
        (normal(5, 3), normal(4, 3, seed=2)),
        {"argnums": 0},
    )
)
bug("Bernoulli sample, straight-through", "surrogate")(
    lambda: (
        rule(sampled, lambda a, y, g: (None, g)),
        (jax.random.key(0), f32(0.2, 0.5, 0.9)),
    )
)
bug("score function estimate", "surrogate")(
    lambda: (rule(reward, reward_bwd), (jax.random.key(1), normal(4)))
)
bug("clipped by value", "surrogate")(lambda: (rule(same, clip_value), (normal(6),)))
bug("clipped by norm", "surrogate")(lambda: (rule(same, clip_norm), (normal(6),)))
bug("a layer clipped by value", "surrogate")(
    lambda: (
        rule(jnp.tanh, lambda a, y, g: (jnp.clip(g * (1 - y * y), -0.1, 0.1),)),
        (normal(6),),
    )
)


@bug("fake quantisation with a learned step", "surrogate")
def _():
    def bwd(args, y, g):
        x, s = args
        inside = (x / s >= -8) & (x / s <= 7)
        level = jnp.clip(jnp.round(x / s), -8, 7)
        return jnp.where(inside, g, 0), jnp.sum(g * jnp.where(inside, level - x / s, level))

    return rule(fake_quant, bwd), (normal(9), f32(0.3)[0])


bug("a reference of another value", "value_differs")(
    lambda: (
        rule(same, lambda a, y, g: (-g,)),
        (normal(6),),
        {"reference": lambda x: -x},
    )
)
bug("a reference of another value in one element", "value_differs")(
    lambda: (
        rule(jnp.sin, lambda a, y, g: (g * jnp.cos(a[0]),)),
        (normal(6),),
        {"reference": lambda x: jnp.sin(x).at[3].add(0.01)},
    )
)
bug("declared straight-through: twice", "scaled")(
    lambda: (rule(lambda x: jnp.round(x), lambda a, y, g: (2 * g,)), (normal(8),), declared(same))
)
bug("declared spikes: the wrong slope", "unknown", "missing_term", "elements")(
    lambda: (
        rule(step, spike_bwd),
        (normal(7),),
        declared(lambda x: jax.nn.sigmoid(2 * x)),
    )
)

right("spikes, declared")(
    lambda: (rule(step, spike_bwd), (normal(7),), declared(lambda x: jax.nn.sigmoid(4 * x)))
)
right("rounding, declared a surrogate alone")(lambda: (ROUND, (f32(0.3, 1.7, 2.2),), declared()))
right("clipped by value, declared")(lambda: (rule(same, clip_value), (normal(6),), declared()))
right("clipped by norm, declared")(lambda: (rule(same, clip_norm), (normal(6),), declared()))
right("reversed, declared")(
    lambda: (rule(same, lambda a, y, g: (-g,)), (normal(6),), declared(lambda x: -x))
)
right("score function estimate, declared")(
    lambda: (rule(reward, reward_bwd), (jax.random.key(1), normal(4)), declared())
)
right("a clipping that does not bite is none")(
    lambda: (
        rule(lambda x: jnp.clip(x, -1, 1), lambda a, y, g: (g,)),
        (f32(0.1, 0.2),),
    )
)
