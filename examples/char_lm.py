"""Learn to write English, character by character; every gradient is by fnnet's hand-derived rules.

    python examples/char_lm.py                 a small transformer
    python examples/char_lm.py --model gru     a recurrent net with gates
    python examples/char_lm.py --model rnn     a recurrent net without

The text is the reference manual that every Python carries behind `help()`. First the gradients of
the first mini-batch are compared with automatic ones. Then optax's Adam trains, the steps between
two reports as one compiled program, and the net writes a sample. --workdir gets metrics.jsonl (a
header, then one line for each report), curves.png and sample.txt.

Exit code: 0, all went well; 1, the gradients disagree, the loss is no longer finite, or the
validation loss is above --target-bpc; 2, a wrong flag; 130, interrupted.

Losses are in bits per character: the cross entropy in nats divided by ln 2. Taking
every character for equally likely costs log2 of their number, about 6.6 bits; knowing how often
each occurs, 4.7.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import corpus
import flags
import jax
import jax.numpy as jnp
import language_models
import numpy as np
import plots
import reporting
from jax import Array
from language_models import Model, Params
from training import State, make_optimizer, make_step

from fnnet import plain

VALIDATED = 64  # windows of the validation text
TEMPERATURE = 0.7  # of the sample: below 1 it is more cautious than the net
WRITTEN = 400  # characters of the sample
PROMPT = "The statement "


class Failure(Exception):
    """The run went wrong; the message is one line, and says how."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the example with these arguments, `sys.argv`'s unless given; the exit code."""
    args = parse(argv)
    try:
        run(args)
    except Failure as e:
        return _complain(str(e), 1)
    except OSError as e:
        return _complain(f"error: cannot write to {e.filename or args.workdir}: {e.strerror}", 2)
    except KeyboardInterrupt:
        return _complain("interrupted", 130)
    return 0


def _complain(message: str, code: int) -> int:
    sys.stdout.flush()
    print(f"char_lm.py: {message}", file=sys.stderr)
    return code


def run(args: argparse.Namespace) -> Params:
    """Everything the command does; the trained parameters.

    Raises:
        Failure: wrong gradients, a loss that is not finite, or too high a validation loss.
        OSError: the results cannot be written.
    """
    started = time.perf_counter()
    environment = reporting.environment()
    print(reporting.environment_text(environment))
    text = corpus.load()
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
    print(
        f"text              {len(text.train)} characters to train, {len(text.valid)} to "
        f"validate, an alphabet of {len(text.characters)}\n"
        f"net               {args.model}, {args.layers} layers of {args.width}, {count} "
        "parameters\n"
        f"run               {args.steps} steps of {args.batch_size} x {args.length} characters"
    )
    args.workdir.mkdir(parents=True, exist_ok=True)

    worst, leaf = compare_gradients(model, params, *windows(train_key, text.train, 2, args.length))
    print(
        f"gradients         by hand and by jax.grad(fnnet.plain(loss)) differ by {worst:.1e} of a "
        f"leaf's scale at most, in {leaf}\n",
        flush=True,
    )
    if not worst < 1e-3:
        raise Failure(f"manual and automatic gradients disagree in {leaf}. Nothing was trained")

    header = {**environment, "flags": {k: str(v) for k, v in vars(args).items()}, "count": count}
    with reporting.Metrics(args.workdir / "metrics.jsonl", header) as file:
        params, results = train(model, params, text, args, train_key, file)
    best = results[-1].valid_bits
    plots.plot_bits(
        args.workdir / "curves.png",
        results,
        title=f"{args.model}, {args.layers} layers of {args.width}, on Python's manual",
    )
    sample = write(model, params, text, args.length, write_key)
    (args.workdir / "sample.txt").write_text(sample + "\n", encoding="utf-8")
    print(
        f"\n{sample}\n\n"
        f"validation loss   {best:.3f} bits per character\n"
        f"time              {time.perf_counter() - started:.1f} s\n"
        f"written           metrics.jsonl, curves.png and sample.txt in {args.workdir}",
        flush=True,
    )
    if args.target_bpc is not None and best > args.target_bpc:
        raise Failure(f"validation loss {best:.3f} is above --target-bpc {args.target_bpc}")
    return params


def windows(key: Array, text: Any, n: int, length: int) -> tuple[Array, Array]:
    """`n` windows of the text at random places: characters, and those that follow them."""
    starts = jax.random.randint(key, (n, 1), 0, len(text) - length)
    places = starts + jnp.arange(length)[None, :]
    text = jnp.asarray(text)
    return text[places], text[places + 1]


def compare_gradients(model: Model, params: Params, x: Array, y: Array) -> tuple[float, str]:
    """The largest difference of a leaf's gradients by hand and automatic, and the leaf's name."""
    by_hand = jax.jit(jax.grad(model.loss))(params, x, y)
    automatic = jax.jit(jax.grad(plain(model.loss)))(params, x, y)

    def difference(a: Array, b: Array) -> float:
        return float(jnp.abs(a - b).max() / jnp.abs(b).max())

    differences = jax.tree.leaves_with_path(jax.tree.map(difference, by_hand, automatic))
    path, worst = max(differences, key=lambda pair: math.inf if pair[1] != pair[1] else pair[1])
    return worst, jax.tree_util.keystr(path)


def train(
    model: Model,
    params: Params,
    text: corpus.Corpus,
    args: argparse.Namespace,
    key: Array,
    file: reporting.Metrics,
) -> tuple[Params, list[reporting.TextResult]]:
    """Train, and report now and then.

    Raises:
        Failure: the loss is no longer finite.
    """
    optimizer = make_optimizer(args.lr, args.steps)
    step = make_step(model.loss, optimizer)

    @partial(jax.jit, donate_argnums=0, static_argnames="steps")
    def some_steps(state: State, begin: Array, *, steps: int) -> tuple[State, Array]:
        train_text = jnp.asarray(text.train)

        def body(state: State, number: Array) -> tuple[State, Array]:
            batch = windows(
                jax.random.fold_in(key, number), train_text, args.batch_size, args.length
            )
            return step(state, *batch)

        return jax.lax.scan(body, state, begin + jnp.arange(steps))

    state = State(params, optimizer.init(params))
    valid = [jnp.asarray(a) for a in cut(text.valid, args.length)]
    validate = jax.jit(model.loss)
    results: list[reporting.TextResult] = []
    every = max(1, -(-args.steps // args.reports))
    with reporting.Live(-(-args.steps // every), unit="report") as live:
        for begin in range(0, args.steps, every):
            steps = min(every, args.steps - begin)
            state, of_each_step = some_steps(state, jnp.asarray(begin), steps=steps)
            losses = np.asarray(of_each_step)
            if bad := np.flatnonzero(~np.isfinite(losses)).tolist():
                raise Failure(
                    f"the loss is {losses[bad[0]]} at step {begin + bad[0] + 1}: training "
                    "diverged; a smaller --lr may help"
                )
            valid_loss = float(validate(state.params, *valid))
            if not math.isfinite(valid_loss):  # the last step broke it
                raise Failure(
                    f"the validation loss is {valid_loss} after step {begin + steps}: training "
                    "diverged; a smaller --lr may help"
                )
            result = reporting.TextResult(
                step=begin + steps,
                train_bits=float(losses.mean(dtype=np.float64)) / math.log(2),
                valid_bits=valid_loss / math.log(2),
                seconds=live.lap(),
            )
            results.append(result)
            live.add(result)
            file.add(result)
    return state.params, results


def cut(text: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows side by side, spread over the whole text: characters, and those that follow."""
    most = (len(text) - 1) // length
    chosen = np.linspace(0, most - 1, min(VALIDATED, most)).astype(int)
    places = chosen[:, None] * length + np.arange(length)
    return text[places], text[places + 1]


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
    "steps": (400, 8),
    "width": (128, 64),
    "length": (128, 32),
    "batch_size": (16, 4),
}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags; a wrong one ends the program with a line on standard error and code 2."""
    description, _, rest = (__doc__ or "").partition("Exit code")
    parser = flags.Parser(
        prog="char_lm.py",
        description=description,
        epilog=f"Exit code{rest}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    whole = partial(flags.whole, least=1)
    add = parser.add_argument
    add("--model", choices=("transformer", "gru", "rnn"), default="transformer")
    add("--steps", type=whole, metavar="N", help="mini-batches in all (default: 400)")
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
    add(
        "--workdir",
        type=Path,
        default=Path("runs/char_lm"),
        metavar="DIR",
        help="where the results go; made if need be, older ones are overwritten "
        "(default: runs/char_lm)",
    )
    args = parser.parse_args(argv)
    for flag, (usual, smoke) in DEFAULTS.items():
        if getattr(args, flag) is None:
            setattr(args, flag, smoke if args.smoke else usual)
    if args.width % language_models.HEAD:
        parser.error(f"--width {args.width} is not a multiple of {language_models.HEAD}")
    return args


if __name__ == "__main__":
    sys.exit(main())
