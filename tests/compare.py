"""How two results are compared: elementwise, at the scale of their own leaf."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np


def assert_close(got: Any, want: Any, rtol: float = 1e-12, *, least: float = 0.0) -> None:
    """Same structure, shapes, dtypes; every element within rtol of the largest of its leaf.

    `least` is the smallest size that the largest is taken for: that of terms that cancel.
    """
    chex.assert_trees_all_equal_shapes_and_dtypes(*jax.tree.map(jnp.asarray, (got, want)))
    for (path, g), w in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True):
        where = jax.tree_util.keystr(path) or "the result"
        g, w = np.asarray(g), np.asarray(w)
        assert (np.isnan(g) == np.isnan(w)).all(), f"{where}: NaN in different places"
        finite = np.isfinite(w)
        same = (g == w) | np.isnan(w)
        assert same[~finite].all(), f"{where}: infinities differ"
        scale = np.abs(w[finite]).max(initial=least)
        error = np.abs(g[finite] - w[finite]).max(initial=0)
        assert error <= rtol * scale, f"{where}: off by {error:.2e} at scale {scale:.2e}"


@functools.partial(jax.jit, static_argnums=0)
def passes(f: Any, args: Any, g: jax.Array) -> Any:
    """The value and the cotangents of f, one program; compiled once for arguments of one kind."""
    out, vjp = jax.vjp(f, *args)
    return out, vjp(g.astype(out.dtype))


def loss_of(f: Any) -> Any:
    """A scalar function of f's arguments whose cotangent at f's output is constant nowhere."""

    def loss(*args: jax.Array) -> jax.Array:
        out = f(*args)
        if jnp.iscomplexobj(out):
            return jnp.sum(jnp.sin(out.real) + jnp.cos(2 * out.imag))
        return jnp.sum(jnp.sin(out))

    return loss


def normal(key: jax.Array, shapes: Sequence[Sequence[int]], dtype: Any) -> list[jax.Array]:
    """Standard normal arrays. NumPy draws them: a generator of JAX is a program for each shape."""
    generator = np.random.default_rng(np.asarray(jax.random.key_data(key)))

    def draw(shape: Sequence[int]) -> jax.Array:
        x = generator.normal(size=shape)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            x = (x + 1j * generator.normal(size=shape)) / np.sqrt(2)
        return jnp.asarray(np.asarray(x, dtype))

    return [draw(shape) for shape in shapes]


def cotangent_like(key: jax.Array, out: Any) -> jax.Array:
    """A random cotangent of `out`'s shape and dtype."""
    return normal(key, [out.shape], out.dtype)[0]


def equations(jaxpr: Any) -> Any:
    """Every equation of a jaxpr, those of inner functions too."""
    for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        yield eqn
        for inner in jax.extend.core.jaxprs_in_params(eqn.params):
            yield from equations(inner)


def dots(f: Any, *args: Any) -> list[str]:
    """The precision of every matrix product in `f`, traced at `args`."""
    return sorted(
        str(eqn.params["precision"])
        for eqn in equations(jax.make_jaxpr(f)(*args))
        if eqn.primitive.name == "dot_general"
    )
