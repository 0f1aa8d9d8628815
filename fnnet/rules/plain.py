"""`plain(f)`: f with every custom derivative rule removed, so that JAX's own rules apply."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax.extend import core

from fnnet.rules.arguments import is_array
from fnnet.rules.jaxpr import Closed, Equation, bind, opened, run
from fnnet.rules.origin import is_foreign_class, is_foreign_primitive
from fnnet.rules.wrapper import Wrapper

P = ParamSpec("P")
R = TypeVar("R")

# primitive -> the parameter that holds the function as it was written, without its rule
_CUSTOM = {
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vmap_call": "call",
    "linear_call": "callee",
}

# JAX 0.12 has these as classes, all under the primitive `call_hi_primitive`: a custom rule that is
# batched as a whole, and `jax.lax.custom_root`, which was a `custom_jvp` before
_CUSTOM_CLASSES = frozenset({"CustomVJPTraced", "CustomJVPTraced", "CustomRoot"})


def plain(f: Callable[P, R]) -> Callable[P, R]:
    """Remove every hand-written derivative rule from `f`, at any depth.

    Those of `jax.custom_vjp`, `custom_jvp`, `custom_gradient`, `custom_vmap`, `linear_call` and
    `custom_root`, of hijax primitives (`jax.experimental.hijax`; what `expand` computes is left),
    and of primitives that somebody else than JAX made, if their implementation can be traced.

    The returned function computes the same values, by the same operations; any derivative of it is
    JAX's own. So ``jax.grad(f)`` against ``jax.grad(plain(f))`` compares manual with automatic
    gradients of a whole model, and `jax.jvp`, `jax.jacfwd` and `jax.linearize` work on ``plain(f)``
    where a `custom_vjp` refuses them; so does `jax.linear_transpose`, for which JAX's error names
    no function ("Transpose rule ... for 'custom_vjp_call' not implemented"). Rules are found under
    jit, scan, while, cond, switch, checkpoint, vmap, shard_map, and inside the functions of other
    rules.

    JAX's own custom rules go too, and some are there for a reason: ``plain(jax.nn.relu)`` has the
    derivative of ``jnp.maximum(x, 0)``, 1/2 at 0, and that of ``plain(jnp.logaddexp)`` is wrong
    where the two arguments are equal.

    A derivative that `f` takes itself is no function with a rule any more, but the rule's result:
    ``plain(jax.grad(g))``, or ``plain`` of a training step, keeps the hand-written rules of `g`.
    Write ``jax.grad(plain(g))``. Likewise for a linear solver (`jax.lax.custom_linear_solve`),
    which transposes the function it is given: give it ``plain`` of that. What such a solver is told
    about its transpose (`transpose_solve`) stays too, and so does a primitive without an
    implementation in JAX.

    Args:
        f: a function of pytrees of arrays. Arguments that are not arrays (numbers, strings,
            functions, shapes) are passed to `f` as they are.

    Returns:
        A function with the signature of `f`, which pickles where `f` does. It traces `f` at every
        call: put `jax.jit` around it, not inside it, when it is called often.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnnet import plain
        >>> @jax.custom_vjp
        ... def square(x):
        ...     return x * x
        >>> square.defvjp(lambda x: (x * x, x), lambda x, g: (3 * x * g,))  # a wrong rule
        >>> float(jax.grad(square)(1.0)), float(jax.grad(plain(square))(1.0))
        (3.0, 2.0)
    """

    def without_rules(*args: P.args, **kwargs: P.kwargs) -> R:
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
            out, out_tree = jax.tree.flatten(f(*args_, **kwargs_))
            return [x for x in out if isinstance(x, jax.core.Tracer)]

        values = [leaves[i] for i in arrays]
        inner, consts = opened(_traced(f, of_arrays, values))
        found = iter(run(inner, consts, values, _equation))
        # what was computed; a constant that `f` returns (a number, a NumPy array) stays what it is
        out = [_array(next(found)) if isinstance(x, jax.core.Tracer) else x for x in out]
        return jax.tree.unflatten(out_tree, out)  # type: ignore[no-any-return]

    return Wrapper(f, without_rules, plain)


def _traced(f: Callable[..., Any], of_arrays: Callable[..., Any], values: Sequence[Any]) -> Any:
    try:
        return jax.make_jaxpr(of_arrays)(*values)
    except NotImplementedError as e:
        # the second where custom_vjp is one of JAX 0.12's classes (JAX_CUSTOM_VJP3)
        if "custom_vjp_call" not in str(e) and "must implement `transpose`" not in str(e):
            raise
        name = getattr(f, "__name__", "f")
        raise NotImplementedError(
            f"plain: {name} transposes a function that has a derivative rule (a linear solver or "
            "jax.linear_transpose does), and that while it is traced, before its rules can be "
            f"removed. Give that function there without rules: plain(g) for the g that {name} "
            "transposes"
        ) from e


def _array(x: Any) -> jax.Array:
    """A result as an array: what depends on no argument is a literal of the jaxpr."""
    return x if isinstance(x, jax.Array) else jnp.asarray(x)


def _equation(eqn: Equation, values: list[Any]) -> Sequence[Any]:
    """Run `eqn` without the custom rules in it."""
    if (name := eqn.primitive.name) in _CUSTOM:
        inner, consts = opened(eqn.params[_CUSTOM[name]])
        return run(inner, consts, values, _equation)
    if _is_custom_class(eqn) or _is_hijax(eqn):
        inner, consts = opened(jax.make_jaxpr(functools.partial(_expanded, eqn))(*values))
        return run(inner, consts, values, _equation)
    if _is_foreign(eqn):
        traced = _implementation(eqn, values)
        if traced is None:
            return bind(eqn, values)
        inner, consts = opened(traced)
        return run(inner, consts, values, _equation)
    if not _has_rule(eqn):
        return bind(eqn, values)
    if name == "shard_map":
        return _shard_map(eqn, values)
    if _is_checkpoint_class(eqn):
        return _checkpoint(eqn, values)
    return bind(eqn, values, **{k: _stripped(p) for k, p in eqn.params.items() if _jaxprs(p)})


def _is_custom_class(eqn: Equation) -> bool:
    """Whether `eqn` is a rule as a class: JAX's own, or somebody's hijax primitive."""
    prim: Any = eqn.params.get("_prim")
    while type(prim).__name__ == "VmapOf":  # JAX 0.10's class for one under vmap
        prim = prim.prim
    return prim is not None and (type(prim).__name__ in _CUSTOM_CLASSES or is_foreign_class(prim))


def _is_foreign(eqn: Equation) -> bool:
    return "_prim" not in eqn.params and is_foreign_primitive(eqn.primitive)


def _is_hijax(eqn: Equation) -> bool:
    """Whether `eqn` is somebody's primitive of hijax's older kind, with ``to_lojax``."""
    return _is_foreign(eqn) and is_foreign_class(eqn.primitive) and _lowered(eqn) is not None


def _lowered(eqn: Equation) -> Callable[..., Any] | None:
    return getattr(eqn.primitive, "to_lojax", None)


def _implementation(eqn: Equation, values: Sequence[Any]) -> Any:
    """What a primitive that is not JAX's computes, traced; None where that cannot be traced."""
    if eqn.effects:
        return None

    def computed(*args: Any) -> Any:
        return jax.tree.leaves(eqn.primitive.impl(*args, **eqn.params))

    try:
        traced = jax.make_jaxpr(computed)(*values)
    except Exception:  # NumPy, C++, or nothing at all
        return None
    # one whose implementation is to bind it: what it computes is known when it is lowered only
    return None if _binds(opened(traced)[0], eqn.primitive) else traced


def _binds(jaxpr: Any, primitive: Any) -> bool:
    return any(
        eqn.primitive is primitive
        or any(
            _binds(opened(inner)[0], primitive) for p in eqn.params.values() for inner in _jaxprs(p)
        )
        for eqn in jaxpr.eqns
    )


def _is_checkpoint_class(eqn: Equation) -> bool:
    """Whether `eqn` is `jax.checkpoint`, where that is one of JAX 0.12's classes (JAX_REMAT3)."""
    return type(eqn.params.get("_prim")).__name__ == "RematTraced"


def _checkpoint(eqn: Equation, values: list[Any]) -> Sequence[Any]:
    """Call `jax.checkpoint` anew, on the function in it without rules."""
    prim = eqn.params["_prim"]
    inner, consts = opened(prim.jaxpr)

    def body(*args: Any) -> tuple[Any, ...]:
        return tuple(run(inner, consts, args, _equation))

    again = jax.checkpoint(body, policy=prim.policy, prevent_cse=prim.prevent_cse)
    return again(*values)  # type: ignore[no-any-return]


def _expanded(eqn: Equation, *values: Any) -> list[Any]:
    """The function as it was written, of an equation that is of a custom class."""
    if lowered := None if "_prim" in eqn.params else _lowered(eqn):
        return jax.tree.leaves(lowered(*values, **eqn.params))
    prim = eqn.params["_prim"]
    return jax.tree.leaves(prim.expand(*jax.tree.unflatten(prim.in_tree, values)))


def _stripped(param: Any) -> Any:
    """The parameter of an equation with each jaxpr in it traced again, without rules."""
    if isinstance(param, (Closed, core.Jaxpr)):
        inner, consts = opened(param)
        avals = [v.aval for v in inner.invars]
        closed = jax.make_jaxpr(lambda *args: run(inner, consts, args, _equation))(*avals)
        if isinstance(param, Closed):
            return closed
        # an open jaxpr cannot hold constants, and this one had none to begin with
        return closed.jaxpr
    stripped = [_stripped(p) if _jaxprs(p) else p for p in param]
    return type(param)(*stripped) if hasattr(param, "_fields") else type(param)(stripped)


def _shard_map(eqn: Equation, values: list[Any]) -> Sequence[Any]:
    """Call `jax.shard_map` anew: only inside it are the mesh's axis names bound."""
    p = eqn.params
    inner, consts = opened(p["jaxpr"])

    def body(*args: Any) -> tuple[Any, ...]:
        return tuple(run(inner, consts, args, _equation))

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


def _jaxprs(param: Any) -> list[Any]:
    """The jaxprs held by one parameter of an equation."""
    if isinstance(param, (Closed, core.Jaxpr)):
        return [param]
    if isinstance(param, (tuple, list)):
        return [p for p in param if isinstance(p, (Closed, core.Jaxpr))]
    return []


def _has_rule(eqn: Equation) -> bool:
    """Whether a custom rule is in `eqn` or in a function it calls, at any depth."""
    if eqn.primitive.name in _CUSTOM or _is_custom_class(eqn) or _is_foreign(eqn):
        return True
    params = eqn.params["_prim"].params if _is_checkpoint_class(eqn) else eqn.params
    return any(
        _has_rule(inner)
        for param in params.values()
        for jaxpr in _jaxprs(param)
        for inner in opened(jaxpr)[0].eqns
    )
