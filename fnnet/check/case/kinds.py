"""Which hand-written rules are in a traced function, of what kind, and who wrote them."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from fnnet.check.case.host import equations
from fnnet.rules.devices import gathered_p
from fnnet.rules.origin import files_of, is_foreign, is_foreign_class, is_foreign_primitive

HIJAX, PRIMITIVE, LINEAR_SOLVE = "hijax primitive", "primitive", "custom_linear_solve"

# primitives that hold what somebody wrote in place of, or beside, a derivative
_KINDS = {
    "custom_vjp_call": "custom_vjp",
    "custom_vjp_call_jaxpr": "custom_vjp",
    "custom_jvp_call": "custom_jvp",
    "custom_vmap_call": "custom_vmap",
    "linear_call": "linear_call",
    "pure_callback": "pure_callback",  # and not one that only looks: jax.debug.print
    "pallas_call": "pallas_call",
    "ffi_call": "ffi_call",
    "remat_opt": "custom_vjp",  # what optimize_remat leaves of one that is differentiated
}
# JAX's classes under the primitive call_hi_primitive that are custom rules of somebody's
_CLASSES = {
    "CustomVJPTraced": "custom_vjp",
    "CustomJVPTraced": "custom_jvp",
    "OptRemat": "custom_vjp",
    "CustomRoot": "custom_root",
}
# those whose derivative is written by hand
DERIVATIVES = frozenset(
    ("custom_vjp", "custom_jvp", "custom_root", "linear_call", LINEAR_SOLVE, HIJAX, PRIMITIVE)
)
# those that say themselves what becomes of them under vmap
BATCHED = frozenset(
    ("custom_vmap", "pallas_call", "ffi_call", "pure_callback", LINEAR_SOLVE, HIJAX, PRIMITIVE)
)


@dataclasses.dataclass(frozen=True)
class Rule:
    """A rule in a traced function.

    Attributes:
        name: of the function that it belongs to, as far as it is known.
        kind: what it is written with.
        foreign: whether it was written outside of JAX.
        symbolic_zeros: whether it is told which arguments and cotangents are there.
        accumulates: whether it may add its cotangents to what is there itself.
    """

    name: str
    kind: str
    foreign: bool
    symbolic_zeros: bool = False
    accumulates: bool = False


def rules_in(jaxpr: Any) -> list[Rule]:
    """Every rule in a traced function, at any depth, each name and kind once."""
    return list(dict.fromkeys(r for eqn in equations(jaxpr) if (r := rule_of(eqn))))


def rule_of(eqn: Any) -> Rule | None:
    """The rule that an equation is, or None."""
    primitive, params = eqn.primitive, eqn.params
    if (prim := params.get("_prim")) is not None:
        return _of_class(prim)
    name = primitive.name
    if primitive is gathered_p:  # the identity, with nobody's derivative
        return None
    if is_foreign_primitive(primitive):
        kind = (
            HIJAX if hasattr(primitive, "to_lojax") and is_foreign_class(primitive) else PRIMITIVE
        )
        return Rule(name, kind, foreign=True, symbolic_zeros=True)
    if name == LINEAR_SOLVE:
        solvers = [params["jaxprs"].solve, params["jaxprs"].transpose_solve]
        return Rule(_called(params["jaxprs"].solve) or name, name, is_foreign(*solvers))
    if name not in _KINDS:
        return None
    kind = _KINDS[name]
    called = params.get("name") or _called(
        params.get("call_jaxpr") or params.get("fun_jaxpr") or params.get("call")
    )
    symbolic = bool(params.get("symbolic_zeros"))
    if kind not in DERIVATIVES:
        return Rule(str(called or name), kind, True, symbolic)
    if any(os.path.basename(path) == "solves.py" for path in files_of(*params.values())):
        return Rule("custom_root", "custom_root", foreign=True)  # of JAX 0.10: a custom_jvp
    adds = hasattr(getattr(params.get("bwd"), "f", None), "call_with_accums")
    return Rule(str(called or name), kind, is_foreign(*params.values()), symbolic, adds)


def _of_class(prim: Any) -> Rule | None:
    inner = getattr(prim, "prim", None)  # JAX 0.10's class for one under vmap
    if type(prim).__name__ == "VmapOf" and inner is not None:
        return _of_class(inner)
    name = type(prim).__name__
    if kind := _CLASSES.get(name):
        traced = getattr(getattr(prim, "traced", None), "fun_name", None)
        foreign = kind == "custom_root" or is_foreign(*prim.params.values())
        symbolic = bool(getattr(prim, "symbolic_zeros", False))
        adds = getattr(prim, "bwd_accums", None) is not None
        return Rule(str(traced or kind), kind, foreign, symbolic, adds)
    if is_foreign_class(prim):
        return Rule(name, HIJAX, foreign=True, symbolic_zeros=True, accumulates=True)
    return None


def _called(inner: Any) -> str | None:
    info = getattr(inner, "debug_info", None) or getattr(
        getattr(inner, "jaxpr", None), "debug_info", None
    )
    return getattr(info, "func_name", None)
