"""Is the gradient the same under vmap over each argument, scan and checkpoint?

The expectation is the rule itself, one example at a time: a mistake that it makes anyway is the
first question's to find.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnnet.check.case.case import first_line
from fnnet.check.case.finding import Detail, Finding
from fnnet.check.case.modes import Program, widened
from fnnet.check.case.subject import Arrays, is_float
from fnnet.check.case.traced import pull
from fnnet.check.diagnosis import mistakes
from fnnet.check.diagnosis.explain import by_nature, explain
from fnnet.check.oracle.evidence import Evidence, finding
from fnnet.check.oracle.tolerance import compared, scale_of

SCALES = (1.0, 0.75, 1.25)
LARGE = 200_000


def ask(e: Evidence) -> list[Finding]:
    """One finding for each transform, one more for each argument wrong under it."""
    case = e.case
    if not case.pull_hand.traceable:
        words = "the rule cannot be traced (it branches on values): write it with jax.numpy.where"
        return [Finding("vmap, scan, checkpoint", "skipped", detail=Detail(words=words))]
    return [*_vmap(e), *_scan(e), *_checkpoint(e)]


def _scales(e: Evidence) -> tuple[float, ...]:
    return SCALES[:2] if e.case.size > LARGE else SCALES


def _vmap(e: Evidence) -> list[Finding]:
    """Batch each argument alone, the cotangent alone, and all of them; the cotangent always."""
    case = e.case
    scales = _scales(e)
    members = [[s * x for x in case.values] for s in scales]
    gs = [case.g, *(case.cotangent(10 + k) for k in range(1, len(scales)))]
    n, n_others = len(case.values), len(case.subject.others)
    axes: dict[str, tuple[list[int | None], list[int | None]]] = {}
    for i, path in enumerate(case.paths[:6]):
        axes[path] = ([0 if j == i else None for j in range(n)], [None] * n_others)
    for i, path in enumerate(case.subject.other_paths[:4]):
        axes[path] = ([None] * n, [0 if j == i else None for j in range(n_others)])
    axes["the cotangent"] = ([None] * n, [None] * n_others)
    if n + n_others > 1:
        axes["all arguments"] = ([0] * n, [0] * n_others)
    findings: list[Finding] = []
    stacked = [np.stack(x) for x in zip(*members, strict=True)]
    others = [jnp.stack([x] * len(scales)) for x in case.subject.others]
    single = _single(e, members, gs, axes)
    program = _batched(pull(case.hand), list(axes.values()))
    found = _evaluated(e, "vmap", program, case.values, stacked, others, gs)
    if isinstance(found, Finding):
        return [found]
    for (which, _), got, want in zip(axes.items(), found, single, strict=True):
        findings += _differing(e, "vmap", f"over {which}", got, want)
    return findings or [Finding("vmap", "correct", detail=Detail(over=list(axes)))]


def _batched(f: Callable[..., Any], combinations: list[Any]) -> Callable[..., Any]:
    def run(values: Arrays, stacked: Arrays, others: Arrays, other_stacks: Arrays, gs: Any) -> Any:
        found = []
        for value_axes, other_axes in combinations:
            v = [s if a == 0 else x for a, s, x in zip(value_axes, stacked, values, strict=True)]
            o = [
                s if a == 0 else x for a, s, x in zip(other_axes, other_stacks, others, strict=True)
            ]
            _, grads, _ = jax.vmap(f, (value_axes, other_axes, 0), 0)(v, o, gs)
            found.append(grads)
        return found

    return run


def _single(e: Evidence, members: Any, gs: Any, axes: Any) -> list[list[Arrays]]:
    """The rule itself, one example at a time: for each combination, a gradient for each member."""
    case = e.case
    found = []
    for value_axes, _ in axes.values():
        grads = []
        for member, g in zip(members, gs, strict=True):
            v = [
                m if a == 0 else x for a, m, x in zip(value_axes, member, case.values, strict=True)
            ]
            grads.append(case.by_hand(v, g))
        found.append(grads)
    return found


def _evaluated(
    e: Evidence, name: str, run: Callable[..., Any], values: Any, stacked: Any, others: Any, gs: Any
) -> Any:
    case, mode = e.case, e.case.work
    like = case.subject.values
    try:
        out = Program(run, lambda: case.calls_host)(
            mode,
            mode.cast(values, like),
            mode.cast(stacked, like),
            case.subject.others,
            others,
            case.cast_g([np.stack(g) for g in zip(*gs, strict=True)], mode),
        )
    except Exception as error:
        return raised(name, error)
    return out


def raised(name: str, error: Exception) -> Finding:
    """A transform that the rule does not survive.

    A wrong shape is a mistake in the rule. Some rules cannot be transformed by their nature (a
    callback to the host, Python control flow): their gradients are no less right.
    """
    if type(error).__name__ == "StoreException":
        # of JAX's own bookkeeping, with JAX_REMAT3 and JAX_CUSTOM_VJP3: no rule raises it
        words = f"JAX itself fails under {name}: {type(error).__name__}: {first_line(error)}"
        return Finding(name, "skipped", detail=Detail(words=words))
    if by_nature(error):
        words = (
            f"the rule cannot be used under {name}: {type(error).__name__}: {first_line(error)}. "
            "Write it with jax.numpy alone, or give callbacks a vmap_method"
        )
        return Finding(name, "skipped", detail=Detail(words=words))
    code, detail = explain(error)
    return Finding(name, "wrong", diagnosis=code, detail=detail)


def _differing(
    e: Evidence, name: str, words: str, got: list[Any], want: list[Arrays]
) -> list[Finding]:
    """Findings for the arguments whose gradients under a transform are others."""
    case = e.case
    findings = []
    for i, path in enumerate(case.paths):
        g = widened(got[i])
        w = np.stack([member[i] for member in want]) if isinstance(want, list) else want[i]
        # a member at another scale rounds at another scale: its own, beside the first's
        scale = scale_of(w)
        own = scale_of(e.hand[i])
        bound = 4 * e.rounding(i) * max(1.0, scale / own if own else 1.0) + 1e-9 * scale
        if case.work_eps > 1e-10:
            bound += 64 * case.work_eps * scale
        c = compared(g, np.where(np.isfinite(w), w, g), bound)
        if not c.bad.any():
            continue
        wrong = [k for k in range(len(g)) if c.bad[k].any()]
        code, detail = mistakes.fit(g[wrong[0]], w[wrong[0]], float(np.max(c.bound)))
        if len(wrong) < len(g) and code == "unknown":
            code, detail = "elements", Detail(words=f"examples {wrong} of {len(g)} are wrong")
        detail["words"] = f"d{path} is right one example at a time, and wrong {words}: {detail}"
        findings.append(finding(name, path, c, c.worst, "wrong", code, detail))
    return findings


def _scan(e: Evidence) -> list[Finding]:
    """The function called in a loop, the arguments scaled anew each time."""
    case, mode = e.case, e.case.work
    scales = _scales(e)[:2]
    gs = [case.g, case.cotangent(11)]

    def run(values: Arrays, others: Arrays, g: Arrays) -> Arrays:
        def looped(v: Arrays) -> list[Any]:
            def step(carry: Any, s: Any) -> Any:
                outs, _ = case.hand([(x * s.astype(x.dtype)).astype(x.dtype) for x in v], others)
                return carry, outs

            outs: list[Any] = jax.lax.scan(step, 0, jnp.asarray(scales, jnp.float32))[1]
            return outs

        (grads,) = jax.vjp(looped, values)[1](g)
        return grads  # type: ignore[no-any-return]

    try:
        found = Program(run, lambda: case.calls_host)(
            mode,
            mode.cast(case.values, case.subject.values),
            case.subject.others,
            case.cast_g([np.stack(g) for g in zip(*gs, strict=True)], mode),
        )
    except Exception as error:
        return [raised("scan", error)]
    single = [
        [s * x for x in case.by_hand([s * v for v in case.values], g)]
        for s, g in zip(scales, gs, strict=True)
    ]
    total = [sum(parts) for parts in zip(*single, strict=True)]
    return _differing(e, "scan", "in a scan", _one(found), [total]) or [Finding("scan", "correct")]


def _one(found: Arrays) -> list[Any]:
    return [np.asarray(x)[None] for x in found]


def _checkpoint(e: Evidence) -> list[Finding]:
    case, mode = e.case, e.case.work

    def run(values: Arrays, others: Arrays, g: Arrays) -> Arrays:
        recomputed = jax.checkpoint(lambda v: case.hand(v, others)[0])
        (grads,) = jax.vjp(recomputed, values)[1](g)
        return grads  # type: ignore[no-any-return]

    try:
        found = Program(run, lambda: case.calls_host)(
            mode,
            mode.cast(case.values, case.subject.values),
            case.subject.others,
            case.cast_g(case.g, mode),
        )
    except Exception as error:
        if refused := _refuses_what_is_fixed(e, error):
            return [refused]
        return [raised("checkpoint", error)]
    differing = _differing(e, "checkpoint", "under jax.checkpoint", _one(found), [e.hand])
    return differing or [Finding("checkpoint", "correct")]


def _refuses_what_is_fixed(e: Evidence, error: Exception) -> Finding | None:
    """Where the rule raises for arguments that nobody differentiates, but JAX says are.

    JAX's next `checkpoint` (JAX_REMAT3) tells a rule with symbolic zeros that every argument is
    perturbed; so one that refuses to be differentiated in some of them refuses there.
    """
    case = e.case
    said = first_line(error)
    if not any(r.symbolic_zeros for r in case.rules or ()):
        return None
    if not (any(said in why for why in case.subject.fixed.values()) or _refused(e, said)):
        return None
    words = (
        "under jax.checkpoint this JAX tells the rule that every argument is differentiated, also "
        f"those held fixed, which it refuses: {type(error).__name__}: {said}"
    )
    return Finding("checkpoint", "skipped", detail=Detail(words=words))


def _refused(e: Evidence, said: str) -> bool:
    """Whether the rule says the same where floats among the other arguments are perturbed."""
    case = e.case
    others = case.subject.others
    at = [i for i, x in enumerate(others) if is_float(x)]

    def run(values: Arrays, floats: Arrays) -> Any:
        full = list(others)
        for i, x in zip(at, floats, strict=True):
            full[i] = x
        return case.hand(values, full)[0]

    try:
        with case.work.context():
            values = case.work.cast(case.values, case.subject.values)
            jax.eval_shape(lambda v, o: jax.vjp(run, v, o)[0], values, [others[i] for i in at])
    except Exception as error:
        return first_line(error) == said
    return False
