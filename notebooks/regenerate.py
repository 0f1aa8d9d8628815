"""Run the notebooks' texts from the top, and write each with its outputs beside it.

    python notebooks/regenerate.py                all of them
    python notebooks/regenerate.py 04_backward    this one

The texts are the percent scripts here, `NN_name.py`: edit those. What is written is `NN_name.ipynb`.
A cell that fails, warns, or takes more than CELL_LIMIT seconds ends the run, and nothing is written
for that notebook. It needs ``pip install -e ".[notebooks]"``.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import jupytext
import nbclient
import nbformat
from nbformat import NotebookNode
from traitlets.config import Config

FOLDER = Path(__file__).resolve().parent
TEXTS = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
CELL_LIMIT = 20  # seconds

# what this process may have been told, and a reader's kernel is not
NOT_PASSED_ON = ("XLA_FLAGS", "JAX_ENABLE_X64", "MPLBACKEND", "PYTHONWARNINGS")


def read(text: Path) -> NotebookNode:
    """The notebook of a percent script, without outputs; cells are named by their numbers."""
    notebook = jupytext.read(text)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
    return notebook


def execute(notebook: NotebookNode, limit: int = CELL_LIMIT) -> None:
    """Run every cell in a kernel of its own, in this Python and an empty folder; adds the outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
        nbclient.exceptions.CellTimeoutError: a cell took more than `limit` seconds.
        ValueError: a cell wrote to standard error, as warnings do.
    """
    kept = {k: v for k, v in os.environ.items() if k not in NOT_PASSED_ON}
    with tempfile.TemporaryDirectory() as folder:
        checkout = os.pathsep.join(filter(None, (str(FOLDER.parent), kept.get("PYTHONPATH"))))
        own = {"PYTHONPATH": checkout, "IPYTHONDIR": folder, "JUPYTER_RUNTIME_DIR": folder}
        # no ports, which two kernels that start at once may both choose
        sockets = {"transport": "ipc", "connection_file": f"{folder}/kernel.json"}
        with mock.patch.dict(os.environ, kept | own, clear=True):
            client = nbclient.NotebookClient(
                notebook,
                kernel_name="python3",
                config=Config({"AsyncKernelManager": sockets}),
                timeout=limit,
                record_timing=False,
                resources={"metadata": {"path": folder}},
            )
            client.execute()
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if output.get("name") == "stderr":
                raise ValueError(f"this cell warns:\n{cell.source}\n\n{output.text}")


def kinds(notebook: NotebookNode) -> list[tuple[str, frozenset[str]]]:
    """Of each cell, its source and the kinds of its outputs: "stream", "text/plain", "image/png"."""

    def of(cell: NotebookNode) -> frozenset[str]:
        outputs = cell.get("outputs", ())
        return frozenset(k for o in outputs for k in o.get("data", (o.output_type,)))

    return [(cell.source, of(cell)) for cell in notebook.cells]


def main(argv: Sequence[str] | None = None) -> int:
    """Regenerate the notebooks of these names, or all; the exit code."""
    names = sys.argv[1:] if argv is None else argv
    chosen = [t for t in TEXTS if not names or t.stem in {Path(n).stem for n in names}]
    if len(chosen) < len(set(names)) or not chosen:
        print(f"want names of {', '.join(t.stem for t in TEXTS)}", file=sys.stderr)
        return 2
    for text in chosen:
        begun = time.perf_counter()
        notebook = read(text)
        execute(notebook)
        # which Python it was is noise in a diff
        notebook.metadata.pop("language_info", None)
        nbformat.write(notebook, text.with_suffix(".ipynb"))
        print(f"{text.stem}: {time.perf_counter() - begun:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
