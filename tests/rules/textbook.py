"""Rules as a textbook writes them: one device, one dtype, all cotangents at once.

Each op comes twice: registered with its rule, and as its plain forward, which autodiff
sees through.
"""

from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np

from fnnet.rules import register

# JAX's next `jax.checkpoint`, where it asks a rule for the cotangents of all its arguments
ASKS_FOR_ALL = bool(jax.config.values.get("jax_remat3"))


def _lin(x, w, b):
    y = x @ w
    return y + jnp.broadcast_to(b, y.shape)


def _lin_bwd(res, g):
    x, w = res
    rows, g_rows = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    return g @ w.T, rows.T @ g_rows, g_rows.sum(0)


def _tanh(z):
    return jnp.tanh(z)


def _tanh_fwd(z):
    y = jnp.tanh(z)
    return y, y


def _mean_square(y):
    return (y * y).sum() / y.size


auto = SimpleNamespace(lin=_lin, tanh=_tanh, mean_square=_mean_square)
hand = SimpleNamespace(
    lin=register(_lin, lambda x, w, b: (_lin(x, w, b), (x, w)), _lin_bwd, name="lin"),
    tanh=register(_tanh, _tanh_fwd, lambda y, g: ((1 - y * y) * g,), name="tanh"),
    mean_square=register(
        _mean_square,
        lambda y: (_mean_square(y), y),
        lambda y, g: (2 * y * g / y.size,),
        name="mean_square",
    ),
)


def net(ops):
    """A loss of x (samples, 3), w (3, 2) and b (2,)."""

    def loss(x, w, b):
        return ops.mean_square(ops.tanh(ops.lin(x, w, b)))

    return loss


def arguments(samples=4):
    """x, w and b in float64, irregular enough that no mistake cancels."""
    rng = np.random.default_rng(1)
    shapes = (samples, 3), (3, 2), (2,)
    return tuple(jnp.asarray(rng.normal(size=shape)) for shape in shapes)


def same(got, want, tolerance=1e-12):
    """Equal structures and dtypes, and values equal up to rounding of the leaf's scale."""
    chex.assert_trees_all_equal_shapes_and_dtypes(*jax.tree.map(jnp.asarray, (got, want)))
    chex.assert_tree_all_finite(want)
    for (path, a), b in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True):
        scale = np.abs(b).max(initial=0)
        where = jax.tree_util.keystr(path)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale, err_msg=where)


def agree(make, rule, forward, tolerance=1e-12):
    """What `make` makes of the registered function equals what it makes of the plain one."""
    same(make(rule), make(forward), tolerance)


def products(f, *args):
    """The matrix products of f, each with its precision."""

    def found(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "dot_general":
                yield str(eqn.params["precision"])
            for inner in jax.tree.leaves(
                list(eqn.params.values()), is_leaf=lambda p: hasattr(p, "eqns")
            ):
                if hasattr(inner, "eqns"):
                    yield from found(getattr(inner, "jaxpr", inner))

    return sorted(found(jax.make_jaxpr(f)(*args).jaxpr))
