"""What the mistake probably is: known mistakes are fitted to a wrong gradient, likeliest first."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from fnnet.check.case.finding import Detail, Finding
from fnnet.check.case.host import equations
from fnnet.check.case.modes import NATIVE, Mode, epsilon
from fnnet.check.case.traced import pull
from fnnet.check.diagnosis import cotangents
from fnnet.check.diagnosis import surrogate as surrogates
from fnnet.check.diagnosis.fit import Pair, as_mean, as_sum, fit, size_of
from fnnet.check.diagnosis.influence import Influence
from fnnet.check.diagnosis.paths import Paths
from fnnet.check.oracle.tolerance import Compared

__all__ = ["first_order", "fit", "narrow", "running_sums"]

Fitted = tuple[str, Detail]


def first_order(e: Any, number: int, c: Compared) -> Fitted:
    """The mistake in the gradient of argument `number`.

    Args:
        e: the evidence.
        number: of the argument.
        c: rule and oracle compared.
    """
    path = e.case.paths[number]
    code, detail = _first_order(e, number, c)
    detail["words"] = f"d{path}: {detail['words']}"
    return code, detail


def _first_order(e: Any, number: int, c: Compared) -> Fitted:
    if e.nondeterministic:
        return "nondeterministic", Detail(words=f"it differs {e.nondeterministic}")
    bound = float(np.quantile(c.bound, 0.9)) if c.bound.size else 0.0
    pair = Pair(c.got, c.want, bound)
    if number in e.nonlinear:
        return e.nonlinear[number]  # type: ignore[no-any-return]
    if found := surrogates.surrogate(e, number, c):
        return found
    if found := computed_narrow(e, c):
        return found
    if found := pair.whole():
        return _explained(e, number, found)
    if found := cotangents.of_another(e, number, pair) or cotangents.conjugated(e, number, pair):
        return found
    if found := _swapped(e, number, pair) or _one_share(e, number, pair) or pair.turned():
        return found
    if not pair.finite:
        known = np.isfinite(c.want)
        if found := Pair(c.got[known], c.want[known], bound).whole():
            return _explained(e, number, found)
        return pair.some_elements(0.0) or ("unknown", Detail(words="it has no finite number"))
    # where no element is right: one of a lost row alone is wrong in its elements
    if not pair.some_elements(0.0) and (found := cotangents.cut_short(e, number, pair)):
        return found
    if found := _missing(e, number, c, pair):
        return found
    if found := pair.some_elements(0.5):
        return _with_condition(e, number, c, found)
    influence = Influence(e, number)
    found = influence.dropped() or influence.axes()
    if not found and (found := pair.some_elements(0.01)):
        return _with_condition(e, number, c, found)
    found = found or surrogates.unexplained(e)
    return found or ("unknown", Detail(words="it fits no known mistake"))


def narrow(e: Any, number: int, c: Compared, mode: Mode) -> Fitted:
    """The mistake of a rule that is right in float64, and wrong in `mode`."""
    if e.nondeterministic:
        words = f"d{e.case.paths[number]} differs {e.nondeterministic}"
        return "nondeterministic", Detail(words=words)
    near = float(np.max(c.bound, initial=0.0))
    found = computed_narrow(e, c) if mode is NATIVE else None
    code, detail = found or Pair(c.got, c.want, near).whole() or fit(c.got, c.want, near)
    if code == "unknown" and _within(c, 0.5):
        code = "dtype"
        detail["words"] = "its rounding errors are too large: is it summed in a narrow dtype?"
    detail["words"] = (
        f"d{e.case.paths[number]} is right in float64, and wrong in {_dtypes(e, mode)}: {detail}"
    )
    return code, detail


def running_sums(findings: Sequence[Finding]) -> list[Finding]:
    """Those that are wrong for a cotangent of one sign alone: their sums stop growing."""
    found = []
    for f in findings:
        if f.verdict == "wrong":
            words = (
                f"d{f.arg} is right for a cotangent of both signs, and wrong for one of positive "
                "numbers: a sum of many terms held in 16 bits stops growing. Add up in float32 "
                "and cast last"
            )
            found.append(dataclasses.replace(f, diagnosis="dtype", detail=Detail(words=words)))
    return found


def computed_narrow(e: Any, c: Compared) -> Fitted | None:
    """Whether the rule rounds to a dtype narrower than the caller's, and its error is no larger."""
    case = e.case
    eps = case.narrowest(case.hand, case.work)
    least = max(case.native_eps if case.work is NATIVE else epsilon(np.float64), case.work_eps)
    if eps <= 4 * least or not np.isfinite(c.error).all():
        return None
    if float(c.error.max(initial=0.0)) > 32 * eps * max(size_of(c.want), 1e-300):
        return None
    words = f"it is computed with a spacing of {eps:.0e}: cast last, and to the argument's dtype"
    return "dtype", Detail(words=words, spacing=eps)


def _within(c: Compared, fraction: float) -> bool:
    return bool(np.isfinite(c.error).all() and c.error.max(initial=0.0) < fraction * c.scale)


def _dtypes(e: Any, mode: Mode) -> str:
    if mode is not NATIVE:
        return mode.name
    return str(e.case.own_dtypes)


def _explained(e: Any, number: int, found: Fitted) -> Fitted:
    """A factor in words: 1/n for a mean, the devices' number for a mean over devices."""
    code, detail = found
    case = e.case
    if code in ("scaled", "negated") and surrogates.returns_its_input(e, number):
        detail["words"] += f"; the function returns its argument as it is. {surrogates.REMEDY}"
    if code != "scaled":
        return found
    factor, leaf = detail["factor"], case.values[number]
    others = [v for i, v in enumerate(case.values) if i != number]
    if n := as_mean(factor, case.g, leaf, others):
        if n in _mesh_sizes(e):
            detail["words"] = (
                f"it is 1/{n} of what it should be: a mean over {n} devices, not a sum?"
            )
            return "missing_psum", Detail(detail, devices=n)
        detail["words"] = (
            f"it is 1/{n} of what it should be: a mean over {n} where a sum belongs, or a mean's"
            " 1/n applied twice?"
        )
        return "mean_not_sum", Detail(detail, n=n)
    if n := as_sum(factor, [*case.g, *case.values]):
        detail["words"] = f"it is {n} times what it should be: is a mean's 1/{n} forgotten?"
    return "scaled", detail


def _swapped(e: Any, number: int, pair: Pair) -> Fitted | None:
    for j, other in enumerate(e.truth):
        if j != number and other.size > 1 and np.any(other) and pair.equals(other):
            if pair.equals(e.truth[number]):
                continue
            name = e.case.paths[j]
            words = f"it is the gradient of {name}: are the cotangents in the arguments' order?"
            return "swapped", Detail(words=words, with_=name)
    return None


def _mesh_sizes(e: Any) -> set[int]:
    """The numbers of devices over which the function, or its rule, is mapped."""
    jaxpr = e.case.trace(e.case.truth)
    sizes: set[int] = set()
    for eqn in () if jaxpr is None else equations(jaxpr):
        if eqn.primitive.name == "shard_map":
            sizes |= set(dict(eqn.params["mesh"].shape).values())
    return {n for n in sizes if n > 1}


def _one_share(e: Any, number: int, pair: Pair) -> Fitted | None:
    """Whether it is one device's share of the sum over devices."""
    case = e.case
    sizes = _mesh_sizes(e)
    if sizes and _devices_disagree(e, number):
        words = "the devices' copies of it differ: a psum over them is missing"
        return "missing_psum", Detail(words=words, devices=max(sizes))
    for n in sizes:
        for axis in range(max((x.ndim for x in case.g), default=0)):
            for share in range(n):
                g = [_share_of(x, axis, n, share) for x in case.g]
                if pair.equals(case.by_truth(case.values, g)[number]):
                    words = f"it is device {share}'s share alone: a psum over {n} is missing"
                    return "missing_psum", Detail(words=words, devices=n)
    return None


def _devices_disagree(e: Any, number: int) -> bool:
    """Whether a gradient that every device has a copy of is another one on each."""
    case, mode = e.case, e.case.work
    with mode.context():
        grads = jax.jit(pull(case.hand))(
            mode.cast(case.values, case.subject.values),
            case.subject.others,
            case.cast_g(case.g, mode),
        )[1]
        copies: dict[str, list[Any]] = {}
        for shard in grads[number].addressable_shards:
            copies.setdefault(str(shard.index), []).append(np.asarray(shard.data))
    near = 1e-6 * size_of(e.hand[number])
    return any(
        not np.allclose(x, same[0], rtol=0, atol=near, equal_nan=True)
        for same in copies.values()
        for x in same[1:]
    )


def _share_of(x: Any, axis: int, n: int, share: int) -> Any:
    if x.ndim <= axis or x.shape[axis] % n:
        return x
    size = x.shape[axis] // n
    mask = np.zeros(x.shape[axis])
    mask[share * size : (share + 1) * size] = 1
    return x * mask.reshape([-1 if k == axis else 1 for k in range(x.ndim)])


def _missing(e: Any, number: int, c: Compared, pair: Pair) -> Fitted | None:
    try:
        paths: Paths = e.kept.setdefault("paths", Paths(e))
        return paths.missing(number, c.got, pair.near)
    except Exception:  # a graph that cannot be rewritten explains nothing
        return None


def _with_condition(e: Any, number: int, c: Compared, found: Fitted) -> Fitted:
    """Say so if it is just the negative, or the positive, arguments that are wrong."""
    code, detail = found
    x = e.case.values[number]
    with np.errstate(all="ignore"):
        wrong = ~(np.abs(c.got - c.want) <= c.bound)
    if x.size > 3 and not np.iscomplexobj(x):
        for words, where in (("negative", x < 0), ("positive", x > 0)):
            if wrong[where].all() and not wrong[~where].any() and where.any():
                detail["words"] += f"; just those where {e.case.paths[number]} is {words}"
                detail["where"] = words
    return code, detail
