"""Functions with wrong rules: whoever uses a rule is seen, and so is whoever removes it."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from fnnet.rules import register

X = jnp.linspace(0.1, 0.9, 8)


@jax.custom_vjp
def wrong(x):
    """tanh, with a rule that is wrong: whoever uses it is seen."""
    return jnp.tanh(x)


wrong.defvjp(lambda x: (jnp.tanh(x), None), lambda _, g: (999 * g,))


@jax.custom_jvp
def wrong_forward(x):
    return jnp.tanh(x)


wrong_forward.defjvp(lambda primals, tangents: (jnp.tanh(*primals), 999 * tangents[0]))


wrong_registered = register(jnp.tanh, lambda x: (jnp.tanh(x), None), lambda _, g: (999 * g,))


def mesh():
    return jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))


def shard_map(f, **how):
    return jax.shard_map(f, mesh=mesh(), in_specs=P("d"), **{"out_specs": P()} | how)


def left(f, *args):
    """Whether the traced function has a custom rule."""
    jaxpr = str(jax.make_jaxpr(f)(*args))
    return any(name in jaxpr for name in ("custom_vjp", "custom_jvp", "CustomVJP", "CustomRoot"))


def bits(tree):
    return [np.asarray(a).tobytes() for a in jax.tree.leaves(tree)]
