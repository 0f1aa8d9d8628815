"""What a planted row is, and what rows are written with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Built = tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Row:
    """A rule to check.

    Attributes:
        name: "op: what is done to it".
        build: gives the function, its arguments, and options of `check_vjp`.
        codes: the diagnoses that describe the bug; empty for a right rule.
        devices: how many devices it takes to see the bug.
    """

    name: str
    build: Callable[[], Built]
    codes: tuple[str, ...] = ()
    devices: int = 1


# for a bug that shows in other dtypes than the arguments': it is a caution
STRICT = {"strict": True}

BUGS: list[Row] = []
RIGHT: list[Row] = []


def bug(name: str, *codes: str, devices: int = 1) -> Callable[[Callable[[], Built]], None]:
    return lambda build: BUGS.append(Row(name, build, codes, devices))


def right(name: str) -> Callable[[Callable[[], Built]], None]:
    return lambda build: RIGHT.append(Row(name, build))


def rule(forward: Any, bwd: Any, fwd: Any = None) -> Any:
    """`forward` with ``bwd(args, out, g)`` as its rule."""

    def fwd_of_all(*args):
        out = forward(*args)
        return out, (args, out)

    f = jax.custom_vjp(forward)
    f.defvjp(fwd or fwd_of_all, (lambda res, g: bwd(*res, g)) if fwd is None else bwd)
    return f


def changed(forward: Any, change: Any) -> Any:
    """`forward` with a rule that changes what autodiff gives: ``change(grads, args, g)``."""

    def bwd(args, out, g):
        return tuple(change(list(jax.vjp(forward, *args)[1](g)), args, g))

    return rule(forward, bwd)


def normal(*shape: int, seed: int = 0, dtype: Any = "float32") -> jax.Array:
    draws = np.random.default_rng([seed, *shape]).normal(size=shape)
    return jnp.asarray(draws.astype(np.float32), dtype)


def complex_normal(*shape: int, seed: int = 0) -> jax.Array:
    return lax.complex(normal(*shape, seed=seed), normal(*shape, seed=seed + 9))


def positive(*shape: int, seed: int = 0, dtype: Any = "float32") -> jax.Array:
    return jnp.abs(normal(*shape, seed=seed, dtype=dtype)) + 0.5


def right_elementwise(name, f, bwd, x, **options):
    right(name)(lambda: (rule(f, lambda a, y, g: (bwd(a[0], y, g),)), (x(),), options))


def f32(*values):
    return jnp.asarray(np.array(values, np.float32))
