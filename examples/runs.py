"""One run of a script: begun or resumed, saved as it goes, its parameters written at the end."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import checkpoints
import jax
import numpy as np
import processes
import reporting
from outcomes import UserError
from placement import Placement, gather
from training import Chunks, Params, State, leaf_name


class Run:
    """Where a run stands, and how it is saved.

    Attributes:
        name: of the script.
        state: on its devices.
        key: of the data's order.
        results: of the chunks done.
    """

    def __init__(
        self,
        name: str,
        args: argparse.Namespace,
        state: State,
        key: jax.Array,
        placement: Placement,
        *,
        settings: Mapping[str, Any],
        chunks: Chunks,
        kind: type[reporting.Result],
    ) -> None:
        """Begin with `state` and `key`, or, with --resume, where the newest checkpoint ends.

        Args:
            name: of the script.
            args: its flags.
            state: the first state, on the host.
            key: decides the data's order.
            placement: where the state belongs.
            settings: what decides the run, by flag; a run resumed must have the same.
            chunks: of the whole run.
            kind: of its results.

        Raises:
            UserError: there is no usable checkpoint to resume, or it is of another run; or, without
                --resume, this would write over a run that has not ended.
        """
        self.name, self.state, self.key = name, state, key
        self.results: list[reporting.Result] = []
        self._folder = args.workdir / "checkpoints"
        self._settings = json.loads(json.dumps(dict(settings)))
        self._workdir = args.workdir
        self._useless: list[Path] = []
        self._every, self._steps = args.save_every, chunks.steps
        self._writer = checkpoints.Writer(self._folder, keep=args.keep)
        found = processes.find_together(lambda: checkpoints.find(self._folder))
        if args.resume:
            self._resume(found, kind)
        else:
            self._begin(found)
        self.state = placement.put(self.state)
        self.key = placement.put_whole(self.key)

    def _begin(self, found: checkpoints.Found) -> None:
        """Make room for a run from the beginning."""
        if found.checkpoint is None and not found.damaged:
            return
        if found.checkpoint is None or found.checkpoint.step < found.checkpoint.meta["steps"]:
            raise UserError(
                f"{self._folder} is of a run that has not ended: --resume goes on with it; to "
                "begin anew, remove that folder or give another --workdir"
            )
        said = f"those of the run that ended in {self._folder} are replaced"
        print(reporting.fields({"checkpoints": said}))
        self._useless = [self._folder]

    def _resume(self, found: checkpoints.Found, kind: type[reporting.Result]) -> None:
        """Go on where a checkpoint ends."""
        checkpoint, damaged = found
        if checkpoint is None:
            if damaged:
                why = "; ".join(f"{_of_steps(steps)}: {why}" for why, steps in _grouped(damaged))
                raise UserError(
                    f"--resume: no checkpoint in {self._folder} can be used ({why}); to begin "
                    "anew, remove that folder or give another --workdir"
                )
            said = f"no checkpoint in {self._folder}: from the beginning"
            print(reporting.fields({"resume": said}))
            return
        self._check(checkpoint.meta["settings"])
        arrays, names = checkpoint.arrays, _named(self._tree())
        if {n: (a.shape, a.dtype) for n, a in arrays.items() if n != "step"} != {
            n: (a.shape, a.dtype) for n, a in names.items()
        }:
            raise UserError(
                f"--resume: the checkpoint in {self._folder} was made by other versions of this "
                f"script or of optax ({checkpoint.meta['versions']['optax']}): its arrays differ"
            )
        tree = jax.tree.unflatten(jax.tree.structure(self._tree()), [arrays[n] for n in names])
        self.state = State(tree["params"], tree["opt_state"])
        self.key = jax.random.wrap_key_data(tree["key"], impl=jax.random.key_impl(self.key))
        self.results = [kind(**result) for result in checkpoint.meta["results"]]
        if processes.first():
            for step, why in damaged:
                self._useless.append(self._folder / str(step))
                print(
                    f"{self.name}: the checkpoint of step {step} cannot be used: {why}",
                    file=sys.stderr,
                )
        print(f"resume            after step {checkpoint.step} of {self._steps}")
        now = reporting.versions()
        if now != checkpoint.meta["versions"]:
            print("                  made by other versions: the last bits may differ")

    def _check(self, before: dict[str, Any]) -> None:
        other = [
            f"{flag} is {value} here and {before.get(flag)} there"
            for flag, value in self._settings.items()
            if before.get(flag) != value
        ]
        if other:
            raise UserError(
                f"--resume: the checkpoint in {self._folder} is of another run: "
                f"{'; '.join(other)}. Give the same flags, or begin anew in another --workdir"
            )

    def _tree(self) -> dict[str, Any]:
        return {**self.state._asdict(), "key": jax.random.key_data(self.key)}

    def due(self, number: int, total: int) -> bool:
        """Whether chunk `number` is one to save after."""
        return number % self._every == 0 or number == total

    def save(self, step: int, state: State, results: list[reporting.Result]) -> None:
        """Begin to save; every process takes part, the first one writes."""
        self.state = state
        arrays = _named(gather(self._tree()))
        if processes.first():
            meta = {
                "settings": self._settings,
                "steps": self._steps,
                "versions": reporting.versions(),
                "results": [vars(result) for result in results],
            }
            self._writer.save(step, arrays, meta)

    def saved(self) -> str:
        """For the end of a message: whether there is a checkpoint to go on from."""
        found = checkpoints.find(self._folder).checkpoint if processes.first() else None
        if found is None:
            return "; there is no checkpoint before"
        return f"; the checkpoint of step {found.step} is good: --resume goes on from it"

    def close(self) -> None:
        """Wait until all is saved."""
        self._writer.close()

    def metrics(self, header: dict[str, Any]) -> reporting.Metrics:
        """metrics.jsonl, with what was done before in it."""
        path = self._workdir / "metrics.jsonl" if processes.first() else Path(os.devnull)
        return reporting.Metrics(path, header, self.results)

    def __enter__(self) -> Self:
        """Remove what this run replaces: until now the disk is as it was."""
        if processes.first():
            for path in self._useless:
                shutil.rmtree(path)
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _grouped(damaged: list[tuple[int, str]]) -> list[tuple[str, list[int]]]:
    """The steps of each reason."""
    reasons: dict[str, list[int]] = {}
    for step, why in damaged:
        reasons.setdefault(why, []).append(step)
    return list(reasons.items())


def _of_steps(steps: list[int]) -> str:
    if len(steps) == 1:
        return f"that of step {steps[0]}"
    return f"those of steps {', '.join(map(str, steps))}"


def _named(tree: Any) -> dict[str, Any]:
    return {leaf_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def save_params(path: Path, params: Params) -> str:
    """Write host parameters under their names, at once or not at all; their SHA-256."""
    arrays = _named(params)
    new = path.with_name(f".{path.name}")
    with new.open("wb") as file:
        np.savez(file, **arrays)
    os.replace(new, path)
    return checkpoints.digest(arrays)
