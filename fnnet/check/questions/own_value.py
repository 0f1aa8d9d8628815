"""Is the value under differentiation the function's value, in the caller's dtypes too?"""

from __future__ import annotations

from fnnet.check.case.finding import Finding
from fnnet.check.case.modes import NATIVE
from fnnet.check.oracle.evidence import Evidence
from fnnet.check.questions import value

NAME = f"{value.NAME}, in own dtypes"


def ask(e: Evidence) -> list[Finding]:
    """As `value`; nothing where that was asked in these dtypes already."""
    return [] if e.case.work is NATIVE else value.in_mode(e, NATIVE, NAME)
