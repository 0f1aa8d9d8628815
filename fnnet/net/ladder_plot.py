"""The matmul ladder's times as a bar chart."""

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from fnnet.net.ladder_table import LadderTable, duration, rounded

_COLOURS = {"plain": "#9a9a9a", "jit": "#2a78b5", "vmap": "#e08a1e"}
_FORMS = {"plain": "as written", "jit": "jit", "vmap": "jit of vmap, per product"}


def draw(tables: Sequence[LadderTable], file: str | Path | BinaryIO) -> None:
    """Draw the tables side by side, one bar for each rung and form, time on a logarithmic axis.

    Args:
        tables: what `time_ladder` returned.
        file: where to write the picture; a name's ending is the format, a stream gets a PNG.

    Raises:
        ImportError: if there is no matplotlib.
        OSError: if the file cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    # A Figure of its own, not pyplot's: nothing global, and no display is looked for.
    figure = Figure(figsize=(8 * len(tables), 7.5), layout="constrained", dpi=120)
    for axes, table in zip(figure.subplots(1, len(tables), squeeze=False)[0], tables, strict=True):
        times = [row.seconds for row in table.rows if row.seconds is not None]
        left, right = min(times) / 3, max(times) * 30  # room on the right for the figures
        places, names, place = [], [], 0.0
        for i, row in enumerate(table.rows):
            new = i == 0 or row.rung != table.rows[i - 1].rung
            place += 1.6 if new else 1.0
            if new:
                places.append(place + (1.0 if row.rung != "numpy @" else 0.0))
                names.append(row.rung)
            text = row.note
            if row.seconds is not None:
                axes.barh(
                    place, row.seconds - left, left=left, height=0.9, color=_COLOURS[row.form]
                )
                estimated = "≈ " if row.note.startswith("estimated") else ""
                text = f" {estimated}{duration(row.seconds)}, {rounded(row.speedup, '×')}"
            axes.text(row.seconds or left, place, text, va="center", fontsize=9)
        axes.set(xscale="log", xlim=(left, right), yticks=places, yticklabels=names)
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("seconds per product (logarithmic); × is the speed-up over the first bar")
        axes.set_title(table.title, fontsize=10)
    handles = [Patch(color=_COLOURS[form], label=label) for form, label in _FORMS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(file)
