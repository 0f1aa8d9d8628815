"""The matmul ladder: five rungs in three forms, their gradients, the table, the command."""

import json
import math
import re
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnnet.net import ladder, ladder_table
from fnnet.net.ladder import RUNGS, LadderTable, main, time_ladder
from tests.compare import assert_close

NAMES = ["matmul_loops", "matmul_rowcol", "matmul_broadcast", "matmul_einsum", "matmul_operator"]
EACH = pytest.mark.parametrize("rung", RUNGS, ids=NAMES)


def matrices(m, k, n, dtype=np.float64, batch=()):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((*batch, m, k)), rng.standard_normal((*batch, k, n))
    return (3 * a).astype(dtype), (3 * b).astype(dtype)


def forms(rung):
    return {
        "plain": rung.plain,
        "jit": rung.jit,
        "vmap": lambda a, b: rung.vmap(a[None], b[None])[0],
    }.items()


def test_the_rungs_are_the_five_public_functions():
    assert [rung.name for rung in RUNGS] == NAMES
    assert all(rung.plain is getattr(ladder, rung.name) for rung in RUNGS)


@EACH
@pytest.mark.parametrize(
    "dtype", ["float64", "float32", "complex64", "int32", "bfloat16", "float16"]
)
def test_every_form_is_the_product(rung, dtype):
    a, b = matrices(5, 30, 4, jnp.dtype(dtype))
    wide = [x.astype(complex) for x in (a, b)]
    want = wide[0] @ wide[1]
    # the k products and sums each round by eps/2, of the sum of magnitudes at most; 16-bit dtypes
    # sum in float32 and round once
    eps = 0.0 if dtype == "int32" else float(jnp.finfo(dtype).eps)
    k = 1 if dtype in ("bfloat16", "float16") else 30
    bound = k * eps * (np.abs(wide[0]) @ np.abs(wide[1]))
    for form, f in forms(rung):
        got = f(a, b)
        assert isinstance(got, jax.Array), form
        assert got.dtype == dtype, form
        assert (np.abs(np.asarray(got).astype(complex) - want) <= bound).all(), form


@EACH
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_long_sums_of_16_bit_numbers(rung, dtype):
    """Ones added in bfloat16 stop at 256, in float16 at 2048: there, one more changes nothing."""
    a, b = np.ones((1, 3000), jnp.dtype(dtype)), np.ones((3000, 2), jnp.dtype(dtype))
    for form, f in forms(rung):
        got = np.asarray(f(a, b)).astype(float)
        assert got == pytest.approx(3000, rel=float(jnp.finfo(dtype).eps)), form


@EACH
def test_integers(rung):
    """Row 0 of arange(9) as (3, 3) times arange(15) as (3, 5)."""
    for _, f in forms(rung):
        assert f(np.arange(9).reshape(3, 3), np.arange(15).reshape(3, 5))[0].tolist() == [
            25,
            28,
            31,
            34,
            37,
        ]


@EACH
@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 3), (2, 3, 0), (1, 1, 1)], ids=str)
def test_sizes_0_and_1(rung, shape):
    a, b = matrices(*shape, np.float32)
    for form, f in forms(rung):
        got = f(a, b)
        assert got.dtype == jnp.float32, form
        np.testing.assert_allclose(got, a @ b, rtol=1e-6)


@EACH
def test_values_that_overflow_or_are_no_numbers(rung):
    a = np.array([[1e38, 1e38], [np.nan, 1.0], [np.inf, -1.0]], np.float32)
    b = np.array([[10.0, 0.0], [10.0, 1.0]], np.float32)
    with np.errstate(all="ignore"):
        want = a @ b
    assert np.isinf(want[0, 0])
    for _, f in forms(rung):
        np.testing.assert_array_equal(f(a, b), want)


@EACH
def test_vmap_over_either_argument_or_both(rung):
    a, b = matrices(3, 5, 4, batch=(6,))
    assert_close(rung.vmap(a, b), a @ b)
    assert_close(jax.vmap(rung.plain, (0, None))(a, b[0]), a @ b[0])
    assert_close(
        jax.vmap(rung.plain, (None, 2), 1)(a[0], b.transpose(1, 2, 0)), (a[0] @ b).swapaxes(0, 1)
    )


@EACH
def test_gradients(rung):
    a, b = (jnp.asarray(x) for x in matrices(3, 5, 4))
    g = jnp.cos(jnp.arange(12.0).reshape(3, 4))

    def loss(f):
        return lambda a, b: jnp.sum(g * f(a, b))

    want = (g @ b.T, a.T @ g)
    assert_close(jax.jit(jax.grad(loss(rung.plain), (0, 1)))(a, b), want)
    assert_close(jax.grad(loss(rung.plain), 1)(a, b), want[1])
    out, tangent = jax.jvp(rung.jit, (a, b), (a, b))
    assert_close((out, tangent), (a @ b, 2 * a @ b))


@EACH
def test_the_compiled_loops_do_not_grow_with_the_matrices(rung):
    def lines(n):
        return len(rung.jit.lower(*matrices(n, n, n)).as_text().splitlines())

    assert lines(40) == lines(3)


@EACH
def test_shapes_that_do_not_fit(rung):
    for _, f in forms(rung):
        with pytest.raises(
            ValueError, match=rf"{rung.name}: a \(5, 7\) has 7 columns and b \(6, 4\) has 6"
        ):
            f(np.ones((5, 7)), np.ones((6, 4)))
        with pytest.raises(
            ValueError, match=r"a \(5, 7\) .* b \(4, 7\) .*must be equal; b.T would fit"
        ):
            f(np.ones((5, 7)), np.ones((4, 7)))
    for a, b in ((np.ones(3), np.ones((3, 2))), (np.ones((2, 5, 3)), np.ones((3, 2)))):
        with pytest.raises(ValueError, match=rf"{rung.name}: a and b must be matrices, got shapes"):
            rung.plain(a, b)
    with pytest.raises(ValueError, match=r"got shapes \(\) and \(3, 2\)"):
        rung.plain(1.0, np.ones((3, 2)))


def check_figures(table, m, k, n):
    """What must hold between the columns of any table."""
    wanted = [(name, form) for name in NAMES for form in ("plain", "jit", "vmap")]
    assert [(row.rung, row.form) for row in table.rows] == [*wanted, ("numpy @", "plain")]
    assert (table.m, table.k, table.n) == (m, k, n)
    first = table.rows[0].seconds
    for row in table.rows:
        if row.seconds is None:
            assert row.runs == 0
            assert row.note.startswith("left out: one row alone would take about")
            assert row.speedup is row.gflops is None
            continue
        assert 0 < row.seconds < math.inf
        assert row.runs >= 1
        assert row.gflops * row.seconds == pytest.approx(2e-9 * m * k * n)
        if first is not None:
            assert row.speedup * row.seconds == pytest.approx(first)


def test_time_ladder():
    a, b = matrices(5, 784, 10, np.float32)
    table = time_ladder(a, b, budget_s=0.1)
    check_figures(table, 5, 784, 10)
    assert table.rows[0].speedup == 1
    assert table.dtype == "float32"
    assert "cpu" in table.device
    times = {(row.rung, row.form): row.seconds for row in table.rows}
    # far apart, whatever else the machine does: pure Python takes 39,200 multiplications one by one
    assert times["matmul_operator", "jit"] < times["matmul_loops", "plain"] / 3
    assert times["matmul_operator", "jit"] < times["matmul_rowcol", "plain"] / 3

    lines = str(table).splitlines()
    assert lines[0].startswith("(5, 784) @ (784, 10), float32, on cpu")
    assert lines[1].split() == ["rung", "form", "time", "speed-up", "GFLOP/s", "runs"]
    assert len(lines) == 2 + 16
    assert lines[2].split()[:2] == ["matmul_loops", "plain"]
    assert "1.00x" in lines[2]
    assert json.loads(json.dumps(table.to_dict()))["rows"][0]["rung"] == "matmul_loops"


@pytest.fixture
def clock(monkeypatch):
    """Timing replaced by a cost: one second for each number of the result, whatever the rung."""
    asked = []

    def times(f, a, b, budget_s, least=1):
        assert f(a, b).shape == (*a.shape[:-1], b.shape[-1])
        asked.append((a.shape, b.shape, budget_s))
        second = float(math.prod(a.shape[:-1]) * b.shape[-1])
        return [second / 2, second, 100 * second]

    monkeypatch.setattr(ladder_table, "_times", times)
    return asked


def test_the_columns(clock):
    """The median, for one product: the vmap form computes four, each costing as much."""
    table = time_ladder(*matrices(6, 3, 5), budget_s=1e6)
    check_figures(table, 6, 3, 5)
    assert {row.seconds for row in table.rows} == {30.0}
    assert {row.speedup for row in table.rows} == {1.0}
    assert {row.gflops for row in table.rows} == {2e-9 * 6 * 3 * 5 / 30}
    assert {row.runs for row in table.rows} == {3}
    assert {row.note for row in table.rows} == {""}
    assert {shapes[0][-2] for shapes in clock} == {1, 6}


def test_slow_rungs_are_estimated_from_some_rows(clock):
    """A row takes 5 s (2.5 at best), so 9 s are room for three runs of one row, not for 40 rows."""
    table = time_ladder(*matrices(40, 3, 5), budget_s=9, batch=1)
    check_figures(table, 40, 3, 5)
    for row in table.rows:
        by_row = row.rung in NAMES[:3]
        assert row.note == ("estimated from 1 of 40 rows" if by_row else "")
        assert row.seconds == 200
    table = time_ladder(*matrices(40, 3, 5), budget_s=32, batch=1)
    assert table.rows[0].note == "estimated from 4 of 40 rows"
    assert table.rows[0].seconds == 200
    assert max(shape[-2] for shape, _, budget in clock if budget == 32) == 40
    assert str(table).splitlines()[3].strip() == "(estimated from 4 of 40 rows)"


def test_hopeless_rungs_are_left_out_and_the_table_says_so(clock):
    """One number takes 1 s (0.5 at best), so a row of 50 takes 25 at least."""
    table = time_ladder(*matrices(4, 3, 50), budget_s=20)
    check_figures(table, 4, 3, 50)
    assert [row.seconds is None for row in table.rows] == [True] * 6 + [False] * 10
    line, note = str(table).splitlines()[2:4]
    assert line.split() == ["matmul_loops", "plain", "-", "-", "-", "0"]
    assert note.strip().startswith("(left out: one ")
    assert table.rows[0].note.endswith("would take about 25.0 s")
    assert table.rows[-1].speedup is None


def test_calls_are_timed_until_the_budget_is_spent_or_there_are_enough():
    calls = []

    def f(a, b):
        calls.append(None)
        if a:
            time.sleep(a)

    assert len(ladder_table._times(f, 0, 0, 100.0)) == ladder_table._MOST_RUNS
    assert len(calls) == ladder_table._MOST_RUNS + 1  # the first warms up
    times = ladder_table._times(f, 0.02, 0, 0.05)
    assert 1 <= len(times) <= 3
    assert min(times) >= 0.02
    assert len(ladder_table._times(f, 0.001, 0, 0)) == 1
    assert len(ladder_table._times(f, 0.001, 0, 0, least=3)) == 3


def test_time_ladder_s_errors():
    a, b = matrices(3, 4, 5)
    with pytest.raises(ValueError, match=r"a \(3, 4\) has 4 columns and b \(3, 4\) has 3 rows"):
        time_ladder(a, a)
    with pytest.raises(ValueError, match=r"a \(0, 4\) @ b \(4, 5\) is empty"):
        time_ladder(a[:0], b)
    with pytest.raises(ValueError, match="budget_s must be positive, got 0"):
        time_ladder(a, b, budget_s=0)
    with pytest.raises(ValueError, match="batch must be at least 1, got 0"):
        time_ladder(a, b, batch=0)


def test_duration_and_rounded():
    assert [
        ladder_table.duration(s) for s in (141.2, 0.9999, 0.0123, 4.5e-6, 9.99996e-4, 5e-10)
    ] == [
        "141 s",
        "1.00 s",
        "12.3 ms",
        "4.50 us",
        "1.00 ms",
        "0.500 ns",
    ]
    assert [ladder_table.rounded(x) for x in (1.0, 99.96, 0.0123, 1234567.0)] == [
        "1.00",
        "100",
        "0.0123",
        "1,234,567",
    ]


def test_command(tmp_path, capsys):
    plot, figures = tmp_path / "ladder.png", tmp_path / "ladder.json"
    words = [
        "--shape",
        "3",
        "40",
        "5",
        "--budget",
        "0.01",
        "--plot",
        str(plot),
        "--json",
        str(figures),
    ]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "(3, 40) @ (40, 5), float32" in printed.out
    assert all(name in printed.out for name in [*NAMES, "numpy @"])

    written = json.loads(figures.read_text(encoding="utf-8"))
    assert written["jax"] == jax.__version__
    (table,) = written["tables"]
    rows = tuple(ladder.LadderRow(**row) for row in table.pop("rows"))
    check_figures(LadderTable(**table, rows=rows), 3, 40, 5)

    from matplotlib.image import imread

    picture = imread(plot)
    assert picture.shape[0] > 600
    assert picture.shape[1] > 600
    assert picture.std() > 0.05


def test_the_default_sizes_are_timed(monkeypatch, capsys):
    asked = []

    def timed(a, b, *, budget_s):
        asked.append((a.shape, b.shape, str(a.dtype)))
        return LadderTable(*a.shape, b.shape[1], str(a.dtype), "cpu", ())

    monkeypatch.setattr(ladder, "time_ladder", timed)
    assert main([]) == 0
    assert asked == [((5, 784), (784, 10), "float32"), ((1024, 1024), (1024, 1024), "float32")]
    asked.clear()
    assert main(["--size", "7"]) == 0
    assert asked == [((7, 7), (7, 7), "float32")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--size", "0"], "must be at least 1, got 0"),
        (["--shape", "1", "2"], "expected 3 arguments"),
        (["--shape", "1", "2", "x"], "invalid .* value: 'x'"),
        (["--size", "3", "--shape", "1", "2", "3"], "not allowed with"),
        (["--nothing"], "unrecognized arguments: --nothing"),
    ],
)
def test_words_that_are_not_understood(words, message, capsys):
    with pytest.raises(SystemExit) as e:
        main(words)
    assert e.value.code == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--budget", "0"], "budget_s must be positive"),
        (["--plot", "nowhere/ladder.png"], "there is no directory nowhere"),
        (["--json", "nowhere/ladder.json"], "there is no directory nowhere"),
        (["--plot", "ladder.xyz"], "ladder.xyz: the name must end in one of"),
        (["--plot", "ladder"], "ladder: the name must end in one of"),
    ],
)
def test_one_line_errors(words, message, capsys):
    assert main(["--size", "2", *words]) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("fnnet ladder: ")
    assert message in printed.err
    assert printed.out == ""  # before any time is spent


def test_without_matplotlib(monkeypatch, capsys, tmp_path):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["--size", "2", "--plot", str(tmp_path / "ladder.png")]) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert "--plot needs matplotlib" in printed.err
    assert "pip install matplotlib" in printed.err
    assert main(["--size", "2", "--budget", "0.001"]) == 0


def test_the_module_runs_by_itself():
    """One process for all: the command works, and only --plot imports matplotlib."""
    code = (
        "import sys; from fnnet.__main__ import main; "
        "code = main(['ladder', '--size', '2', '--budget', '0.001']); "
        "sys.exit(3 if 'matplotlib' in sys.modules else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "(2, 2) @ (2, 2)" in done.stdout
