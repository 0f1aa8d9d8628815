"""Is the value under vmap what a loop gives? Asked of a rule that says itself how it is batched.

`jax.custom_batching.custom_vmap`, hijax's ``batch``, a primitive's batcher, a callback's
``vmap_method``: each is a rule of its own, which no derivative shows. The batch axis is put first
and last, over each argument alone and over all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnnet.check.case.case import Case
from fnnet.check.case.finding import Detail, Finding
from fnnet.check.case.kinds import BATCHED, DERIVATIVES
from fnnet.check.case.modes import Program, widened
from fnnet.check.case.subject import Arrays
from fnnet.check.case.traced import pull
from fnnet.check.diagnosis.fit import fit
from fnnet.check.oracle.evidence import Evidence, finding
from fnnet.check.oracle.tolerance import compared, scale_of
from fnnet.check.questions.transforms import raised

NAME = "batch against a loop"
GRADIENT = "batch against a loop, of the gradient"
SCALES = (1.0, 0.75, 1.25)
MOST = 6  # arguments batched alone

Axes = tuple[tuple[int | None, ...], tuple[int | None, ...]]


def ask(e: Evidence) -> list[Finding]:
    """One finding, or one for each way of batching that gives something else."""
    case = e.case
    kinds = {r.kind for r in case.rules or ()} & BATCHED
    if not kinds or not case.values:
        return []
    found = _values(case)
    # the gradient under vmap is `transforms`' to ask, with the axis in front
    if case.reverse and kinds & DERIVATIVES and all(f.verdict == "correct" for f in found):
        found += _gradients(e)
    return found


def _ways(case: Case) -> dict[str, Axes]:
    n, m = len(case.values), len(case.subject.others)
    ways: dict[str, Axes] = {}
    for i, path in enumerate(case.paths[:MOST]):
        ways[path] = tuple(0 if j == i else None for j in range(n)), (None,) * m
    for i, path in enumerate(case.subject.other_paths[:MOST]):
        if not _is_key(case.subject.others[i]):
            ways[path] = (None,) * n, tuple(0 if j == i else None for j in range(m))
    if n > 1:
        ways["all arguments"] = (0,) * n, (None,) * m
    ways["all arguments, the last axis"] = (-1,) * n, (None,) * m
    return ways


def _is_key(x: Any) -> bool:
    return bool(jnp.issubdtype(x.dtype, jax.dtypes.prng_key))


def _stacked(xs: Any, axes: tuple[int | None, ...]) -> list[Any]:
    return [x[0] if a is None else np.stack(x, a) for x, a in zip(xs, axes, strict=True)]


def _values(case: Case) -> list[Finding]:
    mode, like = case.work, case.subject.values
    members = [mode.cast([s * x for x in case.values], like) for s in SCALES]
    others = case.subject.others
    findings: list[Finding] = []
    ways = _ways(case)
    single = [case.forward(mode, member, others)[0] for member in members]
    for words, (axes, other_axes) in ways.items():
        alone = axes.count(None) + (1 if axes.count(None) < len(axes) else 0) == len(axes)
        if None in axes and alone:
            rows = [
                [
                    m if a is not None else x
                    for a, m, x in zip(axes, member, members[0], strict=True)
                ]
                for member in members
            ]
            want = [case.forward(mode, row, others)[0] for row in rows] if len(axes) > 1 else single
        else:
            want = single
        if all(a is None for a in axes):
            want = [single[0]] * len(SCALES)
        program = Program(_mapped(lambda v, o: case.hand(v, o)[0], axes, other_axes))
        try:
            got = program(
                mode,
                _stacked(list(zip(*members, strict=True)), axes),
                [
                    x if a is None else jnp.stack([x] * len(SCALES))
                    for x, a in zip(others, other_axes, strict=True)
                ],
            )
        except Exception as error:
            return [raised(NAME, error)]
        findings += _differing(case, NAME, words, got, want)
    return findings or [Finding(NAME, "correct", detail=Detail(over=list(ways)))]


def _mapped(f: Callable[..., Any], axes: Any, other_axes: Any) -> Callable[..., Any]:
    def run(values: Arrays, others: Arrays) -> Any:
        return jax.vmap(f, (list(axes), list(other_axes)), 0, axis_size=len(SCALES))(values, others)

    return run


def _gradients(e: Evidence) -> list[Finding]:
    """The gradient with the batch axis last."""
    case, mode, like = e.case, e.case.work, e.case.subject.values
    members = [[s * x for x in case.values] for s in SCALES]
    gs = [case.g, *(case.cotangent(10 + k) for k in range(1, len(SCALES)))]
    axes = [-1] * len(like)

    def run(values: Arrays, others: Arrays, g: Arrays) -> Any:
        over = (axes, [None] * len(others), -1)
        return jax.vmap(lambda v, o, g: pull(case.hand)(v, o, g)[1], over, 0)(values, others, g)

    try:
        got = Program(run)(
            mode,
            [np.stack(x, -1) for x in zip(*(mode.cast(m, like) for m in members), strict=True)],
            case.subject.others,
            [np.stack(x, -1) for x in zip(*(case.cast_g(g, mode) for g in gs), strict=True)],
        )
    except Exception as error:
        return [raised(GRADIENT, error)]
    want = [case.by_hand(m, g) for m, g in zip(members, gs, strict=True)]
    findings = _differing(case, GRADIENT, "the last axis", got, want, paths=case.paths)
    return findings or [Finding(GRADIENT, "correct")]


def _differing(
    case: Case, name: str, words: str, got: Any, want: Any, paths: list[str] | None = None
) -> list[Finding]:
    findings = []
    for k, x in enumerate(got):
        a, b = widened(x), np.stack([widened(row[k]) for row in want])
        near = 1e-9 if case.work_eps < 1e-10 else 64 * case.work_eps
        c = compared(a, np.where(np.isfinite(b), b, a), near * (scale_of(b) or 1.0))
        if not c.bad.any():
            continue
        code, detail = fit(a, b, float(np.max(c.bound)))
        wrong = [i for i in range(len(SCALES)) if c.bad[i].any()]
        if code == "unknown" and len(wrong) < len(SCALES):
            code, detail = "elements", Detail(words=f"examples {wrong} of {len(SCALES)} are wrong")
        detail["words"] = (
            f"under vmap over {words}, the batching rule gives another number: {detail}"
        )
        path = paths[k] if paths else (f"output {k}" if len(got) > 1 else "the output")
        findings.append(finding(name, path, c, c.worst, "wrong", code, detail))
    return findings[:1]
