"""Arguments without a derivative: integers, booleans, keys, and what is held fixed."""

from __future__ import annotations

from fnnet.check.case.finding import Detail, Finding
from fnnet.check.oracle.evidence import Evidence

NAME = "arguments without derivative"


def ask(e: Evidence) -> list[Finding]:
    """Say which arguments were not differentiated, and why."""
    case = e.case
    findings = [
        Finding(NAME, "skipped", path, detail=Detail(words=f"{path} is not differentiated: {why}"))
        for path, why in case.subject.fixed.items()
    ]
    discrete = [
        path
        for path, x in zip(case.subject.other_paths, case.subject.others, strict=True)
        if path not in case.subject.fixed
    ]
    if discrete:
        words = f"{', '.join(discrete)}: passed through, no derivative asked"
        findings.append(Finding(NAME, "correct", detail=Detail(words=words)))
    return findings or [Finding(NAME, "correct", detail=Detail(words="there are none"))]
