"""Planted bugs: norms, images, recurrent nets, attention, pytrees of parameters."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax

from .functions import (
    attention,
    avg_pool,
    conv,
    layer_norm,
    max_pool,
    mean,
    norm_args,
    norm_parts,
    rms_norm,
    rnn,
    softmax,
)
from .row import (
    bug,
    changed,
    normal,
    positive,
    rule,
)


def _norm_bug(name, codes, dx, args=norm_args):
    def build():
        def bwd(a, y, g):
            n, r = norm_parts(a[0])
            h = g * a[1][None]
            return dx(n, r, h), (g * n).sum(0), g.sum(0)

        return rule(layer_norm, bwd), args()

    bug(f"layer norm: {name}", *codes)(build)


_norm_bug(
    "through the mean forgotten", ("missing_term",), lambda n, r, h: r * (h - n * mean(h * n))
)
_norm_bug("through the variance forgotten", ("missing_term",), lambda n, r, h: r * (h - mean(h)))
_norm_bug("through both forgotten", ("missing_term",), lambda n, r, h: r * h)
_norm_bug(
    "statistics of g over the batch",
    ("wrong_axis",),
    lambda n, r, h: r * (h - h.mean(0, keepdims=True) - n * mean(h * n)),
    lambda: (normal(6, 6), positive(6, seed=1), normal(6, seed=2)),
)
_norm_bug(
    "1/std forgotten", ("unknown", "missing_term"), lambda n, r, h: h - mean(h) - n * mean(h * n)
)
_norm_bug(
    "the variance term added",
    ("missing_term", "unknown"),
    lambda n, r, h: r * (h - mean(h) + n * mean(h * n)),
)


@bug("layer norm: dscale without the normalised input", "unknown", "missing_term")
def _():
    return changed(layer_norm, lambda d, a, g: (d[0], (g * a[0]).sum(0), d[2])), norm_args()


@bug("layer norm: dscale is dshift", "swapped")
def _():
    return changed(layer_norm, lambda d, a, g: (d[0], d[2], d[1])), norm_args()


@bug("layer norm: dscale a mean", "mean_not_sum")
def _():
    return changed(layer_norm, lambda d, a, g: (d[0], d[1] / 4, d[2])), norm_args()


@bug("rms norm: the norm held constant", "missing_term")
def _():
    f = rule(rms_norm, lambda a, y, g: (g * lax.rsqrt(mean(a[0] ** 2) + 1e-6),))
    return f, (normal(4, 6),)


def image_args():
    return normal(2, 6, 6, 3), normal(3, 3, 3, 3, seed=1)


@bug("conv: the kernel not flipped", "unknown")
def _():
    def bwd(a, y, g):
        dx = conv(g, a[1].transpose(0, 1, 3, 2))
        return dx, jax.vjp(lambda w: conv(a[0], w), a[1])[1](g)[0]

    return rule(conv, bwd), image_args()


@bug("conv: channels not exchanged", "unknown")
def _():
    def bwd(a, y, g):
        return conv(g, a[1][::-1, ::-1]), jax.vjp(lambda w: conv(a[0], w), a[1])[1](g)[0]

    return rule(conv, bwd), image_args()


@bug("conv: dw with channels exchanged", "transposed")
def _():
    return changed(conv, lambda d, a, g: (d[0], d[1].transpose(0, 1, 3, 2))), image_args()


@bug("conv: dw a mean over the batch", "mean_not_sum", "scaled")
def _():
    return changed(conv, lambda d, a, g: (d[0], d[1] / 2)), image_args()


@bug("conv: the border of dx", "elements")
def _():
    return changed(conv, lambda d, a, g: (d[0].at[:, 0].set(0), d[1])), image_args()


@bug("avg pool: 1/4 forgotten", "scaled")
def _():
    def bwd(a, y, g):
        return (jnp.repeat(jnp.repeat(g, 2, 1), 2, 2),)

    return rule(avg_pool, bwd), (normal(2, 4, 4, 3),)


@bug("avg pool: to the first of each window", "elements", "unknown", "missing_term")
def _():
    def bwd(a, y, g):
        return (jnp.zeros_like(a[0]).at[:, ::2, ::2].set(g / 4),)

    return rule(avg_pool, bwd), (normal(2, 4, 4, 3),)


@bug("max pool: to all of the window", "unknown", "elements")
def _():
    def bwd(a, y, g):
        return (jnp.repeat(jnp.repeat(g, 2, 1), 2, 2),)

    return rule(max_pool, bwd), (normal(2, 4, 4, 3),)


@bug("max pool: to the first of each window", "unknown", "elements")
def _():
    def bwd(a, y, g):
        return (jnp.zeros_like(a[0]).at[:, ::2, ::2].set(g),)

    return rule(max_pool, bwd), (normal(2, 4, 4, 3),)


@bug("max pool: ties get g each", "elements", "unknown", "scaled")
def _():
    def bwd(a, y, g):
        up = functools.reduce(lambda z, k: jnp.repeat(z, 2, k), (1, 2), y)
        return (
            jnp.where(a[0] == up, functools.reduce(lambda z, k: jnp.repeat(z, 2, k), (1, 2), g), 0),
        )

    return rule(max_pool, bwd), (jnp.round(normal(2, 4, 4, 3)),)


def _rnn_args():
    return normal(5, 2, 3), 0.5 * normal(3, 4, seed=1), 0.5 * normal(4, 4, seed=2)


@bug("rnn: truncated to one step", "missing_term", "unknown")
def _():
    def one_step(x, wx, wh):
        h = rnn(x, wx, wh)
        before = lax.stop_gradient(jnp.concatenate([jnp.zeros_like(h[:1]), h[:-1]]))
        return jnp.tanh(x @ wx + before @ wh)

    return rule(rnn, lambda a, y, g: jax.vjp(one_step, *a)[1](g)), _rnn_args()


@bug("rnn: dwh of the last step only", "missing_term", "unknown")
def _():
    def bwd(a, y, g):
        d = jax.vjp(rnn, *a)[1](g)
        last = g[-1] * (1 - y[-1] ** 2)
        return d[0], d[1], y[-2].T @ last

    return rule(rnn, bwd), _rnn_args()


@bug("rnn: dwh transposed", "transposed")
def _():
    return changed(rnn, lambda d, a, g: (d[0], d[1], d[2].T)), _rnn_args()


@bug("rnn: time reversed in dx", "unknown", "transposed")
def _():
    return changed(rnn, lambda d, a, g: (d[0][::-1], d[1], d[2])), _rnn_args()


def _attention_args():
    return normal(5, 4), normal(5, 4, seed=1), normal(5, 4, seed=2)


@bug("attention: scale forgotten in dq", "scaled")
def _():
    return changed(attention, lambda d, a, g: (2 * d[0], d[1], d[2])), _attention_args()


@bug("attention: dq and dk swapped", "swapped")
def _():
    return changed(attention, lambda d, a, g: (d[1], d[0], d[2])), _attention_args()


@bug("attention: dv with p, not its transpose", "transposed", "unknown")
def _():
    def bwd(a, y, g):
        d = jax.vjp(attention, *a)[1](g)
        p = softmax(a[0] @ a[1].T / 2)
        return d[0], d[1], p @ g

    return rule(attention, bwd), _attention_args()


@bug("attention: softmax's sum forgotten", "missing_term", "unknown")
def _():
    def bwd(a, y, g):
        q, k, v = a
        p = softmax(q @ k.T / 2)
        ds = p * (g @ v.T) / 2
        return ds @ k, ds.T @ q, p.T @ g

    return rule(attention, bwd), _attention_args()


def _net(params, x):
    h = jnp.tanh(x @ params["in"]["w"] + params["in"]["b"][None])
    return h @ params["out"][0]


def _net_args():
    return {
        "in": {"w": normal(3, 4), "b": normal(4, seed=1)},
        "out": [normal(4, 2, seed=2)],
    }, normal(5, 3, seed=3)


def _net_bug(name, codes, change):
    def build():
        def bwd(a, y, g):
            d, dx = jax.vjp(_net, *a)[1](g)
            return change(d), dx

        return rule(_net, bwd), _net_args()

    bug(f"pytree: {name}", *codes)(build)


_net_bug(
    "one leaf doubled",
    ("scaled",),
    lambda d: {"in": {"w": d["in"]["w"], "b": 2 * d["in"]["b"]}, "out": d["out"]},
)
_net_bug(
    "one leaf None",
    ("zero", "shape"),
    lambda d: {"in": {"w": d["in"]["w"], "b": jnp.zeros_like(d["in"]["b"])}, "out": d["out"]},
)
_net_bug("a leaf left out", ("shape",), lambda d: {"in": d["in"], "out": []})
_net_bug("another structure", ("shape",), lambda d: [d["in"], d["out"]])
_net_bug("out negated", ("negated",), lambda d: {"in": d["in"], "out": [-d["out"][0]]})


@bug("pytree: one cotangent for the whole tree", "unknown", "swapped", "missing_term", "scaled")
def _():
    f = rule(lambda p: p["a"] * p["b"], lambda a, y, g: (g * a[0]["a"],))
    return f, ({"a": normal(5), "b": normal(5, seed=1)},)
