"""Plain text for people: columns and wrapped sentences."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of columns as wide as their widest entry.

    Example:
        >>> for line in table(("a", "b"), [("1", "two"), ("three", "4")]):
        ...     print(line)
        a      b
        -----  ---
        1      two
        three  4
    """
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, ["-" * width for width in widths], *rows)
    ]


def wrapped(text: str, width: int = 100) -> list[str]:
    """A sentence as lines, those after the first indented.

    Example:
        >>> wrapped("one two three", 8)
        ['one two', '  three']
    """
    return textwrap.wrap(text, width, subsequent_indent="  ", break_long_words=False)
