"""At kinks, ties and seams: wrong rules that lie outside of what may be there, and right ones."""

import jax
import jax.numpy as jnp
from jax import lax

from .row import bug, f32, normal, positive, right, rule


def _huber(x):
    return jnp.where(jnp.abs(x) <= 1, 0.5 * x * x, jnp.abs(x) - 0.5)


def _clip(slope):
    """`x` between -1 and 1, with a derivative of its own: a rule's gradient that is right."""

    @jax.custom_jvp
    def clip(x):
        return jnp.clip(x, -1, 1)

    clip.defjvp(lambda x, t: (clip(x[0]), slope(x[0]) * t[0]))
    return clip


def _seams(slope):
    return lambda: (
        rule(_huber, lambda a, y, g: (_clip(slope)(a[0]) * g,)),
        (f32(-1.0, 1.0, 0.4, 3.0, -1.0),),
    )


bug("huber: its second derivative is 5 at the seams", "second_order")(
    _seams(lambda x: jnp.where(jnp.abs(x) == 1, 5.0, jnp.where(jnp.abs(x) < 1, 1.0, 0.0)))
)
bug("huber: its second derivative is 1 beyond the seams", "second_order")(_seams(jnp.ones_like))
right("huber: its second derivative is 0 at the seams")(
    _seams(lambda x: jnp.where(jnp.abs(x) < 1, 1.0, 0.0))
)


def _first(x, g):
    return jnp.zeros_like(x).at[jnp.argmax(x)].set(g)


@bug("maximum with ties: twice when it is differentiated in g", "second_order")
def _():
    @jax.custom_jvp
    def twice(g):
        return g

    twice.defjvp(lambda g, t: (g[0], 2 * t[0]))
    return rule(lambda x: x.max(), lambda a, y, g: (_first(a[0], twice(g)),)), (f32(1, 3, 3, 0, 3),)


@bug("maximum with ties: a hundredth too much in float32 alone", "scaled", "elements", "dtype")
def _():
    def bwd(args, y, g):
        (x,) = args
        return ((1.01 if x.dtype == jnp.float32 else 1.0) * _first(x, g),)

    return rule(lambda x: x.max(), bwd), (f32(1, 3, 3, 0, 3),)


@bug("maximum with ties: to each of them", "elements", "scaled", "unknown", "missing_term")
def _():
    return rule(lambda x: x.max(), lambda a, y, g: (g * (a[0] == y),)), (f32(1, 3, 3, 0, 3),)


@bug("top-k with ties: the second cotangent to a number that is none", "elements", "unknown")
def _():
    def bwd(args, y, g):
        (x,) = args
        return (jnp.zeros_like(x).at[lax.top_k(x, 2)[1][0]].set(g[0]).at[4].set(g[1]),)

    return rule(lambda x: lax.top_k(x, 2)[0], bwd), (f32(1, 3, 3, 3, 0),)


@bug("hard tanh: a slope of 2 at its corners", "elements", "scaled")
def _():
    def bwd(args, y, g):
        (x,) = args
        return (g * jnp.where(jnp.abs(x) < 1, 1.0, jnp.where(jnp.abs(x) == 1, 2.0, 0.0)),)

    return rule(lambda x: jnp.clip(x, -1, 1), bwd), (f32(-1, 1, 0.5, 3),)


@bug("softmax, sure by 30: twice", "scaled", "unknown")
def _():
    def bwd(args, p, g):
        return (2 * p * (g - (g * p).sum()),)

    return rule(lambda x: jax.nn.softmax(x), bwd), (f32(30, 0),)


@right("max pool over equal pixels, to the first")
def _():
    def forward(x):
        return x.reshape(-1, 3).max(-1)

    def bwd(args, y, g):
        rows = args[0].reshape(-1, 3)
        first = jnp.argmax(rows, -1)[:, None] == jnp.arange(3)
        return ((first * g[:, None]).reshape(args[0].shape),)

    return rule(forward, bwd), (f32(0, 0, 0, 1, 2, 2, 3, 1, 3),)


@right("absolute value of a product that is 0 in a row")
def _():
    def bwd(args, y, g):
        x, w = args
        s = jnp.sign(x @ w) * g
        return s @ w.T, x.T @ s

    f = rule(lambda x, w: jnp.abs(x @ w), bwd)
    return f, (jnp.stack([positive(3), f32(0, 0, 0)]), positive(3, 4) - 1)


@bug("maximum with ties: its gradient has a slope of its own", "second_order")
def _():
    def bwd(args, y, g):
        (x,) = args
        return (_first(x, g) * (1 + x - lax.stop_gradient(x)),)

    return rule(lambda x: x.max(), bwd), (f32(3, 3, 1),)


def _layer(at_0):
    """A layer whose sums are all 0: as many kinks meet in an element as there are sums."""

    def forward(x, w, b):
        return x @ w + b[None]

    def bwd(args, y, g):
        x, w, b = args
        z = forward(x, w, b)
        d = jnp.where(z > 0, g, jnp.where(z == 0, at_0 * g, 0))
        return d @ w.T, x.T @ d, d.sum(0)

    f = rule(lambda x, w, b: jax.nn.relu(forward(x, w, b)), bwd)
    return lambda: (f, (0 * normal(3, 4), normal(4, 5), 0 * normal(5)))


right("relu of a layer whose sums are all 0")(_layer(0))
bug("relu of a layer whose sums are all 0: minus 3 there", "unknown", "scaled", "negated")(
    _layer(-3)
)
