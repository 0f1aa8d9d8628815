"""The training loop of every script here: chunk by chunk, watched, saved, interruptible."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import health
import jax
import jax.numpy as jnp
import numpy as np
import processes
import reporting
from jax import Array
from outcomes import Failure, Interrupted
from runs import Run
from signals import Signals
from training import Chunks, Params, State

DIVERGED = "training diverged; a smaller --lr may help"


@dataclass(frozen=True)
class Job:
    """What is trained, in chunks of some steps; a chunk is one compiled program.

    Attributes:
        chunks: how many there are, and of how many steps.
        unit: what a chunk is called.
        train: ``(state, number) -> (state, losses)``, chunk `number` from 1; the state is used up.
        watch: the same with a `health.Watched` for the losses.
        evaluate: ``(params, number, losses) -> result``; `seconds` is filled in later.
    """

    chunks: Chunks
    unit: str
    train: Callable[[State, int], tuple[State, Array]]
    watch: Callable[[State, int], tuple[State, health.Watched]]
    evaluate: Callable[[Params, int, np.ndarray], reporting.Result]


@jax.jit
def _copy(state: State) -> State:
    return jax.tree.map(jnp.copy, state)


def fit(job: Job, run: Run, header: dict[str, Any]) -> tuple[State, list[Any]]:
    """Train from where `run` stands to the end.

    Args:
        job: what is trained.
        run: has the state and the results so far; saves.
        header: of metrics.jsonl, which gets a line for each chunk.

    Returns:
        The state, and the results of all chunks.

    Raises:
        Failure: the loss is no longer finite.
        Interrupted: by a signal; all that was done is saved.
        OSError: a checkpoint or metrics.jsonl cannot be written.
    """
    state, results, total = run.state, list(run.results), len(job.chunks)
    notice = f"{run.name}: ending after this {job.unit}, to save; SIGINT once more ends at once"
    last = f"{run.name}: ended at once, without saving: --resume goes on from the checkpoint before"
    with (
        run,
        run.metrics(header) as file,
        reporting.Live(total, unit=job.unit, done=len(results)) as live,
        Signals(*((notice, last) if processes.first() else ("",))) as signals,
    ):
        for number in range(len(results) + 1, total + 1):
            before = _copy(state)  # for a look back, should this chunk go wrong
            state, of_each_step = job.train(state, number)
            losses = np.asarray(of_each_step)
            if not np.isfinite(losses).all():
                raise Failure(_where(job, number, losses) + _why(job, number, before))
            result = job.evaluate(state.params, number, losses)
            if not math.isfinite(result.held_out):  # the last step broke it
                raise Failure(
                    f"the {result.held_out_name} is {result.held_out} after {job.unit} {number}: "
                    + _why(job, number, before)
                )
            result = replace(result, seconds=live.lap())
            results.append(result)
            live.add(result)
            file.add(result)
            stop = processes.any_of(signals.received or 0)
            if stop or run.due(number, total):
                run.save(job.chunks.steps_after(number), state, results)
            if stop:
                run.close()
                raise Interrupted(
                    f"{signal.Signals(stop).name}: ended after {job.unit} {number} of {total}, "
                    "which is saved: the same command with --resume goes on",
                    stop,
                )
    return state, results


def _where(job: Job, number: int, losses: np.ndarray) -> str:
    bad = int(np.flatnonzero(~np.isfinite(losses))[0])
    step = job.chunks.steps_after(number - 1) + bad + 1
    return f"the loss is {losses[bad]} at step {step}, in {job.unit} {number}: "


def _why(job: Job, number: int, before: State) -> str:
    _, watched = job.watch(before, number)
    return f"{DIVERGED} ({health.report(watched, job.chunks.steps_after(number - 1))})"
