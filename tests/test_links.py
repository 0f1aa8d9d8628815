"""Links in the documents lead somewhere, and the notebooks' index is complete."""

import re
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest

from tests.foundations.questions import QUESTIONS

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ["README.md", "CHANGELOG.md", "examples/README.md", "notebooks/INDEX.md"]
LINK = re.compile(r"\[((?:[^\]\[]|\[[^\]]*\])*)\]\(([^)\s]+)\)")

ROWS = {"A": 11, "B": 4, "C": 9, "D": 4, "E": 5, "G": 8}  # of the features


def links(document: str) -> list[tuple[str, Path, str]]:
    """Text, file and fragment of each link that does not leave the repository."""
    path = ROOT / document
    found = LINK.findall(path.read_text(encoding="utf-8"))
    here = [(text, *target.partition("#")[::2]) for text, target in found if "://" not in target]
    return [(text, path.parent / file if file else path, part) for text, file, part in here]


def anchors(file: Path) -> set[str]:
    """What headings can be linked to as: Jupyter's form in notebooks, GitHub's in Markdown."""
    if file.suffix == ".ipynb":
        cells = nbformat.read(file, as_version=4).cells
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        return {h.strip().replace(" ", "-") for h in re.findall(r"^#+ (.+)$", text, re.M)}
    headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", h.strip().lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    for text, file, part in links(document):
        assert file.exists(), f"{document}: {file}"
        if part:
            assert unquote(part) in anchors(file), f"{document}: {file.name}#{part}"
        if name := re.fullmatch(r"`(?:\w+\.)?(test_\w+)`", text):
            assert f"def {name[1]}(" in file.read_text(encoding="utf-8"), (
                f"{document}: {name[1]} in {file.name}"
            )


def index_lines() -> dict[str, str]:
    """The index's table rows by their first cell, a feature's or a question's number."""
    lines = (ROOT / "notebooks/INDEX.md").read_text(encoding="utf-8").splitlines()
    cells = ([c.strip() for c in line.strip("|").split("|")] for line in lines if line[:1] == "|")
    return {first: " ".join(rest) for first, *rest in cells}


@pytest.mark.parametrize(
    "row",
    [f"{letter}{i}" for letter, n in ROWS.items() for i in range(1, n + 1)]
    + [question.number for question in QUESTIONS],
)
def test_every_row_and_question_has_a_cell_and_a_test(row):
    line = index_lines()[row]
    targets = [target for _, target in LINK.findall(line)]
    assert any(re.search(r"\.ipynb#", target) for target in targets)
    assert any(target.startswith("../tests/") for target in targets)
