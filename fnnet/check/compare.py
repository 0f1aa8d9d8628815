"""`compare_gradients`: a whole model's manual gradients against automatic ones, leaf by leaf."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from fnnet.check.case import settings
from fnnet.check.case.case import Terms
from fnnet.check.case.made import make_case, seed_of
from fnnet.check.case.modes import NATIVE
from fnnet.check.oracle import further
from fnnet.check.oracle.evidence import Evidence
from fnnet.check.questions import contract, differences, reverse, value, which_rule
from fnnet.check.report.report import Report
from fnnet.check.verify import make_report, nothing_to_ask


def compare_gradients(
    loss: Callable[..., Any], *args: Any, key: Any = None, allow_no_rule: bool = False
) -> Report:
    """``jax.grad(loss)`` against ``jax.grad(plain(loss))``, leaf by leaf.

    In float64, elementwise, and again in the arguments' own dtypes. It asks less than `check_vjp`
    and is meant for losses of whole models.

    Args:
        loss: a function of pytrees of arrays that returns one real number.
        args: its arguments; the gradient is taken with respect to every float or complex array.
        key: a `jax.random.key` or an int, for the arbiter's draws.
        allow_no_rule: whether a loss without any hand-written rule may be "correct"; by default it
            is "undecidable", as autodiff is compared with itself then.

    Returns:
        A `Report` with a finding for every leaf, named by its path.

    Raises:
        TypeError: if `loss` does not return one real number.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnnet import lin, mse, relu
        >>> from fnnet.check import compare_gradients
        >>> def loss(params, x, y):
        ...     return mse(relu(lin(x, params["w"], params["b"])), y)
        >>> params = {"w": jnp.linspace(-1, 1, 6).reshape(3, 2), "b": jnp.zeros(2)}
        >>> report = compare_gradients(loss, params, jnp.ones((4, 3)), jnp.ones((4, 2)))
        >>> report.verdict, report.findings[1].arg
        ('correct', "params['b']")
    """
    with settings.native(), settings.quiet():
        terms = Terms(allow_no_rule=allow_no_rule)
        case = make_case(loss, args, None, seed_of(key), None, terms)
        if not case.values:
            return nothing_to_ask(case)
        outs = case.out_types(NATIVE)
        if [t.shape for t in outs] != [()] or jnp.issubdtype(outs[0].dtype, jnp.complexfloating):
            got = ", ".join(f"{t.dtype}{list(t.shape)}" for t in outs)
            raise TypeError(
                f"compare_gradients: {case.subject.name} must return one real number; "
                f"it returned {got or 'no float at all'}. For other functions use check_vjp"
            )
        case.g = [g / g for g in case.g]
        findings = contract.ask(case)
        if all(f.verdict != "wrong" for f in findings):
            findings += contract.runs(case)
        if not any(f.verdict == "wrong" and f.diagnosis != "dtype" for f in findings):
            case.settle_mode()
            further.measure(case)
            evidence = Evidence(case)
            if case.reverse:
                findings += [*reverse.ask(evidence), *value.ask(evidence)]
                if not case.witness:
                    findings += differences.ask(evidence)
            if which_rule.rule_names(case) == []:
                findings.append(which_rule.no_rule(case))
        return make_report(case, findings)
