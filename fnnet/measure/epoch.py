"""An epoch of training, compiled whole, against a Python loop of compiled steps.

All forms train the same net (784-256-10) with the same optimiser (Adam) on the same mini-batches
of 64 of the same 5,000 images. The images are random: their values do not change the time. What
compiling the whole saves is the way from Python to the device, a fixed time for each step; so the
loop comes in three forms, by where its mini-batches are cut: on the device before the step is
called (two calls more), inside the step, or on the host.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnnet.measure import mlp
from fnnet.measure.adam import Adam, adam
from fnnet.measure.peer_epochs import PEERS, Problem
from fnnet.measure.timing import Spread, race
from fnnet.rules import plain

WHOLE = "compiled whole"
LOOP = "loop of jitted steps"
LOOP_INSIDE = "loop of jitted steps that cut their mini-batch"
LOOP_NUMPY = "loop of jitted steps, images in NumPy"
AUTODIFF = "compiled whole, autodiff"
AGAIN = "compiled whole, again"

Run = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class EpochForm:
    """One way to run an epoch.

    Attributes:
        seconds: of an epoch.
        ratio: the time of the epoch compiled whole as a multiple of this form's.
        first_s: seconds of the first epoch, which compiles.
        loss: of the last mini-batch of the first epoch: all forms agree on it.
    """

    seconds: Spread
    ratio: Spread
    first_s: float
    loss: float


@dataclasses.dataclass(frozen=True)
class EpochTimes:
    """An epoch in every form.

    Attributes:
        images: size of the training set.
        batch: images in a mini-batch.
        sizes: of the input, the hidden layer and the output.
        optimizer: whose Adam it was.
        forms: by name, the epoch compiled whole first.
        missing: peers that could not be set up, and why.
    """

    images: int
    batch: int
    sizes: tuple[int, ...]
    optimizer: str
    forms: Mapping[str, EpochForm]
    missing: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain dicts, numbers and text, ready for JSON."""
        return dataclasses.asdict(self)


def time_epochs(
    *,
    images: int = 5000,
    batch: int = 64,
    n_in: int = 784,
    hidden: int = 256,
    budget_s: float = 10.0,
    least: int = 7,
    peers: bool = True,
) -> EpochTimes:
    """Time an epoch in each form, in turns, each form going on from where it was.

    Args:
        images: size of the training set.
        batch: images in a mini-batch.
        n_in: numbers in an image.
        hidden: hidden units.
        budget_s: about how long to time, in seconds. Compiling comes on top.
        least: epochs of each form at least.
        peers: whether nets by other packages are timed as well, if they are installed.

    Example:
        >>> t = time_epochs(images=32, batch=8, n_in=6, hidden=4, budget_s=0.01, peers=False)
        >>> abs(t.forms["compiled whole"].loss - t.forms["loop of jitted steps"].loss) < 1e-5
        True
    """
    params, x, y = mlp.draw(jax.random.key(0), (images, n_in, hidden))
    order = jax.random.permutation(jax.random.key(1), images)
    batches = order[: images // batch * batch].reshape(-1, batch)
    optimizer = adam()
    problem = Problem(params, x, y, batches, optimizer)

    hand = _step(mlp.loss, optimizer)
    host = (np.asarray(x), np.asarray(y), np.asarray(batches))
    runs: dict[str, Run] = {
        WHOLE: _whole(problem, hand),
        LOOP: _loop(problem, hand, (x, y, host[2])),
        LOOP_INSIDE: _loop_inside(problem, hand, host[2]),
        LOOP_NUMPY: _loop(problem, hand, host),
        AUTODIFF: _whole(problem, _step(plain(mlp.loss), optimizer)),
        AGAIN: _whole(problem, _step(mlp.loss, optimizer)),
    }
    missing = {}
    for name, make in PEERS.items() if peers else ():
        try:
            runs[name] = make(problem)
        except Exception as error:  # not installed, or broken in whatever way
            missing[name] = f"{type(error).__name__}: {error}"

    first_s, losses = {}, {}
    for name, run in runs.items():
        start = time.perf_counter()
        losses[name] = float(jax.block_until_ready(run()))
        first_s[name] = time.perf_counter() - start
    times = race(runs, budget_s=budget_s, batch_s=0.0, least=least)
    forms = {
        name: EpochForm(times.time(name), times.ratio(WHOLE, name), first_s[name], losses[name])
        for name in runs
    }
    sizes = (n_in, hidden, y.shape[1])
    return EpochTimes(images, batch, sizes, optimizer.name, forms, missing)


def _step(loss: Callable[..., Any], optimizer: Adam) -> Callable[..., Any]:
    """``(state, x, y) -> (state, loss)``."""

    def step(state: Any, x: Any, y: Any) -> tuple[Any, Any]:
        params, moments = state
        value, grads = jax.value_and_grad(loss)(params, x, y)
        return optimizer.update(grads, moments, params), value

    return step


def _start(problem: Problem) -> Any:
    # donated later on: each form has arrays of its own
    params = jax.tree.map(jnp.copy, problem.params)
    return params, problem.optimizer.init(params)


def _whole(problem: Problem, step: Callable[..., Any]) -> Run:
    @partial(jax.jit, donate_argnums=0)
    def epoch(state: Any, x: Any, y: Any, batches: Any) -> tuple[Any, Any]:
        def body(state: Any, batch: Any) -> Any:
            return step(state, x[batch], y[batch])

        state, losses = jax.lax.scan(body, state, batches)
        return state, losses[-1]

    state = _start(problem)

    def run() -> Any:
        nonlocal state
        state, loss = epoch(state, problem.x, problem.y, problem.batches)
        return loss

    return run


def _loop_inside(problem: Problem, step: Callable[..., Any], batches: np.ndarray) -> Run:
    @partial(jax.jit, donate_argnums=0)
    def compiled(state: Any, x: Any, y: Any, batch: Any) -> Any:
        return step(state, x[batch], y[batch])

    state = _start(problem)

    def run() -> Any:
        nonlocal state
        loss = None
        for batch in batches:
            state, loss = compiled(state, problem.x, problem.y, batch)
        return loss

    return run


def _loop(problem: Problem, step: Callable[..., Any], arrays: tuple[Any, Any, Any]) -> Run:
    compiled = jax.jit(step, donate_argnums=0)
    state = _start(problem)
    x, y, batches = arrays

    def run() -> Any:
        nonlocal state
        loss = None
        for batch in batches:
            state, loss = compiled(state, x[batch], y[batch])
        return loss

    return run
