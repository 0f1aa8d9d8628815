"""The rule on several devices, held against the same rule on one."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from fnnet.check.case.case import first_line
from fnnet.check.case.finding import Detail, Finding
from fnnet.check.case.host import calls_host
from fnnet.check.case.modes import to_numpy, widened
from fnnet.check.case.subject import Arrays
from fnnet.check.case.thresholds import LOOSEST
from fnnet.check.case.traced import pull
from fnnet.check.oracle.evidence import Evidence, finding
from fnnet.check.oracle.tolerance import compared, scale_of

AXIS = "fnnet_check"
ONE_DEVICE = (
    "there is one device. Set XLA_FLAGS=--xla_force_host_platform_device_count=8 before JAX "
    "starts, or run python -m fnnet check --devices 8"
)


def spread_out(e: Evidence) -> list[Finding]:
    """Each argument cut along its first axis that divides; the compiler does the rest."""
    name = "sharded by the compiler"
    case, mode = e.case, e.case.work
    if jax.device_count() == 1:
        return [Finding("sharded", "skipped", detail=Detail(words=ONE_DEVICE))]
    if words := _unfit(e):
        return [Finding(name, "skipped", detail=Detail(words=words))]
    values = mode.cast(case.values, case.subject.values)
    n = _devices([x.shape for x in values])
    if n == 1:
        words = "no argument has an axis that two or more devices divide"
        return [Finding(name, "skipped", detail=Detail(words=words))]
    try:
        with mode.context():
            mesh = _mesh(n)
            placed = [jax.device_put(x, NamedSharding(mesh, _spec(x.shape, n))) for x in values]
            g = case.cast_g(case.g, mode)
            got = to_numpy(jax.jit(pull(case.hand))(placed, case.subject.others, g)[1])
    except Exception as error:
        words = f"{type(error).__name__}: {first_line(error)}"
        return [Finding(name, "skipped", detail=Detail(words=words))]
    return _compare(e, name, got, n)


def _unfit(e: Evidence) -> str:
    """Why the rule cannot be run on several devices at all, or nothing."""
    jaxpr = e.case.trace_gradient(e.case.hand) if e.case.pull_hand.traceable else None
    if jaxpr is None:
        return "the rule cannot be traced"
    # devices that wait for each other may wait for ever for a host that waits for them
    return "the rule calls back to the host" if calls_host(jaxpr) else ""


def data_parallel(e: Evidence) -> list[Finding]:
    """The function of each device's share of a batch, where its value is the batch's share."""
    name = "sharded by shard_map"
    case, mode = e.case, e.case.work
    if jax.device_count() == 1 or _unfit(e):
        return []
    if case.terms.surrogate:
        words = "the rule is declared another function's, which need not be cut as the value is"
        return [Finding(name, "skipped", detail=Detail(words=words))]
    outs = case.out_types(mode)
    sizes = {t.shape[0] if t.shape else 0 for t in outs}
    n = _divisor(min(sizes)) if len(sizes) == 1 and min(sizes) else 1
    if n == 1:
        words = "the outputs have no common batch axis that two or more devices divide"
        return [Finding(name, "skipped", detail=Detail(words=words))]
    specs = _legal(e, n, min(sizes))
    if specs is None:
        words = "the value of a share of the batch is not the share of the value"
        return [Finding(name, "skipped", detail=Detail(words=words))]
    findings = []
    for check_vma in (False, True):
        try:
            got = _mapped(e, n, specs, check_vma)
        except Exception as error:
            words = (
                f"with check_vma={check_vma} the rule raises, where autodiff does not: "
                f"{type(error).__name__}: {first_line(error)}. fnnet.register makes it right there"
            )
            findings.append(Finding(name, "skipped", detail=Detail(words=words)))
            continue
        findings += _compare(e, name, got, n)
    wrong = [f for f in findings if f.verdict == "wrong"]
    return wrong[:1] or findings


def _mesh(n: int) -> Any:
    return jax.make_mesh((n,), (AXIS,), (AxisType.Auto,), devices=jax.devices()[:n])


def _divisor(size: int) -> int:
    """The largest number of devices, at most all, that divides `size`."""
    return next((k for k in range(min(jax.device_count(), size), 1, -1) if size % k == 0), 1)


def _devices(shapes: list[tuple[int, ...]]) -> int:
    return max((_divisor(s) for shape in shapes for s in shape[:1]), default=1)


def _spec(shape: tuple[int, ...], n: int) -> P:
    return P(AXIS) if shape and shape[0] % n == 0 and shape[0] else P()


def _legal(e: Evidence, n: int, batch: int) -> list[P] | None:
    """Which arguments to cut so that the value comes out cut: those of the batch's size."""
    case, mode = e.case, e.case.work
    values = mode.cast(case.values, case.subject.values)
    arrays = [*values, *case.subject.others]
    may = [i for i, x in enumerate(arrays) if x.shape and x.shape[0] == batch]
    want, _ = case.forward(mode, values, case.subject.others)
    subsets = (s for k in range(len(may), 0, -1) for s in itertools.combinations(may, k))
    for cut in itertools.islice(subsets, 4):
        specs = [P(AXIS) if i in cut else P() for i in range(len(arrays))]
        try:
            with mode.context():
                mapped = _shard_map(e, n, specs, False)
                got = to_numpy(jax.jit(mapped)(values, case.subject.others))
        except Exception:
            continue
        if all(
            a.shape == b.shape
            and np.allclose(
                a, b, rtol=1e-3, atol=1e-3 * scale_of(np.asarray(b, complex)), equal_nan=True
            )
            for a, b in zip(got, want, strict=True)
        ):
            return specs
    return None


def _shard_map(e: Evidence, n: int, specs: list[P], check_vma: bool) -> Any:
    case = e.case
    k = len(case.values)
    return jax.shard_map(
        lambda v, o: case.hand(v, o)[0],
        mesh=_mesh(n),
        in_specs=(specs[:k], specs[k:]),
        out_specs=P(AXIS),
        check_vma=check_vma,
    )


def _mapped(e: Evidence, n: int, specs: list[P], check_vma: bool) -> Arrays:
    case, mode = e.case, e.case.work
    with mode.context():
        mapped = _shard_map(e, n, specs, check_vma)
        run = jax.jit(pull(lambda v, o: (mapped(v, o), [])))
        values = mode.cast(case.values, case.subject.values)
        return to_numpy(run(values, case.subject.others, case.cast_g(case.g, mode))[1])  # type: ignore[no-any-return]


def _compare(e: Evidence, name: str, got: Arrays, n: int) -> list[Finding]:
    case = e.case
    findings = []
    for i, path in enumerate(case.paths):
        want = e.hand[i]
        bound = 4 * e.rounding(i) + (1e-9 + 4 * e.iterating) * scale_of(want)
        if case.work_eps > 1e-10:
            bound += 64 * case.work_eps * scale_of(want)
        c = compared(widened(got[i]), np.where(np.isfinite(want), want, widened(got[i])), bound)
        if c.bad.any() and case.may_iterate and c.error.max() <= LOOSEST * c.scale:
            words = (
                "a loop of the function ends when it is exact enough, which for a part of the "
                f"arguments is sooner or later: d{path} on {n} devices differs by what that makes"
            )
            detail = Detail(words=words, devices=n)
            findings.append(finding(name, path, c, c.worst, "undecidable", None, detail))
        elif c.bad.any():
            words = f"d{path} on {n} devices is not that on one: is a sum over devices missing?"
            detail = Detail(words=words, devices=n)
            findings.append(finding(name, path, c, c.worst, "wrong", "missing_psum", detail))
    return findings or [Finding(name, "correct", detail=Detail(devices=n))]
