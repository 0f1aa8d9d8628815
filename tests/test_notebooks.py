"""Every notebook runs from the top, and is committed with its text and outputs.

Their claims are assertions in their own cells. By default one is run, in `.ci/run` all.
"""

import importlib.util
from pathlib import Path

import nbformat
import pytest

from tests.marks import first_of

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
CELL_LIMIT = 120  # seconds: three tests may share two cores; regenerate.py allows 20

spec = importlib.util.spec_from_file_location("regenerate", FOLDER / "regenerate.py")
regenerate = importlib.util.module_from_spec(spec)
spec.loader.exec_module(regenerate)


def committed(text):
    return nbformat.read(text.with_suffix(".ipynb"), as_version=4)


def test_every_notebook_has_its_text():
    assert len(regenerate.TEXTS) == 10
    assert sorted(FOLDER.glob("*.ipynb")) == [t.with_suffix(".ipynb") for t in regenerate.TEXTS]


each = pytest.mark.parametrize("text", regenerate.TEXTS, ids=lambda text: text.stem)


class TestNotebook:
    @each
    def test_is_the_text_executed(self, text):
        notebook = committed(text)
        nbformat.validate(notebook)
        assert [c.source for c in notebook.cells] == [c.source for c in regenerate.read(text).cells]
        counts = [c.execution_count for c in notebook.cells if c.cell_type == "code"]
        assert counts == list(range(1, len(counts) + 1))

    @each
    def test_shows_numbers_and_a_picture(self, text):
        shown = frozenset().union(*(kinds for _, kinds in regenerate.kinds(committed(text))))
        assert {"stream", "image/png"} <= shown
        assert not {"error", "stderr"} & shown

    @pytest.mark.parametrize("text", first_of(regenerate.TEXTS), ids=lambda text: text.stem)
    def test_runs_from_the_top_and_shows_what_is_committed(self, text):
        notebook = regenerate.read(text)
        regenerate.execute(notebook, CELL_LIMIT)
        assert regenerate.kinds(notebook) == regenerate.kinds(committed(text))

    @each
    def test_begins_with_what_when_and_how(self, text):
        first, *next_cells = regenerate.read(text).cells[:3]
        for wanted in ("What it teaches.", "How long it takes.", "What to install."):
            assert f"**{wanted}**" in first.source
        assert any('needed = ("fnnet", ' in cell.source for cell in next_cells)


def test_a_failing_cell_and_a_warning_are_seen():
    for source, seen in (
        ("assert 1 == 2", "1 == 2"),
        ("import sys; print(1, file=sys.stderr)", ""),
    ):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
        with pytest.raises(Exception, match=seen or "this cell warns"):
            regenerate.execute(notebook)
