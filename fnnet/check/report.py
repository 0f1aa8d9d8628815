"""What a check answers: findings, each with its evidence, and the report they make up."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

from fnnet.check.table import table, wrapped

Verdict = Literal["correct", "wrong", "undecidable", "skipped"]

DIAGNOSES = {
    "scaled": "off by a constant factor",
    "negated": "has the wrong sign",
    "zero": "is zero and should not be",
    "transposed": "has its axes in the wrong order",
    "swapped": "is the gradient of another argument",
    "conjugated": "is the complex conjugate of what it should be",
    "ignores_cotangent": "does not depend on the cotangent",
    "nonlinear_in_cotangent": "is not linear in the cotangent",
    "wrong_axis": "is summed or spread along the wrong axis",
    "mean_not_sum": "is a mean where it should be a sum",
    "missing_psum": "lacks the sum over devices",
    "elements": "is wrong in some elements only",
    "missing_term": "lacks a term, or has one with a wrong weight",
    "value_differs": "belongs to another value than the function's",
    "dtype": "has the wrong dtype, or was computed in one that is too narrow",
    "shape": "has the wrong shape or structure",
    "second_order": "is wrong when it is differentiated again",
    "nondeterministic": "differs from call to call",
    "unknown": "is wrong, in a way that fits no known mistake",
}


class Detail(dict[str, Any]):
    """What was fitted (`factor`, `axis`, ...), under "words" the sentence for people.

    Example:
        >>> detail = Detail(words="dx is half of what it should be", factor=0.5)
        >>> detail["factor"], str(detail)
        (0.5, 'dx is half of what it should be')
    """

    def __str__(self) -> str:
        return str(self.get("words", ""))


@dataclasses.dataclass(frozen=True)
class Finding:
    """The answer to one question about one argument.

    Attributes:
        check: the question, for instance "reverse against autodiff".
        verdict: "correct", "wrong", "undecidable" (the oracle is unreliable here), or "skipped"
            (the question does not apply or could not be asked; `detail` has reason and remedy).
        arg: the argument's path as the user wrote it, ``params['w'][0]``; "" for all of them.
        index: of the element with the largest error in terms of its bound; None if there is none.
        got: the rule's number there.
        want: the oracle's number there.
        error: ``|got - want|`` at that element.
        bound: the error that was allowed there.
        diagnosis: what the mistake probably is, a key of `DIAGNOSES`; None unless wrong.
        detail: what was fitted, and a sentence under "words".
    """

    check: str
    verdict: Verdict
    arg: str = ""
    index: tuple[int, ...] | None = None
    got: Any = None
    want: Any = None
    error: float | None = None
    bound: float | None = None
    diagnosis: str | None = None
    detail: Detail = dataclasses.field(default_factory=Detail)

    def to_dict(self) -> dict[str, Any]:
        """The finding as JSON can hold it."""
        found = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {k: _json(v) for k, v in found.items()}


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
            "power": {k: _json(v) for k, v in self.power.items()},
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


def _json(x: Any) -> Any:
    if isinstance(x, complex):
        return {"real": _json(x.real), "imag": _json(x.imag)}
    if isinstance(x, dict):
        return {str(k): _json(v) for k, v in x.items()}
    if isinstance(x, Sequence) and not isinstance(x, str):
        return [_json(v) for v in x]
    if isinstance(x, float) and not math.isfinite(x):
        return str(x)  # JSON has no NaN
    return x if isinstance(x, (str, int, float, bool)) or x is None else str(x)


class GradientError(AssertionError):
    """A gradient that is wrong. Its message is the report.

    Attributes:
        report: the `Report`.
    """

    def __init__(self, report: Report) -> None:
        super().__init__(str(report))
        self.report = report
