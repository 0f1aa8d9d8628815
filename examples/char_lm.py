"""Learn to spell English, character by character, with fnnet's ops and their hand-derived rules.

    python examples/char_lm.py                 a small transformer
    python examples/char_lm.py --model gru     a recurrent net with gates
    python examples/char_lm.py --model rnn     a recurrent net without
    python examples/char_lm.py --resume        go on where a run was killed

The text is the reference manual that every Python carries behind `help()`. First the gradients of
the first mini-batch are compared with automatic ones. Then optax's Adam trains, the steps between
two reports as one compiled program, and the net writes a sample. --workdir gets metrics.jsonl (a
header, then one line for each report), checkpoints, curves.png, sample.txt and the trained
parameters, params.npz.

Exit code: 0, all went well; 1, the gradients disagree, the loss is no longer finite, or the
validation loss is above --target-bpc; 2, a wrong flag or unusable checkpoints; 130 or 143, ended by
SIGINT or SIGTERM, after saving.

Losses are in bits per character: the cross entropy in nats divided by ln 2. Taking
every character for equally likely costs log2 of their number, about 6.6 bits; knowing how often
each occurs, 4.7.
"""

from __future__ import annotations

import starting  # noqa: F401  first, whatever the alphabet says

# isort: split
import argparse
import math
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import corpus
import flags
import gradients
import health
import jax
import jax.numpy as jnp
import language_models
import loop
import numpy as np
import plots
import processes
import reporting
import runs
from checkpoints import digest
from jax import Array
from language_models import Model, Params
from outcomes import Failure, exit_code, writing
from placement import Placement, gather
from training import Chunks, State, Step, in_precision, make_optimizer, make_step

NAME = "char_lm.py"
TEMPERATURE = 0.7  # of the sample: below 1 it is more cautious than the net
WRITTEN = 400  # characters of the sample
PROMPT = "The statement "


def main(argv: Sequence[str] | None = None) -> int:
    """Run the example with these arguments, `sys.argv`'s unless given; the exit code."""
    return exit_code(NAME, run, parse(argv), smaller="--width, --length or --batch-size")


def run(args: argparse.Namespace) -> Params:
    """Everything the command does; the trained parameters.

    Raises:
        UserError: a flag or the checkpoints cannot be used, or the results cannot be written.
        Failure: wrong gradients, a loss that is not finite, or too high a validation loss.
        Interrupted: by a signal, after saving.
    """
    started = time.perf_counter()
    with processes.joined(args):
        return _run(args, started)


def _run(args: argparse.Namespace, started: float) -> Params:
    environment = reporting.environment()
    print(reporting.environment_text(environment))
    text = corpus.load()
    placement = Placement(args.mesh, args.batch_size)
    processes.make_folder(args.workdir)
    model = language_models.make(
        args.model,
        classes=len(text.characters),
        width=args.width,
        layers=args.layers,
        length=args.length,
    )
    init_key, train_key, write_key = jax.random.split(jax.random.key(args.seed), 3)
    params = model.init(init_key)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    about = {
        "text": f"{len(text.train)} characters to train, {len(text.valid)} to validate, an "
        f"alphabet of {len(text.characters)}",
        "net": f"{args.model}, {args.layers} layers of {args.width}, {count} parameters",
        "run": f"{args.steps} steps of {args.batch_size} x {args.length} characters",
    }
    if args.mesh is not None or args.distributed:
        about["mesh"] = placement.text(params)
    print(reporting.fields(about))
    optimizer = make_optimizer(args.lr, args.steps)
    chunks = Chunks(args.steps, max(1, -(-args.steps // args.reports)))
    run = runs.Run(
        NAME,
        args,
        State(params, optimizer.init(params)),
        train_key,
        placement,
        settings=settings(args, text),
        chunks=chunks,
        kind=reporting.TextResult,
    )

    few = corpus.windows(train_key, text.train, 2, args.length)
    for line in gradients.compare_losses(model.loss, params, *few, precision=args.precision):
        print(reporting.fields({"gradients": line}), flush=True)
    print()

    header = {**environment, "flags": {k: str(v) for k, v in vars(args).items()}, "count": count}
    with writing(args.workdir, run.saved):
        state, results = loop.fit(make_job(args, model, chunks, placement, text, run), run, header)
        trained = gather(state.params)
        sample = write(model, trained, text, args.length, write_key)
        if processes.first():
            sha256 = runs.save_params(args.workdir / "params.npz", trained)
            plots.plot_bits(
                args.workdir / "curves.png",
                results,
                title=f"{args.model}, {args.layers} layers of {args.width}, on Python's manual",
            )
            (args.workdir / "sample.txt").write_text(sample + "\n", encoding="utf-8")
    best = results[-1].valid_bits
    if processes.first():
        names = "metrics.jsonl, curves.png, sample.txt, params.npz and checkpoints"
        done = {
            "validation loss": f"{best:.3f} bits per character",
            "time": f"{time.perf_counter() - started:.1f} s",
            "written": f"{names} in {args.workdir}",
            "parameters": "those in params.npz have the digest",
        }
        print("", sample, "", sep="\n")
        print(reporting.fields(done), f"SHA-256 {sha256}", sep="\n", flush=True)
    if args.target_bpc is not None and best > args.target_bpc:
        raise Failure(f"validation loss {best:.3f} is above --target-bpc {args.target_bpc}")
    return state.params


def settings(args: argparse.Namespace, text: corpus.Corpus) -> dict[str, Any]:
    """What decides the trained parameters, by flag."""
    same = ("seed", "model", "width", "layers", "length", "lr", "steps", "reports", "precision")
    return {
        **{f"--{name}": getattr(args, name) for name in same},
        "--batch-size": args.batch_size,
        "the text": digest({"train": text.train, "valid": text.valid}, text.characters)[:12],
    }


def make_job(
    args: argparse.Namespace,
    model: Model,
    chunks: Chunks,
    placement: Placement,
    text: corpus.Corpus,
    run: runs.Run,
) -> loop.Job:
    """The training of `model`: step n draws its windows by ``fold_in(run.key, n)``."""
    optimizer = make_optimizer(args.lr, args.steps)
    loss = in_precision(model.loss, args.precision)
    train_text = placement.put_whole(text.train)
    valid = corpus.cut(text.valid, args.length)
    validate = placement.compile(model.loss)

    def steps(make: Any) -> Any:
        some_steps = make_steps(placement.step(make(loss, optimizer)), args.batch_size, args.length)

        def numbered(state: State, number: int) -> Any:
            begin = np.int32(chunks.steps_after(number - 1))
            return some_steps(state, train_text, run.key, begin, steps=chunks.steps_in(number))

        return numbered

    def evaluate(params: Params, number: int, losses: np.ndarray) -> reporting.TextResult:
        return reporting.TextResult(
            step=chunks.steps_after(number),
            train_bits=float(losses.mean(dtype=np.float64)) / math.log(2),
            valid_bits=float(validate(params, *valid)) / math.log(2),
        )

    watched = steps(health.make_watched_step)
    return loop.Job(chunks, "report", steps(make_step), watched, evaluate)


def make_steps(step: Step, batch_size: int, length: int) -> Any:
    """Some steps as one compiled program: ``(state, text, key, begin, *, steps)``.

    Step n draws its mini-batch by ``fold_in(key, n)``; `begin` is the first. The state is used up.
    """

    @partial(jax.jit, donate_argnums=0, static_argnames="steps")
    def some_steps(state: State, text: Array, key: Array, begin: Array, *, steps: int) -> Any:
        def body(state: State, number: Array) -> Any:
            key_of_step = jax.random.fold_in(key, number)
            return step(state, *corpus.windows(key_of_step, text, batch_size, length))

        return jax.lax.scan(body, state, begin + jnp.arange(steps, dtype=jnp.int32))

    return some_steps


def write(model: Model, params: Params, text: corpus.Corpus, length: int, key: Array) -> str:
    """A sample of what the net writes after PROMPT."""
    prompt = text.encode(PROMPT)
    window = np.resize(text.encode(" "), length)
    window[-len(prompt) :] = prompt[-length:]

    @jax.jit
    def more(params: Params, window: Array) -> Array:
        def one(window: Array, key: Array) -> tuple[Array, Array]:
            logits = model.logits(params, window[None])[0]
            c = jax.random.categorical(key, logits / TEMPERATURE).astype(window.dtype)
            return jnp.concatenate([window[1:], c[None]]), c

        return jax.lax.scan(one, window, jax.random.split(key, WRITTEN))[1]

    return PROMPT + text.decode(np.asarray(more(params, jnp.asarray(window))))


# what a flag is when it is not given: usually, and with --smoke
DEFAULTS: dict[str, tuple[Any, Any]] = {
    "steps": (800, 8),
    "width": (128, 64),
    "length": (128, 32),
    "batch_size": (16, 4),
}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags; a wrong one ends the program with a line on standard error and code 2."""
    parser = flags.make_parser(NAME, __doc__ or "")
    whole = partial(flags.whole, least=1)
    add = parser.add_argument
    add("--model", choices=("transformer", "gru", "rnn"), default="transformer")
    add("--steps", type=whole, metavar="N", help="mini-batches in all (default: 800)")
    add("--batch-size", type=whole, metavar="N", help="windows in a mini-batch (default: 16)")
    add(
        "--length",
        type=partial(flags.whole, least=16, most=4096),
        metavar="N",
        help="characters in a window (default: 128)",
    )
    add(
        "--width",
        type=partial(flags.whole, least=2 * language_models.HEAD, most=2**14),
        metavar="N",
        help=f"features, a multiple of {language_models.HEAD} (default: 128)",
    )
    add("--layers", type=whole, default=2, metavar="N", help="(default: 2)")
    add(
        "--lr",
        type=flags.positive,
        default=3e-3,
        metavar="RATE",
        help="Adam's learning rate at the start; it falls to 0 as half a cosine (default: 0.003)",
    )
    add(
        "--seed",
        type=partial(flags.whole, least=0, most=2**32 - 1),
        default=0,
        metavar="N",
        help="decides the first weights, the mini-batches and the sample (default: 0)",
    )
    add("--reports", type=whole, default=10, metavar="N", help="in the whole run (default: 10)")
    add(
        "--target-bpc",
        type=flags.positive,
        metavar="BITS",
        help="end with exit code 1 if the final validation loss is above this, such as 2.5",
    )
    add(
        "--smoke",
        action="store_true",
        help="a run of seconds to see that all works: 8 steps of 4 x 32 characters, width 64",
    )
    flags.add_run(parser, parser, workdir="runs/char_lm", unit="reports", every=1)
    args = flags.parse(parser, argv)
    for flag, (usual, smoke) in DEFAULTS.items():
        if getattr(args, flag) is None:
            setattr(args, flag, smoke if args.smoke else usual)
    if args.width % language_models.HEAD:
        parser.error(f"--width {args.width} is not a multiple of {language_models.HEAD}")
    return args


if __name__ == "__main__":
    sys.exit(main())
