"""Planted bugs: losses, reductions, broadcasting, softmax and cross entropy."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from .functions import (
    LABELS,
    cross_entropy,
    log_softmax,
    mse,
    one_hot,
    softmax,
)
from .row import (
    bug,
    changed,
    normal,
    rule,
)


@bug("mse: 1/n applied twice", "mean_not_sum")
def _():
    f = changed(mse, lambda d, a, g: (d[0] / 48, d[1]))
    return f, (normal(8, 6), normal(8, 6, seed=1))


@bug("mse: 1/n forgotten", "scaled")
def _():
    f = rule(mse, lambda a, y, g: (2 * (a[0] - a[1]) * g, -2 * (a[0] - a[1]) * g / 48))
    return f, (normal(8, 6), normal(8, 6, seed=1))


@bug("mse: dtarg is dpred", "negated")
def _():
    return changed(mse, lambda d, a, g: (d[0], d[0])), (normal(7), normal(7, seed=1))


@bug("mse: forgets g", "ignores_cotangent")
def _():
    f = rule(mse, lambda a, y, g: (2 / 7 * (a[0] - a[1]), -2 / 7 * (a[0] - a[1])))
    return f, (normal(7), normal(7, seed=1))


@bug("mse: only the sign", "nonlinear_in_cotangent")
def _():
    return changed(mse, lambda d, a, g: (jnp.sign(d[0]) * g, d[1])), (normal(7), normal(7, seed=1))


@bug("sum over rows: spread along columns", "wrong_axis", "transposed")
def _():
    f = rule(lambda x: x.sum(0), lambda a, y, g: (jnp.broadcast_to(g[:, None], a[0].shape),))
    return f, (normal(5, 5),)


@bug("mean over rows: 1/n forgotten", "scaled")
def _():
    f = rule(lambda x: x.mean(0), lambda a, y, g: (jnp.broadcast_to(g[None], a[0].shape),))
    return f, (normal(5, 3),)


@bug("mean: 1/n of the other axis", "scaled")
def _():
    f = rule(lambda x: x.mean(0), lambda a, y, g: (jnp.broadcast_to(g[None] / 3, a[0].shape),))
    return f, (normal(5, 3),)


@bug("sum: 1/n too much", "mean_not_sum")
def _():
    f = rule(lambda x: x.sum(0), lambda a, y, g: (jnp.broadcast_to(g[None] / 5, a[0].shape),))
    return f, (normal(5, 3),)


@bug("cumsum: not reversed", "unknown")
def _():
    return rule(lambda x: jnp.cumsum(x), lambda a, y, g: (jnp.cumsum(g),)), (normal(7),)


@bug("max: to every element", "elements", "unknown")
def _():
    f = rule(lambda x: x.max(-1), lambda a, y, g: (jnp.broadcast_to(g[:, None], a[0].shape),))
    return f, (normal(4, 5),)


@bug("prod: with its own factor", "unknown")
def _():
    f = rule(
        lambda x: jnp.prod(x, -1), lambda a, y, g: (jnp.broadcast_to((g * y)[:, None], a[0].shape),)
    )
    return f, (normal(4, 5),)


@bug("outer sum: one broadcast axis summed, of equal sizes the wrong one", "wrong_axis", "swapped")
def _():
    f = rule(lambda a, b: a[:, None] + b[None], lambda a, y, g: (g.sum(0), g.sum(0)))
    return f, (normal(5), normal(5, seed=1))


@bug("scale by a scalar: the scalar's gradient is a mean", "mean_not_sum")
def _():
    f = rule(lambda s, x: s * x, lambda a, y, g: (jnp.mean(g * a[1]), g * a[0]))
    return f, (jnp.asarray(1.5, "float32"), normal(4, 5))


@bug("scale by a scalar: not summed", "shape")
def _():
    f = rule(lambda s, x: s * x, lambda a, y, g: (g * a[1], g * a[0]))
    return f, (jnp.asarray(1.5, "float32"), normal(4, 5))


@bug("norm: without the division", "unknown")
def _():
    f = rule(lambda x: jnp.sqrt((x * x).sum(-1)), lambda a, y, g: (g[:, None] * a[0],))
    return f, (normal(4, 5),)


@bug("transpose: not transposed back", "transposed")
def _():
    return rule(lambda x: 2 * x.T, lambda a, y, g: (2 * g,)), (normal(4, 4),)


@bug("transpose of three axes: the same permutation again", "transposed")
def _():
    f = rule(lambda x: x.transpose(1, 2, 0), lambda a, y, g: (g.transpose(1, 2, 0),))
    return f, (normal(3, 3, 3),)


@bug("take: repeated indices overwrite", "elements", "missing_term")
def _():
    i = jnp.asarray(np.array([0, 2, 2, 1]))

    def bwd(a, y, g):
        return jnp.zeros_like(a[0]).at[a[1]].set(g), None

    return rule(lambda x, i: x[i], bwd), (normal(5), i)


@bug("softmax: diagonal only", "missing_term")
def _():
    return rule(softmax, lambda a, y, g: (g * y * (1 - y),)), (normal(4, 5),)


@bug("softmax: y g", "missing_term")
def _():
    return rule(softmax, lambda a, y, g: (g * y,)), (normal(4, 5),)


@bug("softmax: the sum over the wrong axis", "wrong_axis")
def _():
    f = rule(softmax, lambda a, y, g: (y * (g - (g * y).sum(0, keepdims=True)),))
    return f, (normal(5, 5),)


@bug("softmax: the sum without y", "unknown", "missing_term")
def _():
    f = rule(softmax, lambda a, y, g: (y * (g - g.sum(-1, keepdims=True)),))
    return f, (normal(4, 5),)


@bug("softmax: plus for minus", "missing_term", "unknown")
def _():
    f = rule(softmax, lambda a, y, g: (y * (g + (g * y).sum(-1, keepdims=True)),))
    return f, (normal(4, 5),)


@bug("log softmax: softmax without the sum of g", "nonlinear_in_cotangent")
def _():
    return rule(log_softmax, lambda a, y, g: (g - jnp.exp(y),)), (normal(4, 5),)


@bug("log softmax: g alone", "missing_term")
def _():
    return rule(log_softmax, lambda a, y, g: (g,)), (normal(4, 5),)


def _ce_bug(name, codes, dz):
    def build():
        f = rule(cross_entropy, lambda a, y, g: (dz(a[0], one_hot(a[1], a[0]), g), None))
        return f, (normal(6, 3), jnp.asarray(LABELS))

    bug(f"cross entropy: {name}", *codes)(build)


_ce_bug("1/n forgotten", ("scaled",), lambda z, t, g: g * (softmax(z) - t))
_ce_bug("1/n twice", ("mean_not_sum",), lambda z, t, g: g * (softmax(z) - t) / 36)
_ce_bug("target minus prediction", ("negated",), lambda z, t, g: g * (t - softmax(z)) / 6)
_ce_bug("the one-hot forgotten", ("missing_term",), lambda z, t, g: g * softmax(z) / 6)
_ce_bug("the softmax forgotten", ("missing_term",), lambda z, t, g: -g * t / 6)
_ce_bug("forgets g", ("ignores_cotangent",), lambda z, t, g: (softmax(z) - t) / 6)
_ce_bug(
    "softmax over the batch",
    ("wrong_axis", "unknown"),
    lambda z, t, g: g * (softmax(z.T).T - t) / 6,
)
