"""`taylor`: remainders of Taylor's series against the step, order by order, as physicists test.

With phi(h) = <g, f(x + h v)>, the rule's gradient d and its derivative H along v:

    R1 = |phi(h) - phi(0)|                                    falls like h
    R2 = |phi(h) - phi(0) - h <d, v>|                         falls like h^2, if d is right
    R3 = |phi(h) - phi(0) - h <d, v> - h^2/2 <H v, v>|        falls like h^3, if H is right

A gradient that is wrong leaves R2 at slope 1, whatever its size; and no tolerance has to be chosen.
The series needs three derivatives: at a kink the slopes are lower, and say nothing of the rule.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnnet.check.case import settings
from fnnet.check.case.case import Case, Terms
from fnnet.check.case.made import make_case, seed_of
from fnnet.check.case.modes import NATIVE, Program
from fnnet.check.case.subject import Arrays
from fnnet.check.case.thresholds import NEAR
from fnnet.check.oracle import further
from fnnet.check.oracle.numerical import pairing
from fnnet.check.oracle.tolerance import scale_of
from fnnet.check.report.table import table

ORDERS = (1, 2, 3)
# a tenth of the arguments' sizes at most: beyond, the series' next term is no longer small
STEPS = 0.1 * 0.4 ** np.arange(10.0)


@dataclasses.dataclass(frozen=True)
class Taylor:
    """Remainders against steps. ``str(taylor)`` is a table for people.

    Attributes:
        name: of the function.
        steps: h, relative to the arguments' sizes.
        remainders: for each order 1, 2, 3 the remainders at those steps; without the third where
            the gradient cannot be differentiated.
        slopes: for each order the exponent of h, by least squares of what is not yet rounding;
            infinite where there is no remainder at all, NaN where all of it is rounding.
    """

    name: str
    steps: tuple[float, ...]
    remainders: tuple[tuple[float, ...], ...]
    slopes: tuple[float, ...]

    @property
    def ok(self) -> bool:
        """Whether each remainder falls with its order: of gradient, and second derivative."""
        pairs = zip(ORDERS[1:], self.slopes[1:], strict=False)
        return all(np.isnan(s) or s >= order - NEAR for order, s in pairs)

    def to_dict(self) -> dict[str, Any]:
        """The numbers, as JSON can hold them."""
        return {
            "name": self.name,
            "steps": list(self.steps),
            "remainders": [list(r) for r in self.remainders],
            "slopes": [s if np.isfinite(s) else str(s) for s in self.slopes],
            "ok": self.ok,
        }

    def plot(self, path: Any = None) -> Any:
        """The remainders in a picture, both axes logarithmic, beside lines of slopes 1, 2, 3.

        Args:
            path: a file to write it to.

        Returns:
            A figure of matplotlib.

        Raises:
            ImportError: without matplotlib.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as e:
            raise ImportError(
                "taylor: a plot takes matplotlib: pip install matplotlib; str() gives a table"
            ) from e
        figure = Figure(figsize=(5, 4), layout="constrained")
        axes = figure.add_subplot()
        h = np.array(self.steps)
        for order, r, slope in zip(ORDERS, self.remainders, self.slopes, strict=False):
            (line,) = axes.loglog(h, r, "o-", label=f"order {order}: slope {slope:.2f}")
            if r[0] > 0:
                axes.loglog(h, r[0] * (h / h[0]) ** order, ":", color=line.get_color())
        axes.set_xlabel("step h")
        axes.set_ylabel("remainder")
        axes.set_title(self.name)
        axes.legend()
        if path is not None:
            figure.savefig(path)
        return figure

    def __str__(self) -> str:
        head = ["h", *(f"order {k}" for k in ORDERS[: len(self.remainders)])]
        rows = [
            [f"{h:.2e}", *(f"{r[i]:.2e}" for r in self.remainders)]
            for i, h in enumerate(self.steps)
        ]
        rows.append(["slope", *(f"{s:.2f}" for s in self.slopes)])
        said = "fall as they should" if self.ok else "do not fall as they should"
        return "\n".join([f"{self.name}: Taylor's remainders {said}", "", *table(head, rows)])


def taylor(
    f: Callable[..., Any],
    args: Any,
    *,
    kwargs: dict[str, Any] | None = None,
    key: Any = None,
    argnums: int | Sequence[int] | None = None,
) -> Taylor:
    """Remainders of Taylor's series of `f`, with the rule's derivatives in it, against the step.

    Along one random direction, for one random cotangent, in float64 where the function runs in it.

    Args:
        f: as for `check_vjp`; so are `args`, `kwargs`, `key` and `argnums`.
        args: its arguments.
        kwargs: its keyword arguments.
        key: a `jax.random.key`, or an int, for cotangent and direction.
        argnums: the positions of the arguments that are moved; all by default.

    Returns:
        A `Taylor`: slopes 1, 2, 3 for a right rule of a smooth function.

    Raises:
        TypeError: if `f` cannot be called with these arguments.
        ValueError: if nothing in them has a derivative.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnnet.check import taylor
        >>> found = taylor(jnp.tanh, (jnp.linspace(0.1, 1.0, 5),))
        >>> found.ok, [round(s) for s in found.slopes]
        (True, [1, 2, 3])
    """
    with settings.native(), settings.quiet():
        case = make_case(f, args, kwargs, seed_of(key), argnums, Terms(allow_no_rule=True))
        if not case.values:
            raise ValueError(f"taylor: {case.subject.name} has no float argument to move")
        case.settle_mode()
        further.measure(case)
        return _remainders(case)


def _remainders(case: Case) -> Taylor:
    v = [_direction(case, i) for i in range(len(case.values))]
    # in the mode's own numbers: h v must be what the arguments are moved by
    steps = STEPS if case.work is not NATIVE else STEPS.astype(np.float32)
    phi = [_phi(case, h, v) for h in (0.0, *steps)]
    base, size = phi[0]
    change = np.array([p - base for p, _ in phi[1:]])
    first = pairing(case.by_hand(case.values, case.g), v)
    terms = [np.zeros_like(steps), first * steps]
    second = _second(case, v)
    if second is not None:
        terms.append(second * steps**2 / 2)
    remainders = [np.abs(change - sum(terms[: k + 1])) for k in range(len(terms))]
    least = 8 * case.value_eps * size + case.inexact * size
    return Taylor(
        case.subject.name,
        tuple(float(h) for h in steps),
        tuple(tuple(float(x) for x in r) for r in remainders),
        tuple(_slope(steps, r, least) for r in remainders),
    )


def _direction(case: Case, i: int) -> Any:
    x = case.values[i]
    rng = case.rng(14, i)
    r = rng.choice([-1.0, 1.0], x.shape) * rng.integers(32, 96, x.shape) / 64
    return np.asarray(r * np.maximum(np.abs(x), 1e-3 * (scale_of(x) or 1.0)), x.dtype)


def _phi(case: Case, h: float, v: Arrays) -> tuple[float, float]:
    """<g, f(x + h v)>, and the size of what is added up in it."""
    mode = case.work
    values = mode.cast(
        [x + h * d for x, d in zip(case.values, v, strict=True)], case.subject.values
    )
    outs, _ = case.forward(mode, values, case.subject.others)
    pairs = [(np.asarray(a), b) for a, b in zip(outs, case.g, strict=True)]
    total = sum(float(np.sum((a * b).real)) for a, b in pairs)
    return total, sum(float(np.sum(np.abs(a * b))) for a, b in pairs)


def _second(case: Case, v: Arrays) -> float | None:
    """<H v, v> by the rule's own derivative; None where it has none."""

    def along(values: Arrays, others: Arrays, g: Arrays, v: Arrays) -> Any:
        def gradient(x: Arrays) -> Any:
            return jax.vjp(lambda x: case.hand(x, others)[0], x)[1](g)[0]

        def slope(x: Arrays) -> Any:
            return sum(jnp.sum((a * b).real) for a, b in zip(gradient(x), v, strict=True))

        return jax.vjp(slope, values)[1](jnp.ones((), jnp.result_type(slope(values))))[0]

    values, others, g = case.at_args(case.work)
    moved = case.work.cast(v, case.subject.values)
    try:
        return pairing(list(Program(along)(case.work, values, others, g, moved)), v)
    except Exception:  # a rule may have no second derivative
        return None


def _slope(steps: Any, remainder: Any, least: float) -> float:
    """The exponent of h, by least squares at the smaller steps where it is not rounding."""
    seen = remainder > least
    if not np.any(remainder):
        return float("inf")
    if seen.sum() < 3:
        return float("nan")
    last = np.flatnonzero(seen)[-max(3, int(seen.sum()) // 2) :]
    return float(np.polyfit(np.log(steps[last]), np.log(remainder[last]), 1)[0])
