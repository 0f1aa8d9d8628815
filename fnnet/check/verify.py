"""`check_vjp`: ask every question, in order; `assert_vjp`: raise where the answer is "wrong"."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax

from fnnet.check.case import settings
from fnnet.check.case.case import Case, Terms, first_line
from fnnet.check.case.finding import Detail, Finding
from fnnet.check.case.large import LARGE
from fnnet.check.case.made import make_case, seed_of
from fnnet.check.declare import declared
from fnnet.check.diagnosis.explain import explain
from fnnet.check.oracle import further
from fnnet.check.oracle.evidence import Evidence
from fnnet.check.questions import (
    absent,
    accumulate,
    batch,
    contract,
    determinism,
    differences,
    forward,
    integers,
    kinks,
    linearity,
    low_precision,
    own_value,
    residuals,
    reverse,
    second_order,
    sharded,
    transforms,
    transpose,
    value,
    which_rule,
)
from fnnet.check.report.progress import Progress, progress
from fnnet.check.report.report import GradientError, Report

QUESTIONS = (
    value,
    linearity,
    reverse,
    own_value,
    determinism,
    differences,
    transpose,
    forward,
    absent,
    accumulate,
    second_order,
    transforms,
    batch,
    low_precision,
    kinks,
    integers,
    residuals,
    sharded,
    which_rule,
)
# those that can be asked of a function that has no derivative in reverse mode
WITHOUT_REVERSE = (forward, batch, integers, which_rule)

Level = Literal["quick", "full"]
# the questions of each level; whether the cotangents keep the contract is asked before, at both
LEVELS: dict[str, tuple[Any, ...]] = {
    "quick": (value, linearity, reverse, differences),
    "full": QUESTIONS,
}
# a million numbers show these nothing that a thousand do not, and cost them a lot of memory
SMALL = (transpose, absent, accumulate, second_order, transforms, batch, low_precision)
QUICK = (
    'level="quick": the gradient alone was asked about, to first order and in the dtypes given. '
    'level="full" also asks about transforms, the second order, other dtypes and devices.'
)


def check_vjp(
    f: Callable[..., Any],
    args: Any,
    *,
    reference: Callable[..., Any] | None = None,
    kwargs: dict[str, Any] | None = None,
    key: Any = None,
    argnums: int | Sequence[int] | None = None,
    budget_bytes: int | None = None,
    level: Level = "full",
    tolerance: float | None = None,
    surrogate: bool = False,
    strict: bool = False,
    stop_early: bool = False,
    allow_no_rule: bool = False,
) -> Report:
    """Say whether the reverse-mode derivative of `f` is right at `args`.

    Where more than 500,000 numbers go in and come out, what shows at a thousand numbers is not
    asked (second order, transforms, 16 bits): it says "skipped", and why.

    Args:
        f: a `jax.custom_vjp` function, one made by `fnnet.register`, or any function that calls
            such.
        args: its positional arguments, pytrees; float and complex arrays are differentiated.
            Python floats are too where the function takes them traced.
        reference: a function of the same arguments whose derivative by JAX is the truth; by
            default `fnnet.plain` of `f`. Its value must be that of `f`, unless `surrogate`.
        kwargs: keyword arguments; those of keyword-only parameters are held fixed.
        key: a `jax.random.key`, or an int, for the random cotangents. The same key gives the same
            report.
        argnums: the positions of the arguments to differentiate; all by default.
        budget_bytes: the most that the backward pass may keep.
        level: "full" asks every question. "quick" asks whether the rule keeps the contract of
            cotangents, is linear in g, and agrees with autodiff and with differences; the value
            under differentiation, too. It takes a third of the time.
        tolerance: how exact the value of `f` is, relative to its largest number: that of a solver
            which iterates until it is reached. By default what the dtypes and the function's own
            iterations, taken one step further, let expect.
        surrogate: the rule is, on purpose, not the derivative of `f`: straight-through, Monte-Carlo
            and clipped gradients. It is compared with the derivative of `reference`, if there is
            one, else with nothing: then the verdict is "undecidable" at best. So it is of a
            function of which that was declared (`declare`).
        strict: `Report.ok` also takes that nothing is left open: no caution, nothing undecidable,
            no NaN in rule and oracle alike, and the second order asked.
        stop_early: leave out the questions after the first one that found something wrong.
        allow_no_rule: whether a function without any hand-written rule may be "correct". By default
            it is "undecidable": autodiff compared with itself says nothing, and most often the
            function was passed that a rule was made for, not the one with the rule.

    Returns:
        A `Report`; its `verdict` is "correct", "wrong" or "undecidable".

    Raises:
        TypeError: if `f` cannot be called with these arguments.
        ValueError: for a `level` that there is not.
        Exception: whatever `f` itself raises when it is called, without being differentiated.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnnet.check import check_vjp
        >>> @jax.custom_vjp
        ... def cube(x):
        ...     return x**3
        >>> cube.defvjp(lambda x: (x**3, x), lambda x, g: (2 * x**2 * g,))
        >>> report = check_vjp(cube, (jnp.linspace(1.0, 2.0, 4),))
        >>> report.verdict, report.diagnosis, round(report.wrong[0].detail["factor"], 4)
        ('wrong', 'scaled', 0.6667)
    """
    if level not in LEVELS:
        raise ValueError(
            f"check_vjp: level must be one of {', '.join(map(repr, LEVELS))}, got {level!r}; "
            '"full" asks every question, "quick" those about the gradient itself'
        )
    if reference is None and not surrogate and (declaration := declared(f)) is not None:
        reference, surrogate = declaration.reference, True
    terms = Terms(reference, surrogate, tolerance, budget_bytes, allow_no_rule)
    options = (kwargs, seed_of(key), argnums, terms)
    with settings.native(), settings.quiet():
        report = _check(f, args, options, level, stop_early)
        if report.diagnosis and _refused_by_strictness(report):
            with settings.lenient():
                report = _check(f, args, options, level, stop_early)
            note = (
                "The rule raises under this process's strict promotion of dtypes or ranks, where "
                "the function itself does not; it was checked under JAX's standard promotion."
            )
            report = dataclasses.replace(report, notes=(*report.notes, note))
        return dataclasses.replace(report, strict=strict)


def _refused_by_strictness(report: Report) -> bool:
    text = str(report.wrong[0].detail)
    return "TypePromotionError" in text or "rank_promotion" in text


def _check(
    f: Callable[..., Any], args: Any, options: Any, level: Level, stop_early: bool
) -> Report:
    case = make_case(f, args, *options)
    with progress(case.subject.name) as told:
        return _questioned(case, told, level, stop_early)


def _questioned(case: Case, told: Progress, level: Level, stop_early: bool) -> Report:
    told.asks(contract.NAME, 1, len(LEVELS[level]) + 1)
    if not case.values:
        return nothing_to_ask(case)
    findings = contract.ask(case)
    if all(f.verdict != "wrong" for f in findings):
        findings += contract.runs(case)
    if any(f.diagnosis != "dtype" for f in findings if f.verdict == "wrong"):
        return make_report(case, findings)
    case.settle_mode()
    further.measure(case)
    findings = _answers(case, findings, told, level, stop_early)
    if which_rule not in LEVELS[level] and which_rule.rule_names(case) == []:
        findings.append(which_rule.no_rule(case))
    report = make_report(case, findings)
    return dataclasses.replace(report, notes=(QUICK,)) if level == "quick" else report


def _answers(
    case: Case, known: list[Finding], told: Progress, level: Level, stop_early: bool
) -> list[Finding]:
    """What is known already, and the answers to the questions of a level."""
    evidence = Evidence(case)
    findings = list(known)
    questions = LEVELS[level] if case.reverse else WITHOUT_REVERSE
    for number, question in enumerate(questions, 2):
        if stop_early and any(f.verdict == "wrong" for f in findings):
            break
        told.asks(_name(question), number, len(questions) + 1)
        found = _asked(question, evidence)
        findings += found
        if question in (reverse, linearity, value):
            evidence.wrong_first_order |= any(f.verdict == "wrong" for f in found)
        if elsewhere := [f for f in found if f.detail.get("elsewhere")]:
            # right in the caller's dtypes, and not in 64 bits: all is asked in the caller's
            case.narrow()
            return _answers(case, [*known, *elsewhere], told, level, stop_early)
    return findings


def assert_vjp(f: Callable[..., Any], args: Any, **options: Any) -> Report:
    """`check_vjp` that raises if the gradient is wrong, or if there is no rule to check; for tests.

    With ``strict=True`` it raises also for cautions and for whatever was left open.

    Args:
        f: as for `check_vjp`.
        args: as for `check_vjp`.
        options: as for `check_vjp`.

    Returns:
        The report, which is "correct" or "undecidable".

    Raises:
        GradientError: an AssertionError whose message is the report. Also where no hand-written
            rule is in the function, or nothing in it is differentiated, unless `allow_no_rule`.

    Example:
        >>> import jax.numpy as jnp
        >>> import fnnet
        >>> from fnnet.check import assert_vjp
        >>> assert_vjp(fnnet.relu, (jnp.linspace(-1.0, 1.0, 6),)).verdict
        'correct'
    """
    report = check_vjp(f, args, **options)
    if not report.ok or report.no_rule:
        raise GradientError(report)
    return report


def _asked(question: Any, e: Evidence) -> list[Finding]:
    if e.case.large and (question in SMALL or (question is forward and e.case.reverse)):
        words = (
            f"{e.case.size} numbers go in and come out; above {LARGE} this is not asked, to save "
            "memory. Ask it with smaller arguments"
        )
        return [Finding(_name(question), "skipped", detail=Detail(words=words))]
    try:
        found: list[Finding] = question.ask(e)
        return found
    except Exception as error:
        name = _name(question)
        if isinstance(error, jax.errors.UnexpectedTracerError):
            code, detail = explain(error)
            return [Finding(name, "wrong", diagnosis=code, detail=detail)]
        words = f"could not be asked: {type(error).__name__}: {first_line(error)}"
        return [Finding(name, "skipped", detail=Detail(words=words))]


def nothing_to_ask(case: Case) -> Report:
    """The report on a call without an argument that has a derivative."""
    words = "no argument is a float or complex array: there is nothing to differentiate"
    detail = Detail(words=words, no_rule=not case.allow_no_rule)
    return Report(case.subject.name, (Finding("contract", "undecidable", detail=detail),))


def _name(question: Any) -> str:
    return str(getattr(question, "NAME", question.__name__.rpartition(".")[2]))


def make_report(case: Case, findings: list[Finding]) -> Report:
    """The report on a case."""
    # where autodiff is no witness, what differences say is all that is known
    told = ("reverse", "forward") if case.witness else ("reverse against differences", "forward")
    if not any(
        f.verdict == "wrong" or (f.check.startswith(told) and f.verdict != "skipped")
        for f in findings
    ):
        words = "the gradient could be compared neither with autodiff nor with differences"
        if case.why_no_witness:
            words = f"{case.why_no_witness}, and differences were not to be had"
        findings.append(Finding("reverse", "undecidable", detail=Detail(words=words)))
    return Report(
        case.subject.name,
        tuple(findings),
        power=dict(case.power),
        residual_bytes=case.residual_bytes,
    )
