"""The pictures of a training run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import (
    LogLocator,
    MaxNLocator,
    NullFormatter,
    PercentFormatter,
    StrMethodFormatter,
)
from reporting import EpochResult, TextResult

SHOWN = 40  # mistakes in the picture
COLUMNS = 8


def _figure(width: float, height: float) -> Figure:
    """A figure without pyplot: no window, no global state, no display needed."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    return figure


def plot_curves(path: Path, results: Sequence[EpochResult], *, title: str, x_label: str) -> None:
    """Draw loss and accuracy against the epoch.

    Args:
        path: the PNG to write.
        results: one for each epoch, in order.
        title: over the picture.
        x_label: says what an epoch is.
    """
    epochs = [r.epoch for r in results]
    marker = "o" if len(results) <= 40 else ""
    figure = _figure(10, 4)
    figure.suptitle(title)
    loss, accuracy = figure.subplots(1, 2)

    loss.plot(epochs, [r.train_loss for r in results], marker=marker, ms=4, label="training")
    loss.plot(epochs, [r.test_loss for r in results], marker=marker, ms=4, label="test")
    loss.set_yscale("log")
    loss.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    loss.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    loss.yaxis.set_minor_formatter(NullFormatter())
    loss.set(xlabel=x_label, ylabel="mean squared error per output (log scale)", title="Loss")
    loss.legend()

    shares = [r.test_accuracy for r in results]
    accuracy.plot(epochs, shares, marker=marker, ms=4, color="tab:green", label="test")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0))
    accuracy.set(xlabel=x_label, ylabel="test images classified rightly")
    accuracy.set_title(f"Accuracy, {shares[-1]:.2%} at the end")

    for axes in (loss, accuracy):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3, which="both")
    figure.savefig(path)


def plot_bits(path: Path, results: Sequence[TextResult], *, title: str) -> None:
    """Draw the losses of a model of text, in bits per character, against the step.

    Args:
        path: the PNG to write.
        results: in order.
        title: over the picture.
    """
    steps = [r.step for r in results]
    figure = _figure(7, 4)
    axes = figure.subplots()
    axes.plot(steps, [r.train_bits for r in results], marker="o", ms=4, label="training")
    axes.plot(steps, [r.valid_bits for r in results], marker="o", ms=4, label="validation")
    axes.set(xlabel="step", ylabel="cross entropy (bits per character)")
    axes.set_title(f"{title}: {results[-1].valid_bits:.3f} bits per character", fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)


def plot_mistakes(
    path: Path,
    images: np.ndarray,
    labels: np.ndarray,
    predictions: np.ndarray,
    *,
    surest: np.ndarray,
    tested: int,
) -> None:
    """Draw wrongly classified images, each with its label and what the net took it for.

    Args:
        path: the PNG to write.
        images: the wrong ones, (n, height, width), 0 is paper and 1 is ink.
        labels: what they are, (n,).
        predictions: what the net took them for, (n,).
        surest: how far the wrong output was above the right one, (n,); the largest are drawn.
        tested: size of the test set.
    """
    order = np.argsort(-surest, kind="stable")[:SHOWN]
    rows = max(1, -(-len(order) // COLUMNS))
    figure = _figure(1.35 * COLUMNS, 1.55 * rows + 0.5)
    wrong = f"{len(images)} of {tested} test images are taken for another digit"
    if len(order) < len(images):
        wrong += f"; the {len(order)} that the net was surest of"
    figure.suptitle(wrong)
    grid = figure.subplots(rows, COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, i in zip(grid.flat, order, strict=False):
        axes.imshow(images[i], cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(f"is {labels[i]}, taken for {predictions[i]}", fontsize=10, pad=3)
    figure.savefig(path)
