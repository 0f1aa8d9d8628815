"""Stochastic gradient descent, an epoch at a time, each epoch one compiled program.

The words, as the loop uses them. A *mini-batch* is the `batch_size` images that one gradient is
made of. An *iteration* (or step) is one mini-batch: the forward pass gives the loss, the backward
pass the gradients, the optimiser moves the parameters. An *epoch* is one walk through the training
set: it shuffles the images, cuts the order into mini-batches and leaves out what is left over. As
every epoch shuffles anew, an image left out of one epoch comes in others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax import Array

Params: TypeAlias = Any
Loss: TypeAlias = Callable[[Params, Array, Array], Array]


class State(NamedTuple):
    """What an iteration changes."""

    params: Params
    opt_state: optax.OptState


def leaf_name(path: tuple[Any, ...]) -> str:
    """The name of a leaf, such as 0.w, from its path in a pytree."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


PRECISIONS: dict[str, Any] = {"float32": jnp.float32, "bf16": jnp.bfloat16}


def in_precision(loss: Loss, precision: str) -> Loss:
    """`loss` computed in this precision, forward and backward, of float32 parameters.

    The parameters are rounded anew at every call, and what a step adds to them may be smaller than
    bfloat16 would show. Their gradients are float32 again, as the loss is.
    """
    dtype = PRECISIONS[precision]
    if dtype == jnp.float32:
        return loss

    def rounded(params: Params, x: Array, y: Array) -> Array:
        return loss(*cast((params, x, y), dtype)).astype(jnp.float32)

    return rounded


def cast(tree: Any, dtype: Any) -> Any:
    """The floating-point leaves in another dtype."""
    return jax.tree.map(
        lambda a: jnp.asarray(a, dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree
    )


Step: TypeAlias = Callable[[State, Array, Array], tuple[State, Array]]
Epoch: TypeAlias = Callable[..., tuple[State, Array]]


@dataclass(frozen=True)
class Chunks:
    """A run cut into chunks, each one compiled program.

    Attributes:
        steps: iterations in the whole run.
        size: iterations in a chunk; the last one may be shorter.

    Example:
        >>> chunks = Chunks(steps=100, size=62)
        >>> len(chunks), [(chunks.steps_in(i), chunks.steps_after(i)) for i in (1, 2)]
        (2, [(62, 62), (38, 100)])
    """

    steps: int
    size: int

    def __len__(self) -> int:
        return -(-self.steps // self.size)

    def steps_in(self, number: int) -> int:
        """Iterations in this chunk, counted from 1."""
        return min(self.size, self.steps - (number - 1) * self.size)

    def steps_after(self, number: int) -> int:
        """Iterations done when this chunk ends."""
        return min(self.steps, number * self.size)


@dataclass(frozen=True)
class Plan:
    """How many iterations and epochs a training run takes.

    Attributes:
        images: size of the training set.
        batch_size: images in a mini-batch, at most `images`.
        steps: iterations in the whole run.

    Example:
        >>> plan = Plan.of_epochs(3, images=4000, batch_size=64)
        >>> plan.steps_per_epoch, plan.left_out, plan.steps
        (62, 32, 186)
        >>> [Plan(4000, 64, steps=100).steps_in(epoch) for epoch in (1, 2)]
        [62, 38]
    """

    images: int
    batch_size: int
    steps: int

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= self.images:
            raise ValueError(
                f"batch size {self.batch_size} with {self.images} training images: "
                f"want 1 to {self.images}"
            )
        if self.steps < 1:
            raise ValueError(f"{self.steps} steps: want at least 1")

    @classmethod
    def of_epochs(cls, epochs: int, *, images: int, batch_size: int) -> Plan:
        """The plan of this many whole epochs."""
        one = cls(images, batch_size, steps=1)
        return cls(images, batch_size, steps=epochs * one.steps_per_epoch)

    @property
    def steps_per_epoch(self) -> int:
        """Full mini-batches in the training set."""
        return self.images // self.batch_size

    @property
    def left_out(self) -> int:
        """Images that an epoch does not use, other ones each time."""
        return self.images % self.batch_size

    @property
    def chunks(self) -> Chunks:
        """The epochs."""
        return Chunks(self.steps, self.steps_per_epoch)

    @property
    def epochs(self) -> int:
        """Epochs begun: the last one may be shorter than the others."""
        return len(self.chunks)

    def steps_in(self, epoch: int) -> int:
        """Iterations in this epoch, counted from 1."""
        return self.chunks.steps_in(epoch)

    def steps_after(self, epoch: int) -> int:
        """Iterations done when this epoch ends."""
        return self.chunks.steps_after(epoch)

    def __str__(self) -> str:
        """The plan in words."""
        epochs = f"{self.epochs} epoch{'s' * (self.epochs > 1)}"
        last = self.steps_in(self.epochs)
        cut = f", only {last} in the last" if last < self.steps_per_epoch else ""
        left = (
            f"; each epoch shuffles, and leaves out {self.left_out} images, others each time"
            if self.left_out
            else "; each epoch shuffles and uses every image"
        )
        return (
            f"{epochs} of {self.steps_per_epoch} steps{cut}: {self.steps} steps of "
            f"{self.batch_size} images{left}"
        )


def make_optimizer(learning_rate: float, steps: int) -> optax.GradientTransformation:
    """Adam whose learning rate falls from `learning_rate` to 0 over the run, as half a cosine."""
    return optax.adam(optax.cosine_decay_schedule(learning_rate, steps))


def make_step(loss: Loss, optimizer: optax.GradientTransformation) -> Step:
    """One iteration: ``(state, x, y) -> (state, loss)``, with the gradients of `loss`'s own rules.

    Args:
        loss: ``(params, x, y) -> scalar``; it decides whose gradients these are.
        optimizer: turns gradients into changes of the parameters.
    """

    def step(state: State, x: Array, y: Array) -> tuple[State, Array]:
        value, grads = jax.value_and_grad(loss)(state.params, x, y)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes its int32 count with floats
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        return State(optax.apply_updates(state.params, updates), opt_state), value

    return step


def mini_batches(key: Array, images: int, batch_size: int, steps: int) -> Array:
    """The indices of an epoch's mini-batches, (steps, batch_size): each image once at most."""
    order = jax.random.permutation(key, images)
    return order[: steps * batch_size].reshape(steps, batch_size)


def make_epoch(step: Step, batch_size: int) -> Epoch:
    """One epoch as one compiled program: ``(state, x, y, key, *, steps) -> (state, losses)``.

    A Python loop would pay the way from Python to the device at every step; `python -m fnnet bench`
    measures how much that is. The images stay where they are, and each turn of the loop gathers its
    own mini-batch from them: no slower on a CPU than gathering the whole epoch first, and without a
    second copy of the data. The state is donated: its arrays are updated in place, and the caller's
    `state` is used up.

    Args:
        step: what `make_step` returns.
        batch_size: images in a mini-batch.

    Returns:
        The epoch: `x` is (images, features), `y` (images, classes), `key` shuffles, and `steps`
        cuts the epoch short; `losses` has the loss of each mini-batch, (steps,).
    """

    @partial(jax.jit, donate_argnums=0, static_argnames="steps")
    def epoch(state: State, x: Array, y: Array, key: Array, *, steps: int) -> tuple[State, Array]:
        def body(state: State, batch: Array) -> tuple[State, Array]:
            return step(state, x[batch], y[batch])

        return jax.lax.scan(body, state, mini_batches(key, len(x), batch_size, steps))

    return epoch
