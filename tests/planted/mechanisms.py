"""Rules by the ways in which JAX lets them be written, where one meets another."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jax.interpreters import ad

from .kinds_hijax import there
from .made import hijax, primitive
from .row import bug, f32, normal, positive, right, rule

ZERO = jax.custom_derivatives.SymbolicZero


def _square(factor):
    f = jax.custom_jvp(lambda x: x * x)
    f.defjvp(lambda x, t: (f(x[0]), factor * x[0] * t[0]))

    def repeated(x):
        return lax.while_loop(lambda c: c[1] < 3, lambda c: (f(c[0]), c[1] + 1), (x, 0))[0]

    return lambda: (repeated, (0.5 * positive(4),))


right("custom_jvp: in a loop of unknown length, forward alone")(_square(2))
bug("custom_jvp: in a loop of unknown length: three for two", "scaled", "unknown")(_square(3))


def _branch(factor):
    f = jax.custom_jvp(lambda x: x**3)
    f.defjvp(lambda x, t: (f(x[0]), factor * x[0] ** 2 * t[0]))
    return lambda: (lambda x: lax.cond(x.sum() > 0, f, jnp.sin, x), (positive(4),))


right("custom_jvp: in a branch")(_branch(3))
bug("custom_jvp: in the branch taken", "scaled")(_branch(2))


def _alone(factor):
    """A product that is told which of its arguments move."""
    f = jax.custom_jvp(lambda x, y: x * y)

    def jvp(primals, tangents):
        (x, y), (tx, ty) = primals, tangents
        out = jnp.zeros_like(x)
        if type(tx) is not ZERO:
            out = out + tx * y * (factor if type(ty) is ZERO else 1)
        if type(ty) is not ZERO:
            out = out + ty * x
        return x * y, out

    f.defjvp(jvp, symbolic_zeros=True)
    return lambda: (f, (normal(3), normal(3, seed=1)))


right("custom_jvp: told which arguments move")(_alone(1))
bug("custom_jvp: more where one argument moves alone", "scaled")(_alone(1.2))


def _moved_sine(both):
    def fwd(x, y):
        more = both if x.perturbed and y.perturbed else 1.0
        return x.value * y.value, (x.value, y.value, jnp.asarray(more, x.value.dtype))

    f = jax.custom_vjp(lambda x, y: x * y)
    f.defvjp(fwd, lambda r, g: (g * r[1], r[2] * g * r[0]), symbolic_zeros=True)
    return lambda: (f, (normal(3), normal(3, seed=1)))


bug("symbolic zeros: more where both arguments move", "scaled")(_moved_sine(1.5))


def _batched(mean):
    @custom_vmap
    def pulled(g, x):
        return g * jnp.cos(x)

    @pulled.def_vmap
    def _(n, batched, g, x):
        g, x = (v if b else v[None] for v, b in zip((g, x), batched, strict=True))
        out = g * jnp.cos(x)
        out = jnp.broadcast_to(out, (n, *out.shape[1:]))
        return jnp.broadcast_to(out.mean(0), out.shape) if mean else out, True

    return lambda: (rule(lambda x: jnp.sin(x), lambda a, y, g: (pulled(g, a[0]),)), (normal(3),))


right("custom_vmap: in a backward pass")(_batched(False))
bug("custom_vmap: in a backward pass, a mean over the batch", "unknown", "elements")(_batched(True))


def _closed_over(kept):
    def outer(x, c):
        inner, consts = jax.closure_convert(lambda x: x * jnp.sin(c), x)
        f = jax.custom_vjp(lambda x, *cs: inner(x, *cs))

        def bwd(res, g):
            dx, *dc = jax.vjp(inner, res[0], *res[1])[1](g)
            return (dx, *(d * kept for d in dc))

        f.defvjp(lambda x, *cs: (inner(x, *cs), (x, cs)), bwd)
        return f(x, *consts)

    return lambda: (outer, (normal(3), normal(3, seed=1)))


right("closure_convert: what is closed over has a cotangent")(_closed_over(1))
bug("closure_convert: what is closed over has none", "zero")(_closed_over(0))


def _nth(shift):
    f = jax.custom_vjp(lambda n, x: x**n, nondiff_argnums=(0,))
    f.defvjp(lambda n, x: (x**n, x), lambda n, x, g: (g * n * x ** (n - shift),))
    return lambda: (functools.partial(f, 3), (positive(4),))


right("nondiff_argnums: a power")(_nth(1))
bug("nondiff_argnums: a power, one exponent too low", "unknown", "elements")(_nth(2))


def _taken(shift):
    def bwd(self, res, g):
        x, i = res
        return jnp.zeros_like(x).at[(i + shift) % x.shape[0]].add(there(g)), None

    f = hijax(lambda x, i: jnp.take(x, i), vjp_bwd_retval=bwd, batch=None)
    return lambda: (f, (normal(5), jnp.array([0, 2, 2])))


right("hijax: an argument of whole numbers")(_taken(0))
bug("hijax: an argument of whole numbers, one place on", "unknown", "elements", "transposed")(
    _taken(1)
)


def _cosine(sign):
    cos = hijax(
        lambda x: jnp.cos(x),
        vjp_bwd_retval=lambda self, res, g: (sign * there(g) * jnp.sin(res[0]),),
        jvp=lambda self, x, t: (self(*x), sign * there(t[0]) * jnp.sin(x[0])),
    )
    return lambda: (rule(lambda x: jnp.sin(x), lambda a, y, g: (g * cos(a[0]),)), (normal(4),))


right("hijax: in the backward pass of a custom_vjp")(_cosine(-1))
bug("hijax: in a backward pass, wrong when differentiated", "second_order")(_cosine(1))


def _running_sum(name, back):
    p = primitive(name, lambda x: jnp.cumsum(x))
    ad.deflinear2(p, lambda ct, x: [back(ct)])
    return lambda: (lambda x: p.bind(x), (normal(5),))


right("primitive: a running sum and its transpose")(
    _running_sum("sum_so_far", lambda ct: jnp.cumsum(ct[::-1])[::-1])
)
bug("primitive: a running sum that is its own transpose", "unknown", "elements")(
    _running_sum("sum_so_far_forwards", jnp.cumsum)
)


def _mapped(factor):
    mesh = jax.make_mesh((1,), ("i",), (jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("i")
    f = rule(lambda x: jnp.sin(x), lambda a, y, g: (factor * g * jnp.cos(a[0]),))
    return jax.shard_map(f, mesh=mesh, in_specs=spec, out_specs=spec)


right("shard_map: a rule inside")(lambda: (_mapped(1), (normal(4),)))
bug("shard_map: a rule inside, halved", "scaled")(lambda: (_mapped(0.5), (normal(4),)))


@bug("a tolerance that is said, of a function that iterates nothing: twice", "scaled")
def _():
    f = rule(lambda x: jnp.sin(x), lambda a, y, g: (2 * g * jnp.cos(a[0]),))
    return f, (normal(4),), {"tolerance": 1e-2}


def _cell(state, x, w):
    h, c = state
    i, f, o = jnp.split((h + x) @ w, 3, -1)
    c = jax.nn.sigmoid(f) * c + jnp.tanh(i)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def _of_a_state(kept):
    def bwd(args, y, g):
        return jax.vjp(_cell, *args)[1]((g[0], kept * g[1]))

    args = (normal(2, 3), normal(2, 3, seed=1)), normal(2, 3, seed=2), 0.5 * normal(3, 9)
    return lambda: (rule(_cell, bwd), args)


right("a cell with a state of two")(_of_a_state(1))
bug("a cell with a state of two: the second's cotangent lost", "unknown", "missing_term")(
    _of_a_state(0)
)


@bug("wrong for negative numbers, in float32 alone", "elements", "scaled")
def _():
    def bwd(args, y, g):
        (x,) = args
        off = jnp.where((x < 0) & (x.dtype == jnp.float32), 1.001, 1.0).astype(g.dtype)
        return (off * g * jnp.cos(x),)

    return rule(lambda x: jnp.sin(x), bwd), (f32(-2, -1, 0.5, 1, 2, 3),)
