"""Figures for people: bytes, and tables of text."""

from __future__ import annotations

from collections.abc import Sequence

_UNITS = ("KiB", "MiB", "GiB", "TiB")


def in_bytes(n: int | None) -> str:
    """A number of bytes with three digits or more, and its unit.

    Example:
        >>> in_bytes(12), in_bytes(1_200_800), in_bytes(None)
        ('12 B', '1.15 MiB', '-')
    """
    if n is None:
        return "-"
    if abs(n) < 1024:
        return f"{n} B"
    value, unit = float(n), ""
    for unit in _UNITS:  # noqa: B007
        value /= 1024
        # 1023.5 would round to a number of four digits
        if abs(value) < 1023.5:
            break
    return f"{value:#.3g} {unit}" if abs(value) < 99.95 else f"{value:.0f} {unit}"


def both(n: int) -> str:
    """A number of bytes in full, and rounded if that is shorter.

    Example:
        >>> both(36), both(1_200_800)
        ('36 bytes', '1,200,800 bytes (1.15 MiB)')
    """
    return f"{n:,} bytes" + (f" ({in_bytes(n)})" if abs(n) >= 1024 else "")


def duration(seconds: float) -> str:
    """A time with three digits, or all before the point, and its unit.

    Example:
        >>> duration(0.0123), duration(4.56e-6), duration(1234.0)
        ('12.3 ms', '4.56 us', '1234 s')
    """
    value, unit = seconds, "s"
    if seconds < 0.9995e-3:
        value, unit = seconds * 1e6, "us"
    elif seconds < 0.9995:
        value, unit = seconds * 1e3, "ms"
    return f"{value:#.3g} {unit}" if value < 99.95 else f"{value:.0f} {unit}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Columns two blanks apart, under a head; those that `right` counts are flush right.

    Example:
        >>> print(table(["name", "n"], [["a", "1"], ["bcdef", "10"]], right=[1]))
        name    n
        a       1
        bcdef  10
    """
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    ]
    return "\n".join(lines)
