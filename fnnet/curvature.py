"""Curvature of a loss: products with its Hessian and Gauss-Newton matrix, their diagonal and trace.

With H = ∂²L/∂θ², z = outputs(θ), J = ∂z/∂θ, and L convex in z, H_z = ∂²L/∂z²:

    hvp    : H v = ∂/∂ε ∇L(θ + ε v)
    ggn_vp : G v = Jᵀ H_z J v           H without the curvature of `outputs`; positive where H_z is

and, for independent signs s (±1, so that E[s sᵀ] = 1) and a matrix A that is known by A v:

    diagonal : E[s · A s] = diag A      trace : E[sᵀ A s] = tr A        (Hutchinson)

No matrix is ever formed. J v is forward mode, Jᵀ u is reverse mode: functions with a hand-written
reverse rule need both, which every op of this package has, and `fnnet.both_modes` gives others.

References:
    M. F. Hutchinson, A stochastic estimator of the trace of the influence matrix for Laplacian
    smoothing splines, Communications in Statistics 19, 1990.
    N. N. Schraudolph, Fast curvature matrix-vector products for second-order gradient descent,
    Neural Computation 14, 2002.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

__all__ = ["diagonal", "ggn_vp", "hvp", "trace"]

Tree = Any
Product = Callable[[Tree], Tree]


def hvp(
    loss: Callable[[Tree], jax.Array],
    params: Tree,
    v: Tree,
    *,
    mode: Literal["forward_over_reverse", "reverse_over_forward", "reverse_over_reverse"] = (
        "forward_over_reverse"
    ),
) -> Tree:
    """The product of the loss's Hessian with `v`.

    Args:
        loss: of `params`, a scalar.
        params: a pytree of arrays.
        v: a pytree like `params`.
        mode: how two derivatives are taken. The first needs the least memory; the last needs no
            forward mode.

    Returns:
        A pytree like `params`.

    Raises:
        ValueError: for another mode, or a `v` of another structure or shapes.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnnet.curvature import hvp
        >>> hvp(lambda x: jnp.sum(x**3), jnp.array([1.0, 2.0]), jnp.array([1.0, 1.0])).tolist()
        [6.0, 12.0]
    """
    _require_like("hvp", params, v)
    if mode == "forward_over_reverse":
        return jax.jvp(jax.grad(loss), (params,), (v,))[1]
    if mode == "reverse_over_forward":
        return jax.grad(lambda p: jax.jvp(loss, (p,), (v,))[1])(params)
    if mode == "reverse_over_reverse":
        return jax.grad(lambda p: _dot(jax.grad(loss)(p), v))(params)
    raise ValueError(
        "hvp: mode must be 'forward_over_reverse', 'reverse_over_forward' or "
        f"'reverse_over_reverse'; got {mode!r}"
    )


def ggn_vp(
    loss: Callable[[Tree], jax.Array], outputs: Callable[[Tree], Tree], params: Tree, v: Tree
) -> Tree:
    """The product of the generalised Gauss-Newton matrix of ``loss(outputs(params))`` with `v`.

    Args:
        loss: of the outputs, a scalar; convex, for the matrix to be positive semi-definite.
        outputs: of `params`, a pytree of arrays: a net's predictions for a batch, say.
        params: a pytree of arrays.
        v: a pytree like `params`.

    Returns:
        A pytree like `params`.

    Raises:
        ValueError: for a `v` of another structure or shapes.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnnet.curvature import ggn_vp
        >>> x = jnp.array([[1.0, 0.0], [0.0, 2.0]])
        >>> ggn_vp(lambda z: jnp.sum(z**2), lambda w: x @ w, jnp.ones(2), jnp.ones(2)).tolist()
        [2.0, 8.0]
    """
    _require_like("ggn_vp", params, v)
    z, jv = jax.jvp(outputs, (params,), (v,))
    _, pull = jax.vjp(outputs, params)
    return pull(hvp(loss, z, jv))[0]


def diagonal(key: jax.Array, product: Product, like: Tree, *, samples: int = 1) -> Tree:
    """An estimate of the diagonal of a matrix that is known by its products.

    Args:
        key: of randomness.
        product: v -> A v, such as ``lambda v: hvp(loss, params, v)``.
        like: a pytree as `product` takes it.
        samples: how many products are averaged. The error of an element falls as one over the root
            of it, and is zero for a diagonal matrix.

    Returns:
        A pytree like `like`. Its expectation is the diagonal.

    Raises:
        ValueError: for fewer samples than one.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnnet.curvature import diagonal
        >>> key = jax.random.key(0)
        >>> diagonal(key, lambda v: 3 * v, jnp.ones(2)).tolist()
        [3.0, 3.0]
    """

    def of_one(key: jax.Array) -> Tree:
        s = _signs(key, like)
        return jax.tree.map(lambda a, b: a * b, s, product(s))

    return _average(key, of_one, samples, "diagonal")


def trace(key: jax.Array, product: Product, like: Tree, *, samples: int = 1) -> jax.Array:
    """An estimate of the trace of a matrix that is known by its products; see `diagonal`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnnet.curvature import trace
        >>> float(trace(jax.random.key(0), lambda v: 3 * v, jnp.ones(2)))
        6.0
    """

    def of_one(key: jax.Array) -> jax.Array:
        s = _signs(key, like)
        return _dot(s, product(s))

    return _average(key, of_one, samples, "trace")  # type: ignore[no-any-return]


def _signs(key: jax.Array, like: Tree) -> Tree:
    leaves, tree = jax.tree.flatten(like)
    keys = jax.random.split(key, len(leaves))
    signs = [
        jax.random.rademacher(k, jnp.shape(x), jnp.result_type(x))
        for k, x in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, signs)


def _average(key: jax.Array, f: Callable[[jax.Array], Tree], samples: int, op: str) -> Tree:
    if samples < 1:
        raise ValueError(f"{op}: samples must be at least 1; got {samples}")
    # one after the other, as a product may need a net's memory
    found = jax.lax.map(f, jax.random.split(key, samples))
    return jax.tree.map(lambda x: jnp.mean(x, axis=0), found)


def _dot(a: Tree, b: Tree) -> jax.Array:
    """The sum of the products of elements."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return sum((jnp.vdot(x, y) for x, y in pairs), start=jnp.zeros(()))


def _require_like(op: str, params: Tree, v: Tree) -> None:
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (params, v)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{op}: v must be like params, of shapes {shapes[0]}; got {shapes[1]}. "
            "Give one array for each array of params"
        )
