"""What is read off the functions of a case as they are traced: digits, loops, rules, the host."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

from fnnet.check.case.host import calls_host, equations
from fnnet.check.case.kinds import Rule, rules_in
from fnnet.check.case.modes import NATIVE, WIDE, Mode
from fnnet.check.case.precision import narrowest
from fnnet.check.case.subject import Arrays, Subject

Flat = Callable[..., Any]


def pull(flat: Flat) -> Flat:
    """``values, others, g -> outputs, gradients, other outputs`` of a flat function."""

    def run(values: Arrays, others: Arrays, g: Arrays) -> tuple[Arrays, Arrays, Arrays]:
        outs, back, rest = jax.vjp(lambda v: flat(v, others), values, has_aux=True)
        (grads,) = back(g)
        return outs, grads, rest

    return run


class Traced:
    """The part of a case that evaluates nothing; its attributes are those of `Case`."""

    f: Any
    subject: Subject
    hand: Flat
    truth: Flat
    primal: Flat
    values: Arrays
    g: Arrays
    work: Mode

    @property
    def work_eps(self) -> float:
        """The spacing that rounding has in the elementwise comparison."""
        raise NotImplementedError

    def cast_g(self, g: Arrays, mode: Mode) -> Arrays:
        """A cotangent in the dtypes that the outputs have in `mode`."""
        raise NotImplementedError

    def trace(self, flat: Flat, mode: Mode | None = None) -> Any:
        """``flat(values, others)`` as a jaxpr at the caller's arguments; None if untraceable."""
        return self._trace(flat, mode or self.work, lambda mode: ())

    def trace_gradient(self, flat: Flat, mode: Mode | None = None) -> Any:
        """The same of the gradient of `flat`, a function of the cotangent too."""
        return self._trace(pull(flat), mode or self.work, lambda mode: (self.cast_g(self.g, mode),))

    def _trace(self, flat: Flat, mode: Mode, more: Callable[[Mode], tuple[Any, ...]]) -> Any:
        with mode.context():
            try:
                values = mode.cast(self.values, self.subject.values)
                return jax.make_jaxpr(flat)(values, self.subject.others, *more(mode))
            except Exception:
                return None

    def narrowest(self, flat: Flat, mode: Mode) -> float:
        """The coarsest spacing in which the gradient of `flat` computes anything."""
        jaxpr = self.trace_gradient(flat, mode)
        return 0.0 if jaxpr is None else narrowest(jaxpr)

    @functools.cached_property
    def value_eps(self) -> float:
        """The coarsest spacing in which the value is computed, where it is differenced."""
        jaxpr = self.trace(self.primal)
        return self.work_eps if jaxpr is None else max(narrowest(jaxpr), self.work_eps)

    @functools.cached_property
    def may_iterate(self) -> bool:
        """Whether the value comes out of a loop of unknown length, or from the host."""
        jaxpr = self.trace(self.primal)
        return jaxpr is not None and any(
            e.primitive.name == "while" or "callback" in e.primitive.name for e in equations(jaxpr)
        )

    def differentiable(self) -> bool:
        """Whether JAX can differentiate the truth in reverse mode, as it is traced."""
        return self.trace_gradient(self.truth, NATIVE) is not None

    def traceable_value(self) -> bool:
        """Whether the value can be computed from traced arrays."""
        return self.trace(self.primal) is not None

    @functools.cached_property
    def calls_host(self) -> bool:
        """Whether the function or its rule calls back to Python on the host."""
        found = (self.trace_gradient(self.hand, WIDE), self.trace(self.primal, WIDE))
        return any(jaxpr is not None and calls_host(jaxpr) for jaxpr in found)

    @functools.cached_property
    def _every_rule(self) -> list[Rule] | None:
        return self.rules_of(self.hand)

    @functools.cached_property
    def rules(self) -> list[Rule] | None:
        """The rules in the function; None if it cannot be traced. JAX's own are no rules of others.

        The rule of `jax.nn.softmax` is one where that function itself is checked, and none of a
        function that calls it.
        """
        found = self._every_rule
        of_jax = str(getattr(_called(self.f), "__module__", "")).partition(".")[0] == "jax"
        return None if found is None else [r for r in found if r.foreign or of_jax]

    @property
    def rules_of_jax(self) -> list[Rule]:
        """The rules in the function that JAX brings."""
        return [r for r in self._every_rule or [] if not r.foreign]

    def rules_of(self, flat: Flat) -> list[Rule] | None:
        """The rules in a flat function, whoever wrote them; None if it cannot be traced."""
        jaxpr = self.trace(flat)
        return None if jaxpr is None else rules_in(jaxpr)

    def program(self, flat: Flat, transform: Callable[[Flat], Flat] | None = None) -> str | None:
        """The primitives of a gradient with the shapes they give, in order; None if untraceable."""

        def transformed(values: Any, others: Any) -> Any:
            def outputs(values: Any) -> Any:
                return flat(values, others)[0]

            return (transform(outputs)(values) if transform else outputs(values)), []

        jaxpr = self.trace_gradient(transformed)
        if jaxpr is None:
            return None
        return " ".join(
            f"{eqn.primitive.name}{[getattr(v.aval, 'shape', None) for v in eqn.outvars]}"
            for eqn in equations(jaxpr)
        )


def _called(f: Any) -> Any:
    """The function in partial applications."""
    while isinstance(f, functools.partial):
        f = f.func
    return f
