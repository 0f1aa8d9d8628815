"""A traced function run again with some of its equations replaced, at any depth.

`plain` and `both_modes` both look for the functions with a derivative rule of their own in what was
traced, and run something else in their place: inside jit, scan, while, cond, switch, checkpoint,
vmap and shard_map, and inside each other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.extend import core

from fnnet.rules.arguments import is_array
from fnnet.rules.devices import gathered_p
from fnnet.rules.jaxpr import Closed, Equation, bind, opened, run
from fnnet.rules.origin import is_foreign_class, is_foreign_primitive

R = TypeVar("R")
Values = Sequence[Any]

# primitive -> the parameter that holds the function as it was written, without its rule
_REVERSE = {"custom_vjp_call": "call_jaxpr", "custom_vjp_call_jaxpr": "fun_jaxpr"}
_OTHERS = {
    "custom_jvp_call": "call_jaxpr",
    "custom_vmap_call": "call",
    "linear_call": "callee",
    "both_modes": "call_jaxpr",  # this package's own
}

# JAX 0.12 has these as classes, all under the primitive `call_hi_primitive`: a custom rule that is
# batched as a whole, and `jax.lax.custom_root`, which was a `custom_jvp` before
_REVERSE_CLASSES = frozenset({"CustomVJPTraced"})
_OTHER_CLASSES = frozenset({"CustomJVPTraced", "CustomRoot"})

_COMPUTED = object()


def has_reverse_rule(eqn: Equation) -> bool:
    """Whether `eqn` calls a function with a `jax.custom_vjp` rule."""
    return eqn.primitive.name in _REVERSE or _class_of(eqn) in _REVERSE_CLASSES


def has_rule(eqn: Equation) -> bool:
    """Whether `eqn` calls a function with a rule of any kind, or is of somebody's hijax class."""
    kind = _class_of(eqn)
    is_other = eqn.primitive.name in _OTHERS or kind in _OTHER_CLASSES
    return is_other or has_reverse_rule(eqn) or (kind is not None and is_foreign_class(_prim(eqn)))


def is_foreign(eqn: Equation) -> bool:
    """Whether `eqn` is of a primitive that is not JAX's, and no class.

    `gathered` is not counted: it has no rule to be removed, and is needed where XLA would err.
    """
    if eqn.primitive is gathered_p:
        return False
    return "_prim" not in eqn.params and is_foreign_primitive(eqn.primitive)


def is_hijax(eqn: Equation) -> bool:
    """Whether `eqn` is somebody's primitive of hijax's older kind, with ``to_lojax``."""
    return is_foreign(eqn) and is_foreign_class(eqn.primitive) and _lowered(eqn) is not None


def _lowered(eqn: Equation) -> Callable[..., Any] | None:
    own = getattr(type(eqn.primitive), "to_lojax", None)
    if own is getattr(core.Primitive, "to_lojax", None):  # that of a class that has none, raises
        return None
    return getattr(eqn.primitive, "to_lojax", None)


class Rewrite(NamedTuple):
    """What is looked for, and what is done where it is found.

    Attributes:
        is_found: whether an equation is to be replaced.
        replaced: what is run in its place: equation, its inputs' values -> its outputs' values.
    """

    is_found: Callable[[Equation], bool]
    replaced: Callable[[Equation, list[Any]], Values]

    def run(self, jaxpr: Any, consts: Values, args: Values) -> list[Any]:
        """Evaluate `jaxpr` at `args`, rewritten."""
        return run(jaxpr, consts, args, self.equation)

    def equation(self, eqn: Equation, values: list[Any]) -> Values:
        """Run one equation, rewritten."""
        if self.is_found(eqn):
            return self.replaced(eqn, values)
        if not self.is_in(eqn):
            return bind(eqn, values)
        if eqn.primitive.name == "shard_map":
            return self._shard_map(eqn, values)
        if _class_of(eqn) == "RematTraced":
            return self._checkpoint(eqn, values)
        return bind(eqn, values, **{k: self._param(p) for k, p in eqn.params.items() if jaxprs(p)})

    def is_in(self, eqn: Equation) -> bool:
        """Whether what is looked for is in `eqn`, or in a function it calls, at any depth."""
        if self.is_found(eqn):
            return True
        kind = _class_of(eqn)
        if kind not in (None, "RematTraced"):
            return False
        params = eqn.params["_prim"].params if kind else eqn.params
        return any(
            self.is_in(inner)
            for param in params.values()
            for jaxpr in jaxprs(param)
            for inner in opened(jaxpr)[0].eqns
        )

    def _param(self, param: Any) -> Any:
        """The parameter of an equation with each jaxpr in it traced again, rewritten."""
        if isinstance(param, (Closed, core.Jaxpr)):
            inner, consts = opened(param)
            avals = [v.aval for v in inner.invars]
            closed = jax.make_jaxpr(lambda *args: self.run(inner, consts, args))(*avals)
            if isinstance(param, Closed):
                return closed
            # an open jaxpr cannot hold constants, and this one had none to begin with
            return closed.jaxpr
        rewritten = [self._param(p) if jaxprs(p) else p for p in param]
        return type(param)(*rewritten) if hasattr(param, "_fields") else type(param)(rewritten)

    def _checkpoint(self, eqn: Equation, values: list[Any]) -> Values:
        """Call `jax.checkpoint` anew, on the function in it, rewritten."""
        prim = eqn.params["_prim"]
        inner, consts = opened(prim.jaxpr)

        def body(*args: Any) -> tuple[Any, ...]:
            return tuple(self.run(inner, consts, args))

        again = jax.checkpoint(body, policy=prim.policy, prevent_cse=prim.prevent_cse)
        return again(*values)  # type: ignore[no-any-return]

    def _shard_map(self, eqn: Equation, values: list[Any]) -> Values:
        """Call `jax.shard_map` anew: only inside it are the mesh's axis names bound."""
        p = eqn.params
        inner, consts = opened(p["jaxpr"])

        def body(*args: Any) -> tuple[Any, ...]:
            return tuple(self.run(inner, consts, args))

        mapped = jax.shard_map(
            body,
            mesh=p["mesh"],
            in_specs=p["in_specs"],
            out_specs=tuple(p["out_specs"]),
            check_vma=p["check_vma"],
            axis_names=p["newly_manual_axes"],
        )
        with eqn.ctx.manager:
            return mapped(*values)


def as_written(eqn: Equation, values: Values) -> tuple[Any, Values]:
    """The function that a custom rule is for, as its jaxpr and constants."""
    for params in (_REVERSE, _OTHERS):
        if eqn.primitive.name in params:
            return opened(eqn.params[params[eqn.primitive.name]])
    return opened(jax.make_jaxpr(functools.partial(_expanded, eqn))(*values))


def _expanded(eqn: Equation, *values: Any) -> list[Any]:
    """What an equation that is one of hijax's classes stands for."""
    if lowered := None if "_prim" in eqn.params else _lowered(eqn):
        return jax.tree.leaves(lowered(*values, **eqn.params))
    prim = eqn.params["_prim"]
    return jax.tree.leaves(prim.expand(*jax.tree.unflatten(prim.in_tree, values)))


def through_arrays(
    f: Callable[..., R],
    args: Any,
    kwargs: Any,
    again: Callable[[Callable[..., list[Any]], list[Any]], Values],
) -> R:
    """``f(*args, **kwargs)`` as `again` runs it: ``again(of_arrays, arrays) -> values``.

    Arguments that are not arrays reach `f` as they are. So does what `f` returns and did not
    compute: a number or a NumPy array stays what it is.
    """
    leaves, tree = jax.tree.flatten((args, kwargs))
    arrays = [i for i, leaf in enumerate(leaves) if is_array(leaf)]
    out: list[Any] = []
    out_tree: Any = None

    def of_arrays(*values: Any) -> list[Any]:
        nonlocal out, out_tree
        full = list(leaves)
        for i, value in zip(arrays, values, strict=True):
            full[i] = value
        args_, kwargs_ = jax.tree.unflatten(tree, full)
        found, out_tree = jax.tree.flatten(f(*args_, **kwargs_))
        # what is traced belongs to the trace, which ends here
        out = [_COMPUTED if isinstance(x, jax.core.Tracer) else x for x in found]
        return [x for x in found if isinstance(x, jax.core.Tracer)]

    found = iter(again(of_arrays, [leaves[i] for i in arrays]))
    out = [as_array(next(found)) if x is _COMPUTED else x for x in out]
    return jax.tree.unflatten(out_tree, out)  # type: ignore[no-any-return]


def traced(
    caller: str, f: Callable[..., Any], of_arrays: Callable[..., Any], values: Values
) -> Any:
    """The jaxpr of `of_arrays`, which calls `f`, for `caller`, which looks for rules in it."""
    try:
        return jax.make_jaxpr(of_arrays)(*values)
    except NotImplementedError as e:
        # the second where custom_vjp is one of JAX 0.12's classes (JAX_CUSTOM_VJP3)
        if "custom_vjp_call" not in str(e) and "must implement `transpose`" not in str(e):
            raise
        name = getattr(f, "__name__", "f")
        raise NotImplementedError(
            f"{caller}: {name} transposes a function that has a derivative rule (a linear solver "
            "or jax.linear_transpose does), and that while it is traced, before its rules can be "
            f"replaced. Give that function there as {caller}(g), for the g that {name} transposes"
        ) from e


def as_array(x: Any) -> jax.Array:
    """A result as an array: what depends on no argument is a literal of the jaxpr."""
    return x if isinstance(x, jax.Array) else jnp.asarray(x)


def _prim(eqn: Equation) -> Any:
    """The primitive that is an object of one of hijax's classes; None if it is none."""
    prim: Any = eqn.params.get("_prim")
    while type(prim).__name__ == "VmapOf":  # JAX 0.10's class for one under vmap
        prim = prim.prim
    return prim


def _class_of(eqn: Equation) -> str | None:
    """The name of its class."""
    prim = _prim(eqn)
    return None if prim is None else type(prim).__name__


def jaxprs(param: Any) -> list[Any]:
    """The jaxprs held by one parameter of an equation."""
    if isinstance(param, (Closed, core.Jaxpr)):
        return [param]
    if isinstance(param, (tuple, list)):
        return [p for p in param if isinstance(p, (Closed, core.Jaxpr))]
    return []
