"""Rules of transforms, matrices, orders and recurrences: each wrong one beside the right one."""

import jax
import jax.numpy as jnp
from jax import lax

from .row import bug, complex_normal, f32, normal, positive, right, rule


def both(name, forward, wrong, bwd, args, *codes):
    """A right rule, and one that is wrong in one way; `args` builds what they are called with."""
    what, by = wrong
    right(name)(lambda: (rule(forward, bwd), args()))
    bug(f"{name}: {what}", *codes)(lambda: (rule(forward, by), args()))


both(
    "Fourier transform",
    lambda x: jnp.fft.fft(x),
    ("the inverse one pulls back", lambda a, y, g: (jnp.fft.ifft(g),)),
    lambda a, y, g: (jnp.fft.fft(g),),
    lambda: (complex_normal(6),),
    "unknown",
    "scaled",
)


def _hermitian(twice):
    def bwd(args, y, g):
        # each frequency but the first and the last stands for two
        return (jnp.conj(jnp.fft.rfft(g)) * jnp.asarray(twice, g.dtype) / y.shape[-1],)

    return bwd


both(
    "inverse Fourier transform of a real signal",
    lambda x: jnp.fft.irfft(x, 6),
    ("the ends counted twice", _hermitian([2.0, 2.0, 2.0, 2.0])),
    _hermitian([1.0, 2.0, 2.0, 1.0]),
    lambda: (complex_normal(4),),
    "elements",
    "unknown",
)


def _symmetric(a):
    return (a + a.T) / 2


def _eigenvalues(halved):
    def bwd(args, y, g):
        v = jnp.linalg.eigh(_symmetric(args[0]))[1]
        return ((v * g) @ v.T * jnp.where(jnp.eye(len(y)) == 1, 1.0, halved),)

    return bwd


both(
    "eigenvalues of a symmetric part",
    lambda a: jnp.linalg.eigvalsh(_symmetric(a)),
    ("half, off the diagonal", _eigenvalues(0.5)),
    _eigenvalues(1.0),
    lambda: (normal(4, 4),),
    "elements",
    "unknown",
)
both(
    "matrix inverse",
    lambda a: jnp.linalg.inv(a),
    ("not transposed", lambda a, y, g: (-y @ g @ y,)),
    lambda a, y, g: (-y.T @ g @ y.T,),
    lambda: (normal(3, 3) + 2 * jnp.eye(3, dtype="float32"),),
    "unknown",
    "transposed",
)
both(
    "cumulative product",
    lambda x: jnp.cumprod(x),
    ("summed forwards", lambda a, y, g: (jnp.cumsum(g * y) / a[0],)),
    lambda a, y, g: (jnp.cumsum((g * y)[::-1])[::-1] / a[0],),
    lambda: (f32(2, -1, 3, 1),),
    "unknown",
    "elements",
)


def _others(x):
    """For each number the product of the others."""
    return jnp.where(jnp.eye(len(x), dtype=bool), jnp.ones((), x.dtype), x[None, :]).prod(1)


both(
    "product with a zero in it",
    lambda x: jnp.prod(x),
    (
        "nothing for the zero",
        lambda a, y, g: (jnp.where(a[0] == 0, 0, g * y / jnp.where(a[0] == 0, 1, a[0])),),
    ),
    lambda a, y, g: (g * _others(a[0]),),
    lambda: (f32(2, 0, 3),),
    "zero",
    "elements",
    "missing_term",
)


def _place(x, t):
    """The node below `t`, and how far `t` is from it."""
    i = jnp.clip(jnp.floor(t).astype(int), 0, len(x) - 2)
    return i, t - i.astype(t.dtype)


def _between(x, t):
    i, w = _place(x, t)
    return x[i] * (1 - w) + x[i + 1] * w


def _weights(exchanged):
    def bwd(args, y, g):
        x, t = args
        i, w = _place(x, t)
        low, high = (w, 1 - w) if exchanged else (1 - w, w)
        dx = jnp.zeros_like(x).at[i].add(g * low).at[i + 1].add(g * high)
        return dx, g * (x[i + 1] - x[i])

    return bwd


both(
    "linear interpolation, once at a node",
    _between,
    ("the weights exchanged", _weights(True)),
    _weights(False),
    lambda: (normal(6), f32(0.25, 3.0, 2.5)),
    "unknown",
    "elements",
)


def _smoothed(x, a):
    return lax.scan(lambda c, t: (a * c + t,) * 2, jnp.zeros((), x.dtype), x)[1]


def _adjoint(before):
    def bwd(args, y, g):
        a = args[1]
        d = lax.scan(lambda c, t: (a * c + t,) * 2, jnp.zeros((), g.dtype), g, reverse=True)[1]
        return d, jnp.sum(d * (jnp.concatenate([jnp.zeros(1, y.dtype), y[:-1]]) if before else y))

    return bwd


both(
    "recurrence by a scan",
    _smoothed,
    ("a step late in the factor", _adjoint(False)),
    _adjoint(True),
    lambda: (normal(5), jnp.float32(0.7)),
    "scaled",
    "unknown",
    "negated",
)


def _routed(exchanged):
    def bwd(args, y, g):
        x, w = args
        k = jnp.argmax(x @ w, -1)
        chosen = jax.nn.one_hot((k + exchanged) % w.shape[1], w.shape[1], dtype=x.dtype)
        return g[:, None] * w.T[k], x.T @ (chosen * g[:, None])

    return bwd


def _best(x, w):
    y = x @ w
    return jnp.take_along_axis(y, jnp.argmax(y, -1)[:, None], -1)[:, 0]


both(
    "the best of some experts",
    _best,
    ("to the next expert", _routed(1)),
    _routed(0),
    lambda: (normal(4, 3), normal(3, 5)),
    "unknown",
    "elements",
    "transposed",
)


def _clipped(inside):
    def bwd(args, y, g):
        x, low, high = args
        return (
            jnp.where(inside(x, low, high), g, 0),
            jnp.sum(jnp.where(x < low, g, 0)),
            jnp.sum(jnp.where(x > high, g, 0)),
        )

    return bwd


both(
    "clipped between two bounds, of which it meets both",
    lambda x, low, high: jnp.clip(x, low, high),
    ("the gradient goes through above", _clipped(lambda x, low, high: x >= low)),
    _clipped(lambda x, low, high: (x >= low) & (x <= high)),
    lambda: (f32(-1, 0, 0.5, 1, 2), jnp.float32(0), jnp.float32(1)),
    "elements",
    "zero",
)
both(
    "quantile loss at 0",
    lambda e: jnp.maximum(0.3 * e, -0.7 * e),
    (
        "the quantiles exchanged",
        lambda a, y, g: (jnp.where(a[0] > 0, 0.7, -0.3).astype(g.dtype) * g,),
    ),
    lambda a, y, g: (jnp.where(a[0] > 0, 0.3, -0.7).astype(g.dtype) * g,),
    lambda: (f32(0, 1, -2, 3),),
    "unknown",
    "elements",
)


def _scalings(c):
    """The scalings of Sinkhorn's kernel, after so many steps that they are those of its limit."""
    k = jnp.exp(-2 * c)

    def step(_, uv):
        u = 1 / (k @ uv[1])
        return u, 1 / (k.T @ u)

    ones = jnp.ones(len(c), c.dtype)
    return (k, *lax.fori_loop(0, 60, step, (ones, ones)))


def _transport(c):
    _, u, v = _scalings(c)
    return (jnp.log(u).sum() + jnp.log(v).sum()) / 2


def _plan(power):
    def bwd(args, y, g):
        k, u, v = _scalings(args[0])
        return (g * u[:, None] ** power * k * v[None, :],)

    return bwd


both(
    "Sinkhorn's transport by 60 steps",
    _transport,
    ("a row's scaling twice", _plan(2)),
    _plan(1),
    lambda: (positive(3, 3),),
    "unknown",
    "elements",
)


def _kepler(m, e):
    def residual(x):
        return (x - e * jnp.sin(x) - m) / (1 - e * jnp.cos(x))

    return lax.while_loop(
        lambda x: (jnp.abs(residual(x)) > 1e-6).any(), lambda x: x - residual(x), m + 0 * e
    )


def _anomaly(sign):
    def bwd(args, x, g):
        slope = 1 - args[1] * jnp.cos(x)
        return g / slope, sign * jnp.sum(g * jnp.sin(x) / slope)

    return bwd


both(
    "Kepler's equation by Newton until 1e-6",
    _kepler,
    ("the wrong sign for the eccentricity", _anomaly(-1)),
    _anomaly(1),
    lambda: (f32(0.3, 1.0, 2.5), jnp.float32(0.4)),
    "negated",
)
