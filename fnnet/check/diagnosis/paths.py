"""A missing term, found: the chain rule's sum over paths, with each path weighed in turn.

The plain function is a graph; reverse mode adds up, over every edge, what flows back along it. Each
edge is given a weight in the backward pass alone, 1 for the truth. Where some edge with weight 0
(or -1, 1/2, 2) gives just what the rule gives, that is the term the rule forgot (or got wrong).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnnet.check.case.finding import Detail
from fnnet.check.case.interpret import INLINED
from fnnet.check.case.modes import Program
from fnnet.check.case.subject import Arrays, is_float
from fnnet.rules.jaxpr import Equation, bind, opened, run

Row = tuple[tuple[int, ...], float]  # edges, and the weight they are given

WEIGHTS = (0.0, -1.0, 2.0, 0.5)
MOST_EDGES = 200
MOST_PAIRS = 1500
MOST_COUNTS = 3
LARGE = 50_000


class Paths:
    """The plain function's graph, with a weight for every edge."""

    def __init__(self, e: Any) -> None:
        self._case = e.case
        self._names: list[str] = []
        self._program = Program(self._distances)

    def missing(self, number: int, got: Any, near: float) -> tuple[str, Detail] | None:
        """The edge whose weight explains the argument's gradient `got`, to within `near`."""
        case = self._case
        mode = case.work
        with mode.context():
            jax.eval_shape(
                lambda v, o: self._weighed(v, o, None),
                mode.cast(case.values, case.subject.values),
                case.subject.others,
            )
        n = len(self._names)
        if not 0 < n <= MOST_EDGES:
            return None
        weights = WEIGHTS[:1] if case.size > LARGE else (*WEIGHTS, *_counts(case.values))
        rows: list[Row] = [((i,), w) for w in weights for i in range(n)]
        found = self._best(rows, number, got, near)
        if found is None and case.size <= LARGE and n * (n - 1) // 2 <= MOST_PAIRS:
            pairs: list[Row] = [(p, 0.0) for p in itertools.combinations(range(n), 2)]
            found = self._best(pairs, number, got, near)
        if found is None:
            return None
        edges, weight = found
        where = " and ".join(self._names[i] for i in edges)
        what = {0.0: "is missing", -1.0: "has the wrong sign"}.get(
            weight, f"is taken {weight:g} times"
        )
        if weight > 2 and weight in _counts(case.values):
            what += f": a sum over {weight:g} where their mean belongs?"
        elif 0 < weight < 0.5:
            what += f": a mean over {1 / weight:g} where their sum belongs?"
        words = f"the term through {where} {what}"
        return "missing_term", Detail(
            words=words, factor=weight, terms=[self._names[i] for i in edges]
        )

    def _best(self, rows: list[Row], number: int, got: Any, near: float) -> Row | None:
        case = self._case
        mode = case.work
        s = np.ones((len(rows), len(self._names)))
        for row, (edges, weight) in enumerate(rows):
            s[row, list(edges)] = weight
        like = case.subject.values
        distances = self._program(
            mode,
            mode.cast(case.values, like),
            case.subject.others,
            case.cast_g(case.g, mode),
            s.astype(np.float64 if mode.dtype is not None else np.float32),
            mode.cast([got if j == number else v for j, v in enumerate(case.values)], like),
            np.arange(len(like)) == number,
        )
        with np.errstate(all="ignore"):
            best = int(np.nanargmin(np.where(np.isfinite(distances), distances, np.inf)))
        return rows[best] if distances[best] <= near else None

    def _distances(
        self, values: Arrays, others: Arrays, g: Arrays, s: Any, got: Arrays, which: Any
    ) -> Any:
        """How far the gradient with each row of weights is from `got`."""

        def at(row: Any) -> Any:
            _, back = jax.vjp(lambda v: self._weighed(v, others, row), values)
            (grads,) = back(g)
            far = [jnp.max(jnp.abs(a - b), initial=0.0) for a, b in zip(grads, got, strict=True)]
            return jnp.sum(jnp.where(which, jnp.stack([x.astype(s.dtype) for x in far]), 0.0))

        return jax.lax.map(at, s)

    def _weighed(self, values: Arrays, others: Arrays, row: Any) -> Arrays:
        """The outputs, each edge's backward flow weighed; names the edges."""
        jaxpr = jax.make_jaxpr(lambda v, o: self._case.truth(v, o)[0])(values, others)
        inner, consts = opened(jaxpr)
        self._names = []

        def weighed(eqn: Equation, inputs: list[Any]) -> Sequence[Any]:
            name = eqn.primitive.name
            if name in INLINED:
                body, body_consts = opened(eqn.params[INLINED[name]])
                return run(body, body_consts, inputs, weighed)
            if name == "stop_gradient":
                return bind(eqn, inputs)
            many = sum(is_float(x) for x in inputs if hasattr(x, "dtype")) > 1
            changed = list(inputs)
            for k, x in enumerate(inputs):
                if many and hasattr(x, "dtype") and is_float(x) and _traced(x):
                    edge = len(self._names)
                    self._names.append(_name(eqn, k))
                    if row is not None:
                        changed[k] = _with_weight(x, row[edge])
            return bind(eqn, changed)

        flat = [*values, *others]
        return list(run(inner, consts, flat, weighed))


def _counts(arrays: Arrays) -> list[float]:
    """Sizes of axes, and one over them: a sum where a mean belongs, and the reverse."""
    sizes = sorted({n for x in arrays for n in x.shape if n > 2})[:MOST_COUNTS]
    return [w for n in sizes for w in (float(n), 1 / n)]


def _traced(x: Any) -> bool:
    return isinstance(x, jax.core.Tracer)


def _with_weight(x: Any, w: Any) -> Any:
    fixed = jax.lax.stop_gradient(x)
    return fixed + w.astype(x.dtype) * (x - fixed)


def _name(eqn: Equation, k: int) -> str:
    known = {"mul": f"factor {k} of a product", "div": "denominator" if k else "numerator"}
    what = known.get(eqn.primitive.name, f"operand {k} of {eqn.primitive.name}")
    return f"the {what} of shape {tuple(getattr(eqn.outvars[0].aval, 'shape', ()))}"
