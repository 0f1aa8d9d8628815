"""One check: the rule, the oracle, where they are evaluated, and what was evaluated so far."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnnet.check.case.kinds import DERIVATIVES
from fnnet.check.case.large import LARGE, drawn, lean
from fnnet.check.case.modes import NATIVE, WIDE, Mode, Program, as_it_is, epsilon, narrowed, widened
from fnnet.check.case.subject import Arrays, Subject
from fnnet.check.case.thresholds import FLOOR_32, FLOOR_64
from fnnet.check.case.traced import Traced, pull
from fnnet.rules import plain


@dataclasses.dataclass(frozen=True)
class Terms:
    """What the caller says of the function, and of what may pass.

    Attributes:
        reference: a function whose derivative is the truth; None for the function's own, by JAX.
        surrogate: whether the rule is, on purpose, the derivative of another function.
        tolerance: how exact the function's value is, relative to its largest number; None for as
            exact as its dtype.
        budget_bytes: the most that the backward pass may keep; None for any.
        allow_no_rule: whether a function without a hand-written rule may be "correct".
    """

    reference: Callable[..., Any] | None = None
    surrogate: bool = False
    tolerance: float | None = None
    budget_bytes: int | None = None
    allow_no_rule: bool = False


class Case(Traced):
    """What the questions share.

    Attributes:
        subject: the call.
        hand: the function with its rule, flat.
        truth: the function whose derivative is the truth, flat: the same without rules.
        declared: whether the truth is a `reference` that the caller declared.
        values: the differentiated arrays, in 64 bits.
        g: a random cotangent, nowhere near 0 or constant, exact in every float dtype.
        large: whether memory is what the check is short of; `values` and `g` are then in 32 bits
            where they fit.
        work: the mode of the elementwise comparison.
        has_oracle: whether JAX can differentiate the truth.
        witness: whether that oracle holds no hand-written rule that could be wrong as well. Where
            it does, differences alone can say "correct".
        reverse: whether the function has a derivative in reverse mode at all.
        iterated: how exact the value is by the function's own iterations, at its scale.
        gradients_iterated: how exact the rule's gradients are by its iterations, each at its scale.
    """

    def __init__(
        self,
        f: Callable[..., Any],
        subject: Subject,
        seed: list[int],
        terms: Terms,
    ) -> None:
        self.subject = subject
        self.f = f
        self.terms = terms
        self.budget_bytes = terms.budget_bytes
        self.allow_no_rule = terms.allow_no_rule
        reference = terms.reference
        self.declared = reference is not None
        self.hand = subject.flat(f)
        self.truth = subject.flat(plain(f) if reference is None else reference)
        self.primal = subject.flat(f if reference is None else reference)
        self.pull_hand = Program(pull(self.hand), lambda: self.calls_host)
        self.pull_truth = Program(pull(self.truth), lambda: self.calls_host)
        self.forward = Program(lambda v, o: self.hand(v, o), lambda: self.calls_host)
        self.seed = seed
        self.values = [widened(v) for v in subject.values]
        self.g = self.cotangent(0)
        self.large = self.size > LARGE
        if self.large:
            self.values = [as_it_is(v) for v in subject.values]
            self.g = [x.astype(np.complex64 if np.iscomplexobj(x) else np.float32) for x in self.g]
        self.work: Mode = NATIVE
        self.has_oracle = False
        self.witness = False
        self.reverse = True
        self.why_no_oracle = ""
        self.why_no_witness = ""
        self.why_native = ""
        self.sensitivity: dict[Any, list[Any]] = {}
        self.power: dict[str, float] = {}
        self.residual_bytes: tuple[int | None, int | None] = (None, None)
        self.oracle: Program = self.pull_truth
        self._lean: dict[Any, Program] = {}
        self._kept: dict[Any, Any] = {}
        self.iterated = 0.0
        self.gradients_iterated = [0.0] * len(self.values)

    @property
    def inexact(self) -> float:
        """How exact the value is beyond rounding, relative to its largest number; 0 as a rule."""
        return self.iterated if self.terms.tolerance is None else self.terms.tolerance

    @property
    def blind(self) -> bool:
        """Whether the rule is declared another function's derivative, and it is not told which."""
        return self.terms.surrogate and not self.declared

    def settle_mode(self) -> None:
        """`choose_mode`, and what the caller's terms and the rule's own dtypes make of it."""
        self.choose_mode()
        if self.blind:
            self.has_oracle, self.oracle = False, self.pull_hand
            self.why_no_oracle = "the rule is declared a surrogate's"
        if self.work is WIDE and self.reverse and self._is_for_narrow_floats():
            self.work = NATIVE
            self.why_native = "the rule gives cotangents of the caller's dtypes, whatever is asked"

    def narrow(self) -> None:
        """Ask all further questions in the caller's dtypes."""
        self.work = NATIVE
        for name in ("work_eps", "value_eps", "may_iterate"):
            self.__dict__.pop(name, None)

    def _is_for_narrow_floats(self) -> bool:
        """Whether the rule, asked in 64 bits, gives cotangents of fewer, against the contract."""
        grads = self.hand_at_args(WIDE)[1]
        values = WIDE.cast(self.values, self.subject.values)
        return any(d.dtype != x.dtype for d, x in zip(grads, values, strict=True))

    def of_one_sign(self) -> Case:
        """The same check with a cotangent of positive numbers.

        Sums over it grow, and so do the errors of sums that are held in too few digits.
        """
        other = copy.copy(self)
        other.g = [np.abs(x) for x in self.g]
        other.sensitivity, other._kept = {}, {}
        return other

    def rng(self, *stream: int) -> np.random.Generator:
        """A generator of its own for each purpose, so that no question moves another's draws."""
        return np.random.default_rng([*self.seed, *stream])

    @property
    def paths(self) -> list[str]:
        """The differentiated arguments' names."""
        return self.subject.paths

    @property
    def own_dtypes(self) -> str:
        """The names of the differentiated arguments' dtypes."""
        return ", ".join(sorted({str(v.dtype) for v in self.subject.values}))

    @functools.cached_property
    def native_eps(self) -> float:
        """The coarsest spacing among the differentiated arrays' dtypes."""
        return max((epsilon(v.dtype) for v in self.subject.values), default=epsilon(np.float64))

    @functools.cached_property
    def work_eps(self) -> float:
        """The spacing that rounding has in the elementwise comparison.

        A function that casts to a narrow dtype inside rounds there, in 64 bits too. The oracle
        may; the rule may as far as the caller's own dtypes do.
        """
        if self.work is NATIVE:
            return max(self.native_eps, self.narrowest(self.truth, NATIVE))
        rule = min(self.narrowest(self.hand, WIDE), self.native_eps)
        return max(self.narrowest(self.truth, WIDE) if self.has_oracle else 0.0, rule)

    @property
    def floor(self) -> float:
        """The error, relative to its leaf's scale, that is put down to rounding."""
        if self.work is NATIVE:
            return max(FLOOR_64, 32 * self.work_eps)
        least = FLOOR_64 if self.native_eps <= epsilon(np.float64) else FLOOR_32
        return least if self.work_eps <= epsilon(np.float64) else max(least, 32 * self.work_eps)

    @functools.cache  # noqa: B019  (a case lives as long as its check)
    def out_types(self, mode: Mode) -> tuple[Any, ...]:
        """Shapes and dtypes of the float outputs."""
        with mode.context():
            outs, _ = jax.eval_shape(
                self.hand, mode.cast(self.values, self.subject.values), self.subject.others
            )
        return tuple(outs)

    def cotangent(self, number: int) -> Arrays:
        """A random cotangent: sizes from 1/2 to 2, either sign, of 8 bits."""
        rng = self.rng(1, number)
        found = []
        for t in self.out_types(NATIVE):
            parts = [drawn(rng, t.shape) for _ in range(2)]
            is_complex = jnp.issubdtype(t.dtype, jnp.complexfloating)
            found.append(parts[0] + 1j * parts[1] if is_complex else parts[0])
        return found

    def cast_g(self, g: Arrays, mode: Mode) -> Arrays:
        """A cotangent in the dtypes that the outputs have in `mode`."""
        return [narrowed(x, t.dtype) for x, t in zip(g, self.out_types(mode), strict=True)]

    def at_args(self, mode: Mode) -> tuple[Arrays, Arrays, Arrays]:
        """What a pulled program takes: the caller's arguments and the cotangent, in `mode`."""
        values = mode.cast(self.values, self.subject.values)
        return values, self.subject.others, self.cast_g(self.g, mode)

    def _run(self, program: Program, values: Arrays, g: Arrays, mode: Mode, others: Any) -> Any:
        return program(
            mode,
            mode.cast(values, self.subject.values),
            self.subject.others if others is None else others,
            self.cast_g(g, mode),
        )

    def by_hand(
        self, values: Arrays, g: Arrays, mode: Mode | None = None, others: Any = None
    ) -> Arrays:
        """The rule's gradients, in 64 bits after they were computed in `mode`."""
        found = self._gradients(self.pull_hand, values, g, mode or self.work, others)
        return [widened(x) for x in found[1]]

    def by_truth(
        self, values: Arrays, g: Arrays, mode: Mode | None = None, others: Any = None
    ) -> Arrays:
        """The oracle's gradients."""
        found = self._gradients(self.oracle, values, g, mode or self.work, others)
        return [widened(x) for x in found[1]]

    def outputs_by_hand(self, mode: Mode) -> tuple[Arrays, Arrays]:
        """The outputs, floats and others, that the rule's forward pass gives at the arguments."""
        outs, _, rest = self.hand_at_args(mode)
        if not self.large:
            return outs, rest
        outs, _, rest = self._run(self.pull_hand, self.values, self.g, mode, None)
        return outs, rest

    def hand_at_args(self, mode: Mode) -> Any:
        """Outputs, gradients and other outputs of the rule, at the caller's arguments.

        Of a large case's outputs there is the largest number of each.
        """
        return self._at_args(self.pull_hand, mode)

    def truth_at_args(self, mode: Mode) -> Any:
        """The same of the oracle."""
        return self._at_args(self.oracle, mode)

    def _at_args(self, program: Program, mode: Mode) -> Any:
        found = self._kept.get((program, mode))
        if found is None:
            found = self._gradients(program, self.values, self.g, mode, None)
            if mode is WIDE or not self.large:
                self._kept[program, mode] = found
        return found

    def _gradients(
        self, program: Program, values: Arrays, g: Arrays, mode: Mode, others: Any
    ) -> Any:
        """As `_run`; of a large case with the largest number of each output in its place."""
        if not self.large:
            return self._run(program, values, g, mode, others)
        if (program, mode) not in self._lean:
            run = functools.partial(lean, program, mode)
            self._lean[program, mode] = Program(run, lambda: self.calls_host)
        others = self.subject.others if others is None else others
        if mode is not WIDE:
            values, g = mode.cast(values, self.subject.values), self.cast_g(g, mode)
        return self._lean[program, mode](mode, values, others, g)

    @functools.cached_property
    def outputs(self) -> Arrays:
        """The function's float outputs at the caller's arguments, in the work mode."""
        if self.reverse:
            return list(self.hand_at_args(self.work)[0])
        mode = self.work
        return list(
            self.forward(mode, mode.cast(self.values, self.subject.values), self.subject.others)[0]
        )

    @property
    def size(self) -> int:
        """How many numbers go in and come out."""
        return int(sum(v.size for v in self.values) + sum(x.size for x in self.g))

    def choose_mode(self) -> None:
        """Find out whether there is an oracle, a witness, and whether it runs in float64."""
        self._choose_mode()
        left = [
            r
            for r in (self.rules_of(self.truth) if self.has_oracle else None) or []
            if r.foreign and r.kind in DERIVATIVES
        ]
        self.witness = self.has_oracle and not left
        if not left:
            return
        said = ", ".join(dict.fromkeys(f"{r.name} ({r.kind})" for r in left))
        self.why_no_witness = (
            f"the hand-written rule of {said} is in what JAX would differentiate too"
        )
        same = self.program(self.hand) == self.program(self.truth)
        if same:
            self.has_oracle, self.oracle = False, self.pull_hand
            self.why_no_oracle = self.why_no_witness
        elif self.declared:
            self.witness = True  # the caller's word for it

    def _choose_mode(self) -> None:
        try:
            self.truth_at_args(WIDE)
            self._hand_runs(WIDE)
            self.has_oracle, self.work = True, WIDE
            return
        except Exception as e:
            self.why_native = f"{type(e).__name__}: {first_line(e)}"
        try:
            self.truth_at_args(NATIVE)
            self.has_oracle = True
        except Exception as e:
            self.why_no_oracle = f"{type(e).__name__}: {first_line(e)}"
            self.oracle = self.pull_hand
            try:
                self._hand_runs(WIDE)
                self.work = WIDE
            except Exception:
                self.work = NATIVE

    def _hand_runs(self, mode: Mode) -> None:
        if self.reverse:
            self.hand_at_args(mode)
        else:
            self.forward(mode, mode.cast(self.values, self.subject.values), self.subject.others)


def first_line(e: BaseException) -> str:
    """The first line of an exception's message."""
    return next(iter(str(e).strip().splitlines()), "")
