"""A finding: the answer to one question about one argument, with its evidence."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

Verdict = Literal["correct", "caution", "wrong", "undecidable", "skipped"]

DIAGNOSES = {
    "scaled": "off by a constant factor",
    "negated": "has the wrong sign",
    "zero": "is zero and should not be",
    "transposed": "has its axes in the wrong order",
    "swapped": "is the gradient of another argument, or takes another output's cotangent",
    "conjugated": "is the complex conjugate of what it should be",
    "ignores_cotangent": "does not depend on the cotangent",
    "nonlinear_in_cotangent": "is not linear in the cotangent",
    "nonlinear_in_tangent": "is not linear in the tangent",
    "not_adjoint": "is not the adjoint of the rule's own forward derivative",
    "overwrites": "overwrites what it should be added to",
    "wrong_axis": "is summed or spread along the wrong axis",
    "mean_not_sum": "is a mean where it should be a sum",
    "missing_psum": "lacks the sum over devices",
    "elements": "is wrong in some elements only",
    "missing_term": "lacks a term, or has one with a wrong weight",
    "value_differs": "belongs to another value than the function's",
    "value_nan": "belongs to a value that is NaN under differentiation alone",
    "surrogate": "is another function's, on purpose: straight-through, Monte-Carlo, clipped",
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
        verdict: "correct", "wrong", "caution" (right at these arguments, and wrong or loose in
            another dtype), "undecidable" (the oracle is unreliable here), or "skipped" (the
            question does not apply or could not be asked; `detail` has reason and remedy).
        arg: the argument's path as the user wrote it, ``params['w'][0]``; "" for all of them.
        index: of the element with the largest error in terms of its bound; None if there is none.
        got: the rule's number there.
        want: the oracle's number there.
        error: ``|got - want|`` at that element.
        bound: the error that was allowed there.
        diagnosis: what the mistake probably is, a key of `DIAGNOSES`; None unless wrong or a
            caution.
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
        return {k: as_json(v) for k, v in found.items()}


def as_json(x: Any) -> Any:
    """`x` as JSON can hold it."""
    if isinstance(x, complex):
        return {"real": as_json(x.real), "imag": as_json(x.imag)}
    if isinstance(x, dict):
        return {str(k): as_json(v) for k, v in x.items()}
    if isinstance(x, Sequence) and not isinstance(x, str):
        return [as_json(v) for v in x]
    if isinstance(x, float) and not math.isfinite(x):
        return str(x)  # JSON has no NaN
    return x if isinstance(x, (str, int, float, bool)) or x is None else str(x)
