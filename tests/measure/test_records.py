"""`python -m fnnet bench --csv`: a line a number, that can be read again."""

import csv
import io

import jax
import jax.numpy as jnp
import pytest

from fnnet.measure import bench
from fnnet.measure.bench_plot import draw
from fnnet.measure.bench_tables import tables
from fnnet.measure.gradient import measure
from fnnet.measure.machine import machine
from fnnet.measure.records import COLUMNS, as_csv, of_measurements, read
from fnnet.measure.row import Row


def refuses():
    def f(x):
        raise NotImplementedError("no gradient\nfor you")

    return f


@pytest.fixture(scope="module")
def measured():
    def absent():
        raise ModuleNotFoundError("No module named 'nobody'")

    peers = {"peer": lambda: jnp.sin, "absent": absent, "refuses": refuses}
    row = Row("sin, of a row", jnp.sin, [[(4, 3)]], peers=peers)
    return measure(row, [(4, 3)], budget_s=0.0, least=7)


def test_each_number_has_its_line(measured, tmp_path):
    records = of_measurements([measured])
    found = {(r.way, r.quantity): r for r in records}
    assert len(found) == len(records)
    hand = found["hand", "seconds"]
    assert hand.low < hand.value < hand.high
    assert (hand.value, hand.low, hand.high) == (
        measured.contestants["hand"].seconds.median,
        measured.contestants["hand"].seconds.low,
        measured.contestants["hand"].seconds.high,
    )
    assert found["peer", "hand / this"].value == measured.ratios["peer"].median
    assert found["autodiff", "stored"].value == measured.contestants["autodiff"].stored
    assert (hand.row, hand.size, hand.arrays) == ("sin, of a row", "4×3", "float32[4,3]")
    assert found["absent", "refused"].note == "ModuleNotFoundError: No module named 'nobody'"
    assert found["refuses", "refused"].note == "NotImplementedError: no gradient"
    file = tmp_path / "bench.csv"
    file.write_text(as_csv(records), encoding="utf-8")
    assert read(file) == records


def test_a_file_of_other_columns(tmp_path):
    file = tmp_path / "other.csv"
    file.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"other\.csv has the columns a, b; wanted date, device"):
        read(file)


def test_command(capsys):
    assert bench.main(["--op", "relu", "--quick", "--csv", "-"]) == 0
    said = capsys.readouterr()
    lines = list(csv.DictReader(io.StringIO(said.out.strip())))
    assert tuple(lines[0]) == COLUMNS
    assert {line["row"] for line in lines} == {"relu"}
    assert {"hand", "autodiff", "checkpoint"} <= {line["way"] for line in lines}
    assert "relu" in said.err  # the table


def test_two_files_to_standard_output(capsys):
    with pytest.raises(SystemExit):
        bench.main(["--csv", "-", "--json", "-"])
    assert "standard output is one file" in capsys.readouterr().err


def test_autodiff_that_has_no_room(capsys, tmp_path):
    """It is left out and said so; the rest is measured, written and drawn."""

    def no_room(x):
        raise MemoryError("16 TiB")

    row = Row("sin", jnp.sin, [[(4, 3)]], auto=no_room, checkpoint=jnp.sin)
    one = measure(row, [(4, 3)], budget_s=0.0, least=1)
    assert set(one.contestants) == {"hand", "checkpoint"}
    assert one.missing == {"autodiff": "MemoryError: 16 TiB"}
    text = tables([one], None)
    assert "missing: autodiff (MemoryError: 16 TiB)" in text
    draw([one], machine(), tmp_path / "one.png")


def test_the_gradient_by_hand_must_be_had():
    @jax.custom_vjp
    def f(x):
        return jnp.sin(x)

    def bwd(x, g):
        raise NotImplementedError("not derived yet")

    f.defvjp(lambda x: (jnp.sin(x), x), bwd)
    with pytest.raises(NotImplementedError, match="not derived yet"):
        measure(Row("sin", f, [[(4, 3)]], auto=jnp.sin), [(4, 3)], budget_s=0.0, least=1)
