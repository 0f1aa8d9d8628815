"""Large arguments: what is drawn for them, and programs that hold no wide arrays."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from fnnet.check.case.modes import WIDE, Mode, Program
from fnnet.check.case.subject import Arrays

# numbers in and out, above which memory is what a check is short of: nothing is kept that can be
# computed again, and percentiles are those of a part
LARGE = 500_000


def lean(program: Program, mode: Mode, values: Arrays, others: Arrays, g: Arrays) -> Any:
    """A program of a large case: wide arrays are not held, nor are outputs."""
    if mode is WIDE:
        values, g = widely(values), widely(g)
    outs, grads, _ = program.f(values, others, g)
    return [_largest(x) for x in outs], grads, []


def _largest(x: Any) -> Any:
    """The largest finite size in an array, as an array without axes."""
    sizes = jnp.abs(x)
    return jnp.max(jnp.where(jnp.isfinite(sizes), sizes, 0), initial=0)


def widely(arrays: Arrays) -> Arrays:
    """Traced arrays in 64 bits: widened where they are used, the wide ones need not be held."""
    wide = (np.complex128 if np.iscomplexobj(x) else np.float64 for x in arrays)
    return [x.astype(t) for x, t in zip(arrays, wide, strict=True)]


def drawn(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Numbers of 8 bits and sizes from 1/2 to 2, of either sign."""
    if math.prod(shape) > LARGE:
        return signed(rng, rng.integers(32, 129, shape, np.uint8).astype(np.float32) / 64)
    size = np.round(rng.uniform(0.5, 2.0, shape) * 64) / 64
    return size * rng.choice([-1.0, 1.0], shape)


def signed(rng: np.random.Generator, sizes: Any) -> Any:
    """An array with a sign for each element drawn into it."""
    np.negative(sizes, out=sizes, where=rng.integers(0, 2, sizes.shape, np.int8).astype(bool))
    return sizes
