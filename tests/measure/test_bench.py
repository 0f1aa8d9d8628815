"""`python -m fnnet bench`: the figures' structure, the exact ones' values, the command."""

import builtins
import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnnet
from fnnet import _terminal
from fnnet.__main__ import COMMANDS
from fnnet.__main__ import main as fnnet_main
from fnnet.measure import bench, bench_tables, epoch, mlp
from fnnet.measure.adam import adam, own_adam
from fnnet.measure.compiled import compiled_memory
from fnnet.measure.epoch import time_epochs
from fnnet.measure.gradient import measure, moving, program, value_and_cotangents
from fnnet.measure.machine import machine
from fnnet.measure.peer_epochs import Problem
from fnnet.measure.row import Row
from fnnet.measure.rows import ROWS
from tests.compare import assert_close
from tests.marks import thorough

SMALL = {
    "matmul": [(4, 3), (3, 2)],
    "lin": [(4, 3), (3, 2), (2,)],
    "mlp": (4, 3, 2),
    "linear_cross_entropy": (4, 3, 5),
    "linear_cross_entropy, recomputed": (4, 3, 5),
    "rnn": (3, 2, 4, 3),
    "gru": (3, 2, 4, 3),
    "group_norm, 8 groups": [(2, 3, 16), (16,), (16,)],
    "rope": (2, 3, 2, 4),
    "attention": (16, 2, 3),
    "attention, causal": (16, 2, 3),
    "fold, 3×3": [(4, 3, 3, 18)],
}
OPS = {name for name in vars(fnnet.ops) if f"{name}_bwd" in vars(fnnet.ops)}
each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def small(row):
    """A size that costs nothing: of the first array's shape, its axes cut to 4 and 3."""
    if row.name in SMALL:
        return SMALL[row.name]
    if row.tangent:
        return SMALL[row.name.removesuffix(", value and tangent")]
    cut = dict(zip(row.sizes[0][0], (4, 3), strict=False))
    cut[row.sizes[0][0][-1]] = 3
    return [tuple(cut.get(n, n) for n in shape) for shape in row.sizes[0]]


@functools.cache
def measured_once(name):
    (row,) = (row for row in ROWS if row.name == name)
    return measure(row, small(row), budget_s=0.0, least=1)


@pytest.fixture(scope="module")
def measured():
    return [measured_once(row.name) for row in ROWS]


def test_every_op_has_a_row():
    assert {"matmul", "lin", "relu", "mse"} <= OPS <= {row.op for row in ROWS}
    assert len({row.name for row in ROWS}) == len(ROWS)
    for row in ROWS:
        if row.name in OPS:
            assert getattr(row.f, "func", row.f) is getattr(fnnet.ops, row.name)
            assert row.eager


def test_the_nets_that_are_asked_for():
    (row,) = (row for row in ROWS if row.name == "mlp")
    assert row.sizes == [(200, 100, 50), (256, 784, 256), (2048, 784, 1024)]


@each_row
def test_every_peer_computes_the_same_function(row, key):
    """Value and cotangents: else their times would compare nothing."""
    args = row.draw(key, small(row))
    n = list(range(len(args))) if row.argnums is None else row.argnums
    y = row.f(*args)
    g = jax.random.normal(key, y.shape, y.dtype)
    want, cts = value_and_cotangents(row.f, n)(args, g)
    assert len(cts) == len(n)
    for load in row.peers.values():
        try:
            peer = load()
        except ImportError:
            continue
        got = value_and_cotangents(peer, n)(args, g)
        assert_close(got, (want, cts), 1e-5)


def test_a_tangent_is_measured_as_jax_has_it(key):
    for row in ROWS:
        if row.tangent:
            args = row.draw(key, small(row))
            n = list(range(len(args))) if row.argnums is None else row.argnums
            dots = [jnp.cos(jnp.ones(t.shape, t.dtype)) for t in moving(row, args, n)]
            got, want = (
                program(row, f, n)(args, dots) for f in (row.f, row.auto or fnnet.plain(row.f))
            )
            assert_close(got, want, 1e-4)
    assert {row.op for row in ROWS if row.tangent} == {
        *("linear_cross_entropy", "rnn", "gru", "attention")
    }


@thorough
def test_every_row_measured_has_all_its_figures(measured):
    for row, m in zip(ROWS, measured, strict=True):
        assert m.name == row.name
        names = {"hand", "autodiff", "checkpoint"}
        assert set(m.contestants) | set(m.missing) == names | set(row.peers)
        assert set(m.ratios) == set(m.contestants) - {"hand"}
        assert (m.eager is None) != row.eager
        for spread in (*m.ratios.values(), m.control, m.contestants["hand"].seconds):
            assert 0 < spread.sure_low <= spread.median <= spread.sure_high
            assert spread.low <= spread.median <= spread.high
        assert all(c.compile_s > 0 and c.trace_s > 0 for c in m.contestants.values())


@thorough
def test_memory_is_that_of_the_gradient(measured):
    """At (4, 3, 2): what relu and mse keep, and never more than autodiff.

    But for log_softmax, whose second projection holds one array more (tests/ops/test_memory.py).
    """
    by_name = {m.name: m.contestants for m in measured}
    assert by_name["relu"]["hand"].stored == 4 * 3 * 4
    assert by_name["relu"]["autodiff"].stored >= 4 * 3
    assert by_name["mlp"]["hand"].stored == 4 * 2 * 4 + 4 * 10 * 4
    assert by_name["mlp"]["checkpoint"].stored == 0
    assert by_name["lin"]["hand"].given == (4 * 3 + 3 * 2) * 4
    # a sixteenth of a chunk is one row at this size; of 16 bytes are the pieces that XLA gives away
    more = {"log_softmax": 4 * 3 * 4 + 16, "linear_cross_entropy": 8 * 16}
    more["linear_cross_entropy, recomputed"] = 11 * 16
    # a tangent's own pieces; at sizes that count it needs less (tests/ops/test_tangents.py)
    more["linear_cross_entropy, recomputed, value and tangent"] = 11 * 16
    more["gru, value and tangent"] = 12 * 16
    more["attention, value and tangent"] = 24 * 16
    # a loop over features holds copies of the points, which are as many numbers here as all pairs'
    # differences are; at sizes that count see tests/ops/test_memory.py
    more |= {"pairwise_distance": 39 * 16, "pairwise_distance, squared": 31 * 16}
    more |= {"pairwise_distance, order 1": 27 * 16}
    more |= {"kernel_sum": 23 * 16, "kernel_sum, laplacian": 23 * 16}
    for name, contestants in by_name.items():
        hand, auto = contestants["hand"], contestants["autodiff"]
        assert hand.stored <= auto.stored, name
        assert hand.memory.temp <= auto.memory.temp + more.get(name, 0), name

    args = mlp.draw(jax.random.key(0), SMALL["mlp"])
    run = value_and_cotangents(fnnet.plain(mlp.loss), [0])
    same = compiled_memory(run, args, jnp.ones((), "float32"))
    assert by_name["mlp"]["autodiff"].memory == same


def test_the_mlp_at_its_sizes_needs_less_memory_by_hand():
    (row,) = (row for row in ROWS if row.name == "mlp")
    for n, n_in, hidden in row.sizes:
        shapes = jax.eval_shape(lambda k, s=(n, n_in, hidden): mlp.draw(k, s), jax.random.key(0))
        g = jax.ShapeDtypeStruct((), "float32")
        hand, auto = (
            compiled_memory(value_and_cotangents(f, [0]), shapes, g).temp
            for f in (row.f, fnnet.plain(row.f))
        )
        assert hand <= 0.7 * auto


def test_an_op_with_integer_arguments_is_a_row():
    """A new op is a new row: whatever its arguments, with peers that are not there."""

    def pick(x, at):
        return x[at]

    def absent():
        import a_package_that_is_not_there  # noqa: F401

    def draw(key, size):
        return [jax.random.normal(key, size, "float32"), jnp.array([1, 0])]

    row = Row("pick", pick, [(3, 2)], draw, words=str, argnums=[0], peers={"absent": absent})
    m = measure(row, (3, 2), budget_s=0.0, least=1)
    assert m.label == "pick (3, 2)"
    assert m.arrays == ["float32[3,2]", "int64[2]"]
    assert "ModuleNotFoundError" in m.missing["absent"]
    assert "absent (ModuleNotFoundError" in bench_tables.tables([m], None)


@thorough
@pytest.mark.parametrize("room", [40, 80, 160])
def test_the_tables(measured, monkeypatch, room):
    """As wide as there is room: what is too wide has two lines, the quartiles are left out."""
    monkeypatch.setenv("COLUMNS", str(room))
    text = bench_tables.tables(measured, None)
    for m in measured:
        found = sum(line.split("  ")[0] == m.label for line in text.splitlines())
        assert found == 3 + (m.eager is not None)
    for word in ("autodiff", "checkpoint", "noise", "temp: hand", "stored: hand", "compile: hand"):
        assert word in text
    assert max(map(len, text.splitlines())) <= max(room, 80)
    assert ("quartiles" in text) == (room > 100)


@thorough
def test_a_backend_that_does_not_tell_its_memory(measured, monkeypatch):
    def untold(self):
        raise NotImplementedError("not here")

    monkeypatch.setattr(jax.stages.Compiled, "memory_analysis", untold)
    m = measure(ROWS[2], [(3, 2)], budget_s=0.0, least=1)
    text = bench_tables.memory([m])
    assert "the backend does not tell (not here)" in text
    assert m.contestants["hand"].stored == 24


@pytest.fixture(scope="module")
def epochs():
    return time_epochs(images=40, batch=8, n_in=6, hidden=5, budget_s=0.0, least=1)


def test_every_form_of_the_epoch_trains_the_same_net(epochs):
    losses = {name: form.loss for name, form in epochs.forms.items()}
    whole = losses["compiled whole"]
    assert len(losses) >= 6
    for name, loss in losses.items():
        assert loss == pytest.approx(whole, rel=1e-4), name
    assert set(epochs.forms) & set(epochs.missing) == set()
    assert epochs.forms["compiled whole"].ratio.median == 1
    text = bench_tables.epochs(epochs)
    assert "40 images, batch 8, 6-5-10, Adam by" in text
    assert all(f"\n{name}" in text for name in losses)


def test_the_epoch_trains(key):
    params, x, y = mlp.draw(key, (64, 6, 5))
    problem = Problem(params, x, y, jnp.arange(64).reshape(8, 8), own_adam())
    run = epoch._whole(problem, epoch._step(mlp.loss, problem.optimizer))
    first = float(run())
    for _ in range(30):
        last = float(run())
    assert last < first / 2
    assert not params[0][0].is_deleted(), "the caller's parameters are not donated"


def test_adam_without_optax_is_optax_adam(key, monkeypatch):
    optax = pytest.importorskip("optax")
    theirs, ours = adam(), own_adam()
    assert theirs.name == f"optax {optax.__version__}"
    monkeypatch.setitem(sys.modules, "optax", None)
    assert adam().name == ours.name == "fnnet.measure"
    p = q = {"w": jax.random.normal(key, (3, 2))}
    a, b = theirs.init(p), ours.init(q)
    for k in jax.random.split(key, 5):
        g = {"w": jax.random.normal(k, (3, 2))}
        p, a = theirs.update(g, a, p)
        q, b = ours.update(g, b, q)
    assert_close(p, q, 1e-6)


def test_the_machine_is_named():
    about = machine()
    assert about["device"].startswith("cpu")
    assert about["jax"].startswith(jax.__version__)
    assert np.__version__ in about["numpy"]
    assert "x64 True" in about["numerics"]


@pytest.fixture
def tiny(monkeypatch, epochs):
    """The command, with what it measures measured once, at sizes that cost nothing."""
    monkeypatch.setattr(bench, "measure", lambda row, size, **_: measured_once(row.name))
    monkeypatch.setattr(bench, "time_epochs", lambda **_: epochs)


@thorough
def test_the_command(tiny, tmp_path, capsys):
    file, plot = tmp_path / "b.json", tmp_path / "b.png"
    assert fnnet_main(["bench", "--quick", "--json", str(file), "--plot", str(plot)]) == 0
    out = capsys.readouterr().out
    assert f"jax      {jax.__version__}" in out
    figures = json.loads(file.read_text(encoding="utf-8"))
    assert figures["quick"] is True
    assert [row["name"] for row in figures["rows"]] == [row.name for row in ROWS]
    lin = next(row for row in figures["rows"] if row["name"] == "lin")
    assert lin["arrays"] == ["float32[4,3]", "float32[3,2]", "float32[2]"]
    assert set(lin["ratios"]) == {"autodiff", "checkpoint", "jax.numpy"}
    assert set(lin["contestants"]["hand"]["memory"]) >= {"argument", "output", "temp", "alias"}
    assert lin["ratios"]["autodiff"]["count"] >= 1
    assert figures["epoch"]["forms"]["compiled whole"]["seconds"]["median"] > 0
    assert figures["machine"]["device"].startswith("cpu")
    # a picture of some size
    matplotlib_image = pytest.importorskip("matplotlib.image")
    height, width, _ = matplotlib_image.imread(plot).shape
    assert width > 1000
    assert height > 400


def test_one_op_alone(tiny, capsys):
    assert bench.main(["--op", "relu", "--op", "mse"]) == 0
    out = capsys.readouterr().out
    assert out.count("\nrelu 4×3") == 4 * 2, "both sizes in each of four tables"
    assert "\nmatmul" not in out
    assert "epoch" not in out
    assert bench.main(["--op", "epoch", "--quick"]) == 0
    out = capsys.readouterr().out
    assert "epoch: 40 images" in out
    assert "value and gradient" not in out


@thorough
def test_rows_come_as_they_are_measured(monkeypatch, measured, capsys):
    by_name = {m.name: m for m in measured}
    seen = []

    def slow(row, size, **_):
        seen.append(capsys.readouterr().out)
        return by_name[row.name]

    monkeypatch.setattr(bench, "measure", slow)
    assert bench.main(["--op", "relu"]) == 0
    assert "value and gradient" in seen[0]
    assert "relu 4×3" in seen[1]


def test_errors_before_anything_is_measured(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "run", None)
    there = tmp_path / "none"
    for flag in ("--json", "--plot"):
        assert bench.main([flag, str(there / "f.png")]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err == f"fnnet bench: {there / 'f.png'}: there is no directory {there}\n"
    pytest.importorskip("matplotlib")
    assert bench.main(["--plot", str(tmp_path / "f.bmp")]) == 2
    assert "must end in one of" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        bench.main(["--op", "lim"])
    assert stop.value.code == 2
    assert "there is no op 'lim'; did you mean lin?\n  There are: " in capsys.readouterr().err


def test_without_matplotlib_the_extra_is_named(monkeypatch, tmp_path, capsys):
    real = builtins.__import__

    def no_matplotlib(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError("No module named 'matplotlib'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(bench, "run", None)
    monkeypatch.setattr(builtins, "__import__", no_matplotlib)
    assert _terminal.plot_fault("b.png")
    assert bench.main(["--plot", str(tmp_path / "b.png")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "pip install matplotlib" in error


def test_a_plot_of_the_epoch_alone_is_refused(tiny, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        bench.main(["--op", "epoch", "--quick", "--plot", str(tmp_path / "b.png")])
    assert stop.value.code == 2
    assert "none is measured" in capsys.readouterr().err


def test_the_command_is_in_the_table():
    assert COMMANDS["bench"].module == "fnnet.measure.bench"
