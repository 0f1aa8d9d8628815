"""An op against its twin in NumPy: value and gradient, in float64."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnnet import ops
from fnnet.check.case import settings
from fnnet.check.oracle.tolerance import scale_of
from fnnet.check.selftest.samples import Sample

# of the largest number: two ways to compute one thing in float64
NEAR = 1e-10


def twin_error(name: str, sample: Sample, reference: ModuleType) -> float | None:
    """The largest error of op against twin, relative to each array's largest number.

    Args:
        name: of the op.
        sample: the call.
        reference: `fnnet.proof.reference`.

    Returns:
        The error; None if there is no twin, or it knows none of the call's options.
    """
    forward, rule = getattr(reference, name, None), getattr(reference, f"{name}_vjp", None)
    if forward is None or rule is None:
        return None
    known = inspect.signature(forward).parameters
    if not set(sample.options) <= set(known) and all(
        p.kind is not p.VAR_KEYWORD for p in known.values()
    ):
        return None
    with settings.wide():
        args = [_wide(x) for x in sample.args]
        at = [i for i, x in enumerate(args) if _is_float(x)]

        def f(*values: Any) -> Any:
            full = list(args)
            for i, v in zip(at, values, strict=True):
                full[i] = v
            return getattr(ops, name)(*full, **sample.options)

        out, back = jax.vjp(f, *(jnp.asarray(args[i]) for i in at))
        draws = np.random.default_rng(0).normal(size=out.shape)
        got = [np.asarray(out), *map(np.asarray, back(jnp.asarray(draws)))]
    g = draws if draws.ndim else draws.item()
    # sizes and shapes have no place in the tuple of cotangents; labels have one, for None
    slots = [x for x in args if not isinstance(x, (int, tuple))]
    absent = [None] * (list(inspect.signature(rule).parameters).index("g") - len(args))
    given = rule(*args, *absent, g, **sample.options)
    cotangents = [d for x, d in zip(slots, given, strict=False) if _is_float(x)]
    want = [np.asarray(x) for x in (forward(*args, **sample.options), *cotangents)]
    return max(_error(a, b) for a, b in zip(got, want, strict=True))


def _wide(x: Any) -> Any:
    if not isinstance(x, jax.Array):
        return x
    array = np.asarray(x)
    return array.astype(np.float64) if _is_float(array) else array


def _is_float(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.dtype.kind == "f"


def _error(got: Any, want: Any) -> float:
    if got.shape != want.shape:
        return float("inf")
    scale = scale_of(want) or 1.0
    return float(np.max(np.abs(got - want), initial=0.0)) / scale
