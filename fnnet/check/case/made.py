"""A case made of a call: what is differentiated in it, and what seeds its draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnnet.check.case.case import Case, Terms, first_line
from fnnet.check.case.modes import NATIVE
from fnnet.check.case.subject import take_apart
from fnnet.check.case.traced import pull


def make_case(
    f: Callable[..., Any],
    args: Any,
    kwargs: dict[str, Any] | None,
    seed: list[int],
    argnums: int | Sequence[int] | None,
    terms: Terms,
) -> Case:
    """The case, with Python floats differentiated if the function takes them traced."""
    both = [take_apart(f, args, kwargs, argnums, numbers=numbers) for numbers in (True, False)]
    if len(both[0].values) > len(both[1].values):
        try:
            with NATIVE.context():
                jax.eval_shape(both[0].flat(f), both[0].values, both[0].others)
        except Exception:
            if not both[1].values:
                raise
        else:
            case = Case(f, both[0], seed, terms)
            if not both[1].values or (refused := _refused(case)) is None:
                return case
            held = Case(f, both[1], seed, terms)
            if _refused(held) is not None:
                return case  # no number is the reason
            why = f"it is a Python number, which the rule does not differentiate ({refused})"
            held.subject.fixed.update(dict.fromkeys(held.subject.fixed, why))
            return held
    return Case(f, both[1], seed, terms)


def _refused(case: Case) -> str | None:
    """Why the rule cannot be differentiated in all that `case` takes for its arguments."""
    with NATIVE.context():
        try:
            jax.eval_shape(pull(case.hand), *case.at_args(NATIVE))
        except jax.errors.ConcretizationTypeError:
            return None
        except Exception as error:
            return f"{type(error).__name__}: {first_line(error)}"
    return None


def seed_of(key: Any) -> list[int]:
    """Numbers that seed the draws, from a key of JAX, an int, or nothing."""
    if key is None:
        return [0]
    if isinstance(key, (int, np.integer)):
        return [int(key) % 2**32]
    if jnp.issubdtype(getattr(key, "dtype", np.dtype(object)), jax.dtypes.prng_key):
        key = jax.random.key_data(key)
    return [int(x) for x in np.asarray(key).ravel()]
