"""Hand-written rules, right and wrong, that programs in these tests meet."""

import jax
import jax.numpy as jnp


@jax.custom_vjp
def right(x):
    return jnp.sin(x)


right.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (jnp.cos(x) * g,))


@jax.custom_vjp
def wrong(x):
    return x**3


wrong.defvjp(lambda x: (x**3, x), lambda x, g: (2 * x**2 * g,))


@jax.custom_vjp
def half_wrong(x, y):
    """Right in x alone."""
    return x * y


half_wrong.defvjp(lambda x, y: (x * y, (x, y)), lambda r, g: (r[1] * g, r[1] * g))


@jax.custom_vjp
def rounded(x):
    """Straight-through."""
    return jnp.round(x)


rounded.defvjp(lambda x: (jnp.round(x), None), lambda _, g: (g,))


@jax.custom_jvp
def wrong_jvp(x):
    return jnp.exp(x)


@wrong_jvp.defjvp
def _(primals, tangents):
    return jnp.exp(primals[0]), 2 * jnp.exp(primals[0]) * tangents[0]


@jax.custom_gradient
def wrong_gradient(x):
    return x**2, lambda g: (x * g,)


@jax.custom_vjp
def looked_up(table, ids):
    """Defined for ids below the table's length alone."""
    return table[ids]


def _looked_up_bwd(r, g):
    table, ids = r
    return jnp.zeros_like(table).at[ids].add(g), None


looked_up.defvjp(lambda table, ids: (table[ids], (table, ids)), _looked_up_bwd)
