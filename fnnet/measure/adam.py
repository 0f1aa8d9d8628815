"""Adam: optax's where it is installed, else these few lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

_RATE, _B1, _B2, _EPS = 1e-3, 0.9, 0.999, 1e-8


class Adam(NamedTuple):
    """An optimiser: ``init(params) -> moments``, ``update(grads, moments, params) -> both``."""

    name: str
    init: Callable[[Any], Any]
    update: Callable[[Any, Any, Any], tuple[Any, Any]]


def adam() -> Adam:
    """Adam with its usual settings, by optax if it can be imported.

    Example:
        >>> optimizer = adam()
        >>> w = jnp.ones(2)
        >>> w, moments = optimizer.update(jnp.ones(2), optimizer.init(w), w)
        >>> bool(jnp.allclose(w, 0.999))
        True
    """
    try:
        import optax
    except ImportError:
        return own_adam()
    transform = optax.adam(_RATE, _B1, _B2, _EPS)

    def update(grads: Any, moments: Any, params: Any) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):  # optax mixes its int32 count with floats
            updates, moments = transform.update(grads, moments, params)
        return optax.apply_updates(params, updates), moments

    return Adam(f"optax {optax.__version__}", transform.init, update)


def own_adam() -> Adam:
    """The same in plain JAX.

    Example:
        >>> own_adam().name
        'fnnet.measure'
    """

    def init(params: Any) -> Any:
        # two sets of arrays: a donated state must not hold one array twice
        m, v = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
        return jnp.zeros((), jnp.int32), m, v

    def update(grads: Any, moments: Any, params: Any) -> tuple[Any, Any]:
        count, m, v = moments
        count = count + 1
        m = jax.tree.map(lambda m, g: _B1 * m + (1 - _B1) * g, m, grads)
        v = jax.tree.map(lambda v, g: _B2 * v + (1 - _B2) * g * g, v, grads)

        def moved(p: Any, m: Any, v: Any) -> Any:
            t = count.astype(p.dtype)
            m_hat, v_hat = m / (1 - _B1**t), v / (1 - _B2**t)
            return p - _RATE * m_hat / (jnp.sqrt(v_hat) + _EPS)

        return jax.tree.map(moved, params, m, v), (count, m, v)

    return Adam("fnnet.measure", init, update)
