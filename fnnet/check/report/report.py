"""What a check answers: the report that the findings make up."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

from fnnet.check.case.finding import DIAGNOSES, Finding, as_json
from fnnet.check.report.table import table, wrapped

# of what `to_dict` gives: raised when a key is renamed, removed, or means something else
SCHEMA = 2


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
        strict: whether `ok` takes more than that nothing is wrong; see there.
    """

    name: str
    findings: tuple[Finding, ...]
    power: dict[str, float] = dataclasses.field(default_factory=dict)
    residual_bytes: tuple[int | None, int | None] = (None, None)
    notes: tuple[str, ...] = ()
    strict: bool = False

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
        """Whether nothing is wrong; where the check was `strict`, nothing left open either.

        What is undecidable is not held against a rule otherwise, nor a caution.
        """
        return self.verdict != "wrong" and not (self.strict and self.left_open)

    @property
    def left_open(self) -> tuple[Finding, ...]:
        """What `strict` fails on: cautions, the undecidable, NaN twice, no second order."""
        return tuple(
            f
            for f in self.findings
            if f.verdict in ("caution", "undecidable")
            or f.detail.get("nan")
            or (f.verdict == "skipped" and f.check.startswith("second order"))
        )

    @property
    def no_rule(self) -> bool:
        """Whether nothing was there to check: no hand-written rule, or nothing to differentiate."""
        return any(f.detail.get("no_rule") for f in self.findings)

    @property
    def wrong(self) -> tuple[Finding, ...]:
        """The findings that say "wrong"."""
        return tuple(f for f in self.findings if f.verdict == "wrong")

    @property
    def cautions(self) -> tuple[Finding, ...]:
        """The findings about what is right at these arguments, and wrong or loose elsewhere."""
        return tuple(f for f in self.findings if f.verdict == "caution")

    @property
    def diagnosis(self) -> str | None:
        """The diagnosis of the first thing wrong, in the order of the questions."""
        return self.wrong[0].diagnosis if self.wrong else None

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON can hold it."""
        return {
            "schema_version": SCHEMA,
            "name": self.name,
            "verdict": self.verdict,
            "ok": self.ok,
            "strict": self.strict,
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
        for f in (*self.wrong, *self.cautions):
            of = f" of {f.arg}" if f.arg else ""
            lines += ["", *wrapped(f"{f.verdict}: {f.check}{of}. {_evidence(f)}")]
        for f in self.findings:
            if f.verdict == "correct" and f.detail.get("say"):
                of = f" of {f.arg}" if f.arg else ""
                lines += ["", *wrapped(f"{f.check}{of}: {f.detail}.")]
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
        if self.strict and self.left_open:
            open_ = dict.fromkeys(f"{f.check} ({f.verdict})" for f in self.left_open)
            lines += ["", *wrapped(f"strict: this does not pass, for {', '.join(open_)}.")]
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
    what = f.arg if f.arg.startswith("output") else f"d{f.arg}"
    said = (
        f"{words}. {what}{where}: got {number(f.got)}, want "
        f"{number(f.want)}, error {number(f.error)}, allowed {number(f.bound)}."
    )
    if f.detail.get("of"):
        n, size = f.detail["off"], f.detail["of"]
        said += (
            f" {n} of {size} elements are off by more than is allowed; the largest of all is "
            f"{number(f.detail['largest'])}."
        )
    return said


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
