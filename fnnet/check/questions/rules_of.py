"""What a `jax.custom_vjp` object's own two functions return, before JAX completes it."""

from __future__ import annotations

import jax
from jax import dtypes

from fnnet.check.case.case import Case
from fnnet.check.case.finding import Detail, Finding
from fnnet.check.case.modes import NATIVE
from fnnet.check.case.subject import is_float


def raw_cotangents(case: Case) -> list[Finding]:
    """Cotangents that JAX silently drops or spreads; notes, as the gradient is the same.

    A float for an integer argument is dropped. One array for a whole tree of arguments is given to
    each of its leaves: whether that is right, the values tell.
    """
    f = case.f
    if not (hasattr(f, "fwd") and hasattr(f, "bwd")) or getattr(f, "nondiff_argnums", None):
        return []
    args, kwargs = case.subject.arguments()
    if kwargs or getattr(f, "symbolic_zeros", False):
        return []
    with NATIVE.context():
        try:
            arrays = list(args)
            out, res = jax.eval_shape(f.fwd, *arrays)
            cts = jax.eval_shape(f.bwd, res, out)
        except Exception:
            return []  # its error, if it is one, was met where the rule runs
    if not isinstance(cts, (tuple, list)) or len(cts) != len(args):
        return []
    findings = []
    for arg, ct, path in zip(args, cts, case.subject.argument_names, strict=True):
        leaves = jax.tree.leaves(arg)
        given = jax.tree.leaves(ct)
        if any(hasattr(x, "dtype") and not is_float(x) for x in leaves) and len(leaves) == 1:
            if given and given[0].dtype != dtypes.float0:
                words = (
                    f"{path} has no derivative: its cotangent should be None; JAX drops the "
                    f"{given[0].dtype} that the rule gives"
                )
                findings.append(Finding("contract", "correct", path, detail=Detail(words=words)))
        elif given and len(given) < len(leaves) and len(given) == 1:
            words = f"the rule gives one cotangent for all leaves of {path}, and JAX spreads it"
            findings.append(Finding("contract", "correct", path, detail=Detail(words=words)))
    return findings
