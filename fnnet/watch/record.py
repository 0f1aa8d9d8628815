"""One call of a rule: what it was called with, the values it met, and the verdict on it."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from fnnet.check import check_vjp
from fnnet.check.declare import declared
from fnnet.check.report.report import Report
from fnnet.check.verify import Level
from fnnet.watch.entries import looking_away
from fnnet.watch.rule import Rule

Leaf = Any
_WAITING = (
    "its values never came: the program that calls it was traced and did not run, or had no need "
    "of its value"
)


@dataclasses.dataclass
class Record:
    """A rule, as it was called with arguments of one structure, shapes, dtypes and static options.

    Attributes:
        rule: whose it is.
        called_with: the arguments in words, as "f32[8,16], f32[16]".
        called_from: file and line of the first call that was seen.
        during: what was going on then, if somebody said: the test, with pytest.
        calls: how often it was called from Python: eagerly, or while a program was traced.
        why: why there is no verdict, where there is none.
        report: of `check_vjp`, once it was checked.
    """

    rule: Rule
    called_with: str
    called_from: str
    during: str = ""
    calls: int = 0
    why: str = _WAITING
    report: Report | None = None
    _f: Any = dataclasses.field(default=None, repr=False)
    _leaves: list[Leaf] = dataclasses.field(default_factory=list, repr=False)
    _tree: Any = dataclasses.field(default=None, repr=False)
    _has_values: bool = dataclasses.field(default=False, repr=False)

    @property
    def waits(self) -> bool:
        """Whether its values are still to come."""
        return not self._has_values and self.why == _WAITING

    @property
    def verdict(self) -> str:
        """One of "correct", "wrong" and "undecidable"."""
        return "undecidable" if self.report is None else self.report.verdict

    def told(self, at: Sequence[int], values: Sequence[Any]) -> None:
        """Keep the values of the leaves at these places; the others are there."""
        if self._has_values:
            return
        for i, value in zip(at, values, strict=True):
            self._leaves[i] = np.array(value)
        self._has_values = True

    def check(self, level: Level, seconds: float) -> None:
        """Check it, once; and let its values go."""
        if not self._has_values or self.report is not None:
            return
        args, kwargs = jax.tree.unflatten(self._tree, map(_as_jax, self._leaves))
        found: list[Any] = []

        def run() -> None:
            try:
                with looking_away():
                    found.append(check_vjp(self._f, args, kwargs=kwargs, level=level))
            except Exception as error:
                lines = str(error).splitlines() or [""]
                found.append(f"{type(error).__name__}: {lines[0]}")

        # a daemon, as what hangs cannot be stopped
        worker = threading.Thread(target=run, daemon=True)
        worker.start()
        worker.join(seconds)
        if not found:
            self.why = f"checking it took more than {seconds:g} s"
        elif isinstance(found[0], Report):
            self.report, self.why = found[0], ""
        else:
            self.why = f"it cannot be called again by itself: {found[0]}"
        self._leaves, self._has_values = [], False

    def words(self) -> str:
        """What is to be said of it beside the verdict, in one line."""
        declaration = declared(self._f)
        if declaration is not None:
            return f"declared a surrogate: {declaration.reason}"
        if self.report is None:
            return self.why
        if self.report.verdict == "undecidable":
            open_ = [f for f in self.report.findings if f.verdict == "undecidable"]
            return str(open_[0].detail.get("words", "")) if open_ else ""
        if self.report.verdict == "wrong":
            first = self.report.wrong[0]
            where = "" if first.arg is None else f"argument {first.arg}"
            return ", ".join(part for part in (where, self.report.diagnosis or "") if part)
        return ""

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, numbers and text, ready for JSON."""
        return {
            "rule": self.rule.name,
            "kind": self.rule.kind,
            "where": self.rule.where,
            "called_with": self.called_with,
            "called_from": self.called_from,
            "during": self.during,
            "calls": self.calls,
            "verdict": self.verdict,
            "why": self.words(),
            "report": None if self.report is None else self.report.to_dict(),
        }


def _as_jax(leaf: Leaf) -> Any:
    return jax.numpy.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf
