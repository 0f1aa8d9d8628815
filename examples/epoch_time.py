"""What compiling a whole epoch gains over a Python loop of compiled steps.

    python examples/epoch_time.py

All forms run the same steps on the same mini-batches: 5,000 images of 784 numbers, 256 hidden
units, ten outputs, Adam, mini-batches of 64. The images are random: their values do not change the
time. The forms are timed in turns, so that whatever else the machine does meets all of them.

What is saved is the way from Python to the device, a fixed time for each step. The smaller the
step, the larger the share; large nets gain nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from training import Epoch, State, make_epoch, make_epoch_as_a_loop, make_optimizer, make_step

from fnnet import backprop


@dataclass(frozen=True)
class Times:
    """Seconds of one epoch in one form.

    Attributes:
        form: which one.
        seconds: median.
        ratio: median of what the epoch compiled whole took, as a share of this form's time in the
            same round.
    """

    form: str
    seconds: float
    ratio: float


def time_epochs(
    *,
    images: int = 5000,
    batch_size: int = 64,
    sizes: Sequence[int] = (784, 256, 10),
    rounds: int = 15,
    seed: int = 0,
) -> list[Times]:
    """Time an epoch in each form, in turns, each form going on from where it was.

    Args:
        images: size of the training set.
        batch_size: images in a mini-batch.
        sizes: of the input, the hidden layers and the output.
        rounds: measured; one more before them compiles and warms up.
        seed: of the images, the parameters and the order.

    Returns:
        The epoch compiled whole, then the loops.
    """
    rng = np.random.default_rng(seed)
    x = rng.random((images, sizes[0]), np.float32)
    y = np.eye(sizes[-1], dtype=np.float32)[rng.integers(0, sizes[-1], images)]
    steps = images // batch_size
    optimizer = make_optimizer(1e-3, steps * (rounds + 1))
    step = make_step(backprop.loss, optimizer)
    whole, loop = make_epoch(step, batch_size), make_epoch_as_a_loop(step, batch_size)
    on_device = jax.device_put((x, y))
    forms: list[tuple[str, Epoch, Any]] = [
        ("epoch compiled whole", whole, on_device),
        ("loop of compiled steps, images on the device", loop, on_device),
        ("loop of compiled steps, images in NumPy", loop, (x, y)),
    ]
    keys = jax.random.split(jax.random.key(seed), rounds + 2)
    states = []
    for _ in forms:
        params = backprop.init_mlp(keys[0], sizes)
        states.append(State(params, optimizer.init(params)))

    seconds = np.empty((rounds + 1, len(forms)))
    for turn, key in enumerate(keys[1:]):
        for i in rng.permutation(len(forms)):
            _, epoch, arrays = forms[i]
            start = time.perf_counter()
            states[i], losses = epoch(states[i], *arrays, key, steps=steps)
            jax.block_until_ready((states[i], losses))
            seconds[turn, i] = time.perf_counter() - start
    seconds = seconds[1:]
    ratios = np.median(seconds[:, :1] / seconds, axis=0)
    return [
        Times(form, float(median), float(ratio))
        for (form, *_), median, ratio in zip(forms, np.median(seconds, axis=0), ratios, strict=True)
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the times; the exit code."""
    parser = argparse.ArgumentParser(prog="epoch_time.py", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15, help="how often each is timed")
    args = parser.parse_args(argv)
    if args.rounds < 1:
        parser.error(f"--rounds {args.rounds}: want at least 1")
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}")
    print(f"{'':46}  {'ms':>8}  compiled whole takes")
    for row in time_epochs(rounds=args.rounds):
        print(f"{row.form:46}  {row.seconds * 1e3:8.1f}  {row.ratio:8.2f} of it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
