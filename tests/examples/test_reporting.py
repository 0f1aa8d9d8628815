"""What a run says and draws: lines, a bar on a terminal, JSON, labelled pictures."""

import io
import json
import struct

import jax
import numpy as np
import plots
import pytest
import reporting
from matplotlib.figure import Figure
from rich.console import Console

RESULTS = [
    reporting.EpochResult(e, 62 * e, 0.04 / e, 0.05 / e, 1 - 0.1 / e, 0.5) for e in range(1, 16)
]


def live(*, terminal: bool) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100, _environ={"TERM": "xterm"})
    with reporting.Live(len(RESULTS), console) as shown:
        for result in RESULTS:
            shown.add(result)
            assert shown.lap() >= 0
    return out.getvalue()


def test_without_a_terminal_there_are_plain_lines():
    text = live(terminal=False)
    assert [line.strip() for line in text.splitlines()] == [str(r) for r in RESULTS]


def test_on_a_terminal_there_is_a_bar_too():
    text = live(terminal=True)
    assert "\x1b[" in text
    assert "15/15" in text
    assert "accuracy 99.3%" in text
    for result in RESULTS:
        assert str(result) in text


def test_a_line_for_people():
    assert str(RESULTS[1]) == (
        "epoch   2  step    124  train loss 0.0200  test 0.0250  accuracy 95.00%  0.50 s"
    )


def test_environment():
    found = reporting.environment()
    assert found["versions"]["jax"] == jax.__version__
    assert found["backend"] == "cpu"
    assert found["devices"] == ["8 x cpu"]
    assert found["matmul_precision"] == "default"
    with jax.default_matmul_precision("highest"):
        assert reporting.environment()["matmul_precision"] == "highest"
    lines = reporting.environment_text(found).splitlines()
    names = [line.split("  ")[0] for line in lines if line[0] != " "]
    assert names == ["versions", "backend", "matmul precision"]
    assert max(map(len, lines)) <= 80


def test_metrics_are_on_disk_line_by_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("older\n")
    with reporting.Metrics(path, {"seed": 3}) as metrics:
        assert path.read_text(encoding="utf-8") == '{"kind": "header", "seed": 3}\n'
        metrics.add(RESULTS[0])
        header, epoch = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    assert header == {"kind": "header", "seed": 3}
    assert epoch == {
        "kind": "epoch",
        "epoch": 1,
        "step": 62,
        "train_loss": 0.04,
        "test_loss": 0.05,
        "test_accuracy": 0.9,
        "seconds": 0.5,
    }


@pytest.fixture
def figures(monkeypatch) -> list[Figure]:
    """The figures that are saved, each saved for real as well."""
    saved, save = [], Figure.savefig

    def keep(figure: Figure, path) -> None:
        saved.append(figure)
        save(figure, path)

    monkeypatch.setattr(Figure, "savefig", keep)
    return saved


def png_size(path) -> tuple[int, int]:
    raw = path.read_bytes()
    assert raw[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", raw[16:24])


def test_curves(tmp_path, figures):
    path = tmp_path / "curves.png"
    plots.plot_curves(path, RESULTS, title="some digits", x_label="epoch (62 steps)")
    assert png_size(path) == (1200, 480)
    (figure,) = figures
    assert figure.get_suptitle() == "some digits"
    loss, accuracy = figure.axes
    assert loss.get_xlabel() == accuracy.get_xlabel() == "epoch (62 steps)"
    assert "mean squared error" in loss.get_ylabel()
    assert accuracy.get_title() == "Accuracy, 99.33% at the end"
    assert accuracy.get_ylabel() == "test images classified rightly"
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["training", "test"]
    np.testing.assert_array_equal(loss.lines[0].get_xdata(), np.arange(1, 16))
    np.testing.assert_allclose(loss.lines[0].get_ydata(), [r.train_loss for r in RESULTS])
    np.testing.assert_allclose(loss.lines[1].get_ydata(), [r.test_loss for r in RESULTS])
    np.testing.assert_allclose(accuracy.lines[0].get_ydata(), [r.test_accuracy for r in RESULTS])
    assert accuracy.yaxis.get_major_formatter()(0.95) == "95.0%"


def test_curves_of_one_epoch(tmp_path):
    plots.plot_curves(tmp_path / "curves.png", RESULTS[:1], title="t", x_label="epoch")
    assert png_size(tmp_path / "curves.png") == (1200, 480)


@pytest.mark.parametrize("n", [0, 1, 9, 60])
def test_mistakes(tmp_path, figures, n):
    rng = np.random.default_rng(0)
    images = rng.random((n, 5, 4))
    labels, predictions = np.arange(n) % 10, np.arange(1, n + 1) % 10
    surest = rng.permutation(n)
    path = tmp_path / "mistakes.png"
    plots.plot_mistakes(path, images, labels, predictions, surest=surest, tested=1000)
    png_size(path)
    (figure,) = figures
    title = f"{n} of 1000 test images are taken for another digit"
    if n > plots.SHOWN:
        title += "; the 40 that the net was surest of"
    assert figure.get_suptitle() == title
    drawn = [axes for axes in figure.axes if axes.images]
    order = np.argsort(-surest)[: plots.SHOWN]
    assert [axes.get_title() for axes in drawn] == [
        f"is {labels[i]}, taken for {predictions[i]}" for i in order
    ]
    for axes, i in zip(drawn, order, strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), images[i])
