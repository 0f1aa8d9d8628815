"""examples/char_lm.py: what it learns, says, writes and refuses."""

import json
import math

import char_lm
import corpus
import jax
import jax.numpy as jnp
import language_models
import numpy as np
import pytest

import fnnet
from tests.marks import first_of, thorough


@pytest.fixture(autouse=True)
def _numerics_of_users():
    """Those of a script: float32, and JAX's own promotion of dtypes and ranks."""
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield


@pytest.mark.parametrize("model", first_of(["gru", "transformer", "rnn"]))
def test_smoke(model, tmp_path, capsys):
    args = ["--smoke", "--model", model, "--workdir", str(tmp_path), "--reports", "2"]
    assert char_lm.main([*args, "--steps", "30", "--target-bpc", "5.5"]) == 0
    out = capsys.readouterr().out
    assert "gradients         by hand in float32 and by jax.grad" in out
    header, *reports = map(
        json.loads, (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    )
    assert header["kind"] == "header"
    assert header["flags"]["model"] == model
    assert [r["step"] for r in reports] == [15, 30]
    assert reports[1]["valid_bits"] < reports[0]["valid_bits"] < math.log2(200)
    sample = (tmp_path / "sample.txt").read_text(encoding="utf-8")
    assert sample.startswith(char_lm.PROMPT)
    assert len(sample) == len(char_lm.PROMPT) + char_lm.WRITTEN + 1
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@thorough
@pytest.mark.parametrize("model", ["transformer", "gru", "rnn"])
def test_bf16(model, tmp_path, capsys):
    args = ["--smoke", "--model", model, "--workdir", str(tmp_path), "--precision", "bf16"]
    assert char_lm.main([*args, "--reports", "1", "--steps", "20"]) == 0
    out = capsys.readouterr().out
    assert "gradients         by hand in bf16 and by jax.grad" in out
    _, report = map(
        json.loads, (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    )
    assert report["valid_bits"] < report["train_bits"] < math.log2(100)


def test_target_missed(tmp_path, capsys):
    args = ["--smoke", "--model", "rnn", "--steps", "2", "--workdir", str(tmp_path)]
    assert char_lm.main([*args, "--target-bpc", "1"]) == 1
    assert "is above --target-bpc 1.0" in capsys.readouterr().err


def test_divergence_is_told(tmp_path, capsys):
    args = ["--smoke", "--model", "rnn", "--lr", "1e38", "--workdir", str(tmp_path)]
    assert char_lm.main(args) == 1
    assert "training diverged; a smaller --lr may help" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--width", "100"], "--width 100 is not a multiple of 32"),
        (["--width", "8"], "from 64 to"),
        (["--steps", "0"], "'0' is not a whole number, 1 or more"),
        (["--model", "lstm"], "invalid choice"),
    ],
)
def test_wrong_flags(args, said, capsys):
    with pytest.raises(SystemExit) as e:
        char_lm.main(args)
    assert e.value.code == 2
    assert said in capsys.readouterr().err


def test_a_folder_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert char_lm.main(["--smoke", "--workdir", str(tmp_path / "file" / "x")]) == 2
    assert "cannot write to" in capsys.readouterr().err


def test_corpus():
    text = corpus.load()
    assert len(text.train) > 300_000
    assert text.train.max() < len(text.characters) < 120
    again = text.decode(text.train[:2000])
    assert (text.encode(again) == text.train[:2000]).all()
    assert text.decode(text.encode("a\N{SNOWMAN}b")) == f"a{corpus.UNKNOWN}b"


def test_windows_follow():
    text = np.arange(50)
    x, y = corpus.windows(jax.random.key(0), text, 7, 10)
    assert x.shape == (7, 10)
    assert (y == x + 1).all()
    x, y = corpus.cut(text, 10)
    assert x[:, 0].tolist() == [0, 10, 20, 30]
    assert (y == x + 1).all()


@pytest.mark.parametrize("name", first_of(["transformer", "gru", "rnn"]))
def test_no_model_sees_what_follows(name):
    """Changing a character changes nothing that is said before it."""
    model = language_models.make(name, classes=11, width=64, layers=2, length=12)
    params = model.init(jax.random.key(0))
    x = jax.random.randint(jax.random.key(1), (2, 12), 0, 11)
    other = x.at[:, 7].set((x[:, 7] + 1) % 11)
    a, b = model.features(params, x), model.features(params, other)
    assert (a[:, :7] == b[:, :7]).all()
    assert (jnp.abs(a[:, 7:] - b[:, 7:]).max(-1) > 0).all()


@pytest.mark.parametrize("name", first_of(["transformer", "gru", "rnn"]))
def test_gradients_of_the_whole_model(name):
    with jax.enable_x64(True):
        model = language_models.make(name, classes=11, width=64, layers=2, length=12)
        wide = jax.tree.map(lambda p: p.astype("float64"), model.init(jax.random.key(0)))
        x = jax.random.randint(jax.random.key(1), (2, 12), 0, 11)
        y = (x + 1) % 11
        hand = jax.jit(jax.grad(model.loss))(wide, x, y)
        auto = jax.jit(jax.grad(fnnet.plain(model.loss)))(wide, x, y)
        for h, a in zip(jax.tree.leaves(hand), jax.tree.leaves(auto), strict=True):
            assert float(jnp.abs(h - a).max()) <= 1e-12 * float(jnp.abs(a).max())
