"""Is the sample point at a kink? There the gradient must lie between the sides; it is reported."""

from __future__ import annotations

import numpy as np

from fnnet.check.case.finding import Detail, Finding
from fnnet.check.oracle.evidence import Evidence
from fnnet.check.oracle.tolerance import scale_of

NAME = "kinks"


def ask(e: Evidence) -> list[Finding]:
    """Compare the oracle's gradients on either side of the sample point."""
    case = e.case
    if not case.has_oracle:
        words = "without an oracle kinks are seen by differences only"
        return [Finding(NAME, "skipped", detail=Detail(words=words))]
    up, down = e.arbiter.pair(0)
    findings = []
    for path, a, b in zip(case.paths, up, down, strict=True):
        with np.errstate(all="ignore"):
            gap = np.abs(a - b)
            jumps = gap > 1e-2 * np.maximum(np.abs(a), np.abs(b)) + 1e-6 * scale_of(b)
        n = max(int(jumps.sum()), e.kinks.get(path, 0))
        if n:
            words = (
                f"{n} of {a.size} elements of d{path} are at a kink or next to one, where left and "
                "right derivatives differ: the rule's value lies between them"
            )
            findings.append(Finding(NAME, "correct", path, detail=Detail(words=words, kinks=n)))
    return findings or [Finding(NAME, "correct", detail=Detail(words="none", kinks=0))]
