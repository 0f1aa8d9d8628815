"""Where a run that diverged first went wrong: its last steps once more, watched."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from training import Loss, State, Step, leaf_name, make_step


class Watched(NamedTuple):
    """What one step was like, or, with a leading axis, each of several.

    Attributes:
        loss: before the update.
        gradients: of each leaf, whether all of its entries are finite.
        parameters: the same, after the update.
    """

    loss: Array
    gradients: Any
    parameters: Any


def make_watched_step(loss: Loss, optimizer: optax.GradientTransformation) -> Step:
    """`make_step` with a `Watched` in the place of the loss; it takes the same steps."""
    step = make_step(loss, optimizer)

    def finite(a: Array) -> Array:
        return jnp.isfinite(a).all()

    def watched(state: State, x: Array, y: Array) -> tuple[State, Watched]:
        grads = jax.grad(loss)(state.params, x, y)
        state, value = step(state, x, y)
        return state, Watched(
            value, jax.tree.map(finite, grads), jax.tree.map(finite, state.params)
        )

    return watched


def first_nonfinite(watched: Watched) -> tuple[int, str] | None:
    """The first step, from 0, in which something was not finite, and what it was.

    In a step the gradients come before the parameters that they change, and each in the order of
    the table of gradients.
    """
    named = [
        (f"the {kind} {leaf_name(path)}", np.asarray(flags))
        for kind, tree in (("gradient of", watched.gradients), ("parameter", watched.parameters))
        for path, flags in jax.tree.leaves_with_path(tree)
    ]
    fine = np.stack([np.isfinite(np.asarray(watched.loss)), *(flags for _, flags in named)], 1)
    steps = np.flatnonzero(~fine.all(1))
    if not len(steps):
        return None
    step = int(steps[0])
    leaves = [name for name, flags in named if not flags[step]]
    if not leaves:
        return step, "the loss alone"
    others = f", and {len(leaves) - 1} more" if len(leaves) > 1 else ""
    return step, leaves[0] + others


def report(watched: Watched, begin: int) -> str:
    """`first_nonfinite` as words; `begin` is how many steps came before."""
    found = first_nonfinite(watched)
    if found is None:
        return "taken once more, these steps leave every gradient and parameter finite"
    step, what = found
    return f"first not finite: {what}, in step {begin + step + 1}"
