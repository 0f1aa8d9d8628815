"""What a check answers: the report that the findings make up."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

from fnnet.check.case.finding import DIAGNOSES, Finding, as_json
from fnnet.check.report.table import table, wrapped


@dataclasses.dataclass(frozen=True)
class Report:
    """Every finding about one gradient. ``str(report)`` is a table for people.

    Attributes:
        name: of the function that was checked.
        findings: in the order in which the questions were asked.
        power: for every argument the smallest error that would have been seen, relative to the
            largest number in that argument's gradient.
        residual_bytes: what the backward pass stores, by the rule and by autodiff.
        notes: sentences about the whole.
    """

    name: str
    findings: tuple[Finding, ...]
    power: dict[str, float] = dataclasses.field(default_factory=dict)
    residual_bytes: tuple[int | None, int | None] = (None, None)
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> Literal["correct", "wrong", "undecidable"]:
        """The word "wrong" if anything is; "undecidable" if an oracle failed or there was none."""
        verdicts = {f.verdict for f in self.findings}
        if "wrong" in verdicts:
            return "wrong"
        return (
            "correct" if "correct" in verdicts and "undecidable" not in verdicts else "undecidable"
        )

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong. What is undecidable is not held against the rule."""
        return self.verdict != "wrong"

    @property
    def no_rule(self) -> bool:
        """Whether nothing was there to check: no hand-written rule, or nothing to differentiate."""
        return any(f.detail.get("no_rule") for f in self.findings)

    @property
    def wrong(self) -> tuple[Finding, ...]:
        """The findings that say "wrong"."""
        return tuple(f for f in self.findings if f.verdict == "wrong")

    @property
    def diagnosis(self) -> str | None:
        """The diagnosis of the first thing wrong, in the order of the questions."""
        return self.wrong[0].diagnosis if self.wrong else None

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON can hold it."""
        return {
            "name": self.name,
            "verdict": self.verdict,
            "ok": self.ok,
            "power": {k: as_json(v) for k, v in self.power.items()},
            "residual_bytes": list(self.residual_bytes),
            "notes": list(self.notes),
            "findings": [f.to_dict() for f in self.findings],
        }

    def __str__(self) -> str:
        lines = [f"{self.name}: the gradient is {self.verdict}", ""]
        rows = [
            (f.check, f.arg, f.verdict, number(f.error), number(f.bound), f.diagnosis or "")
            for f in self.findings
        ]
        lines += table(("question", "argument", "verdict", "error", "bound", "diagnosis"), rows)
        for f in self.findings:
            if f.verdict == "wrong":
                lines += [
                    "",
                    *wrapped(f"wrong: {f.check}{f' of {f.arg}' if f.arg else ''}. {_evidence(f)}"),
                ]
        for verdict in ("undecidable", "skipped"):
            said: dict[str, list[str]] = {}
            for f in self.findings:
                if f.verdict == verdict:
                    where = f"{f.check} ({f.arg})" if f.arg else f.check
                    said.setdefault(str(f.detail), []).append(where)
            for words, places in said.items():
                lines += ["", *wrapped(f"{verdict}: {', '.join(places)}. {words}")]
        if self.power:
            worst = max(self.power.values())
            lines += ["", *wrapped(_power(worst))]
        lines += [line for note in self.notes for line in ("", *wrapped(note))]
        return "\n".join(lines)


def _power(worst: float) -> str:
    return (
        f"Power: an error of {worst:.0e} of the largest number in a leaf's gradient, in any one "
        "element, would have been seen."
        if math.isfinite(worst)
        else "Power: no elementwise oracle was to be had; differences see what their bounds say."
    )


def _evidence(f: Finding) -> str:
    words = str(f.detail)
    if f.diagnosis:
        words = f"{words or DIAGNOSES[f.diagnosis]} [{f.diagnosis}]"
    if f.index is None:
        return words
    where = f"[{','.join(map(str, f.index))}]" if f.index else ""
    return (
        f"{words}. d{f.arg}{where}: got {number(f.got)}, want {number(f.want)}, "
        f"error {number(f.error)}, allowed {number(f.bound)}."
    )


def number(x: Any) -> str:
    """A number for a table.

    Example:
        >>> number(None), number(0.1234567), number(1e-9)
        ('', '0.1235', '1e-09')
    """
    if x is None:
        return ""
    return f"{x:.4g}" if isinstance(x, (int, float, complex)) else str(x)


class GradientError(AssertionError):
    """A gradient that is wrong. Its message is the report.

    Attributes:
        report: the `Report`.
    """

    def __init__(self, report: Report) -> None:
        super().__init__(str(report))
        self.report = report
