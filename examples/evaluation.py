"""What a net for digits makes of the test set: its loss, its accuracy, its mistakes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plots
import reporting
from data import Digits, one_hot
from training import Params, Plan

TESTED_AT_ONCE = 2_000

Forward = Callable[[Params, np.ndarray], Any]


def predict(forward: Forward, params: Params, x: np.ndarray) -> np.ndarray:
    """The outputs (n, 10) of a compiled `forward` for images (n, pixels)."""
    parts = [x[i : i + TESTED_AT_ONCE] for i in range(0, len(x), TESTED_AT_ONCE)]
    return np.concatenate([np.asarray(forward(params, part)) for part in parts])


def evaluate(
    forward: Forward,
    error: Callable[[np.ndarray, np.ndarray], float],
    params: Params,
    digits: Digits,
) -> tuple[float, float]:
    """The loss, by `error`, and the share of the test images classified rightly."""
    outputs = predict(forward, params, digits.test_x)
    accuracy = float(np.mean(outputs.argmax(1) == digits.test_y))
    return error(outputs, one_hot(digits.test_y)), accuracy


def draw(
    folder: Path,
    digits: Digits,
    plan: Plan,
    results: Sequence[reporting.EpochResult],
    outputs: np.ndarray,
) -> int:
    """Write curves.png and mistakes.png; the number of mistakes in `outputs`."""
    plots.plot_curves(
        folder / "curves.png",
        results,
        title=f"{digits.name}: {len(digits.train_x)} to train, {len(digits.test_x)} to test",
        x_label=f"epoch ({plan.steps_per_epoch} steps of {plan.batch_size} images)",
    )
    mistakes = np.flatnonzero(outputs.argmax(1) != digits.test_y)
    wrong, labels = outputs[mistakes], digits.test_y[mistakes]
    plots.plot_mistakes(
        folder / "mistakes.png",
        digits.test_x[mistakes].reshape(-1, digits.height, digits.width),
        labels,
        wrong.argmax(1),
        surest=wrong.max(1) - np.take_along_axis(wrong, labels[:, None], 1)[:, 0],
        tested=len(outputs),
    )
    return len(mistakes)
