"""What a proof says: `Proof`, made of `Claim`s, each with the `Difference`s it found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

import numpy as np
import sympy

from fnnet.proof.identity import factored
from fnnet.proof.symbols import Point, exactly, symbol
from fnnet.proof.twin.elementary import Array


@dataclass(frozen=True)
class Difference:
    """Where a rule is not the derivative.

    Attributes:
        argument: The argument whose cotangent it is; "out" of a tangent.
        index: The entry, or () for what concerns the whole cotangent.
        rule: What the rule gives: an expression, or a description.
        derivative: What SymPy's derivative of sum(g * out) is, or a description.
        difference: derivative - rule; None where the two cannot be subtracted.
        refuted: True if the two are unequal at a point; False if they could only not be proved
            equal.
    """

    argument: str
    index: tuple[int, ...]
    rule: Any
    derivative: Any
    difference: Any
    refuted: bool

    def __str__(self) -> str:
        entry = self.argument + (str(list(self.index)) if self.index else "")
        how = "is not" if self.refuted else "was not proved to be"
        short = None if self.difference is None else _shortest(self.difference)
        lines = {"rule": self.rule, "derivative": self.derivative, "difference": short}
        return "\n".join(
            [
                f"  d{entry}: the rule {how} the derivative",
                *(
                    f"    {label:<12}{shorten(str(line), 400)}"
                    for label, line in lines.items()
                    if line is not None
                ),
            ]
        )


@dataclass(frozen=True)
class Claim:
    """One case on one side of every kink: what was computed, and what differs.

    Attributes:
        shapes: Shape of every symbolic argument and of the output ("out").
        options: The options of the call; symbols where they were symbols.
        region: The inequalities it holds under; none for a smooth op.
        point: A point of the region: a number for every symbol.
        out: The expressions of the output.
        rule: For each differentiable argument the rule's cotangent.
        derivative: For each such argument SymPy's derivative of sum(g * out). Of a tangent, rule
            and derivative have one entry, "out": the rule's, and the sum over all symbols of their
            tangents times SymPy's derivative of out.
        differences: Every entry in which the two differ.
    """

    shapes: Mapping[str, tuple[int, ...]]
    options: Mapping[str, Any]
    region: tuple[Any, ...]
    point: Point
    out: Array
    rule: Mapping[str, Array]
    derivative: Mapping[str, Array]
    differences: tuple[Difference, ...]

    @property
    def latex(self) -> str:
        """The derived gradient, one line an entry, as a LaTeX `aligned` environment."""
        lines = []
        for name, derivative in self.derivative.items():
            for index in np.ndindex(derivative.shape):
                forms = [derivative[index]]
                if not self.differences:  # then the rule is equal
                    forms.append(exactly(self.rule[name][index]))
                shown = sympy.latex(_shortest(*forms))
                variable = sympy.latex(symbol(name, index))
                lines.append(rf"\frac{{\partial L}}{{\partial {variable}}} &= {shown}")
        if self.region:
            lines.append(r"&\text{where } " + r",\ ".join(map(sympy.latex, self.region)))
        body = " \\\\\n".join(lines)
        return f"\\begin{{aligned}}\n{body}\n\\end{{aligned}}"

    def __str__(self) -> str:
        shapes = ", ".join(f"{name} {shape}" for name, shape in self.shapes.items())
        options = "".join(f", {name}={value}" for name, value in self.options.items())
        where = f", where {', '.join(map(str, self.region))}" if self.region else ""
        verdict = f"{len(self.differences)} differ" if self.differences else "exact"
        more = len(self.differences) - 3
        return "\n".join(
            [
                f" {shapes}{options}{where}: {verdict}",
                *map(str, self.differences[:3]),
                *([f"  and {more} more"] if more > 0 else []),
            ]
        )


@dataclass(frozen=True)
class Proof:
    """The claims about one op. `str(proof)` is for people: the first claims that failed."""

    op: str
    claims: tuple[Claim, ...]
    tangents: tuple[Claim, ...] = ()  # of the rule of forward mode, where there is one

    @property
    def exact(self) -> bool:
        """True if every claim was proved: the rule is the derivative, symbol for symbol."""
        return self.entries > 0 and not self.differences

    @property
    def differences(self) -> tuple[Difference, ...]:
        """All that differs, over all claims."""
        return tuple(d for claim in (*self.claims, *self.tangents) for d in claim.differences)

    @property
    def shapes(self) -> tuple[Mapping[str, tuple[int, ...]], ...]:
        """The different shapes that were proved, in order."""
        different: list[Mapping[str, tuple[int, ...]]] = []
        for claim in self.claims:
            if claim.shapes not in different:
                different.append(claim.shapes)
        return tuple(different)

    @property
    def entries(self) -> int:
        """How many derivatives were compared."""
        return _entries(self.claims)

    @property
    def latex(self) -> str:
        """The derived gradient of the first claim, the smallest, as LaTeX."""
        return self.claims[0].latex

    def __str__(self) -> str:
        verdict = "exact" if self.exact else f"NOT PROVED, {len(self.differences)} differ"
        claims = (*self.claims, *self.tangents)
        failed = [str(claim) for claim in claims if claim.differences]
        more = len(failed) - 2
        entries = _counted(self.entries, "derivative")
        if self.tangents:
            entries += f" and {_counted(_entries(self.tangents), 'tangent')}"
        return "\n".join(
            [
                f"{self.op}: {entries} in {_counted(len(claims), 'claim')}: {verdict}",
                *failed[:2],
                *([f" and {_counted(more, 'more claim')}"] if more > 0 else []),
            ]
        )


def _entries(claims: Iterable[Claim]) -> int:
    return sum(d.size for claim in claims for d in claim.derivative.values())


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _shortest(*expressions: Any) -> Any:
    """The one with the fewest signs of some equal expressions, and the first of them factored."""
    forms = list(expressions)
    if sympy.count_ops(forms[0]) < 60:  # else it may take minutes
        forms.append(factored(forms[0]))
    return min(forms, key=sympy.count_ops)
