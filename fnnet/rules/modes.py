"""A function with a hand-written reverse rule, and JAX's own forward mode beside it.

A `jax.custom_vjp` says how to pull a cotangent back, and JAX then refuses to push a tangent
forward. But a function has both derivatives, of which one is the other's transpose:

    jvp : x, T x  -> y, T y         T y = J(x) T x
    vjp : x, CT y -> CT x           CT x = J(x)ᵀ CT y

So the function that has the rule is called through a primitive of JAX, `both_p`, which stands
around it (`call_jaxpr`) and changes nothing but what differentiation makes of it:

- `both_p`, differentiated in forward mode, is `jvp_p`: y and T y, by JAX's jvp of the function as
  it was written (`form`), in one pass.
- Reverse mode is forward mode of which JAX evaluates in advance what does not depend on tangents,
  and transposes the rest. When it parts `jvp_p` so (it has a rule for that), y and the residuals
  come from the hand-written forward rule, run once, and T y from a linear function of T x
  (`linear`) that keeps those residuals alone and has the hand-written backward rule as its
  transpose. What `jax.grad` stores and computes is therefore what it was before.
- If that linear function is evaluated after all (`jax.linearize`), it is the transpose of the
  backward rule, which is linear too.

Under `jax.checkpoint` JAX parts traced equations, not values: there `jvp_p` opens to a call of its
two parts, so that a policy sees the products of the forward rule.

These are primitives of `jax.extend.core` and not of `jax.experimental.hijax`, which on JAX 0.10
makes every call of a compiled function that has one slow: 155 us where it took 6.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.experimental import jet
from jax.extend import core
from jax.interpreters import ad, batching, mlir, partial_eval

from fnnet.rules.calls import (
    Flags,
    Untraced,
    called,
    describe,
    is_staged,
    merged,
    name_of,
    out_types,
    reached,
    varies,
    where,
    zero_of,
)
from fnnet.rules.jaxpr import Equation, bind, opened, run
from fnnet.rules.linear import Primitive, is_zero, linear, linear_of_trace, mapped
from fnnet.rules.pullback import forward_pass
from fnnet.rules.rewrite import Rewrite, as_written, has_reverse_rule

Form = Callable[..., Sequence[Any]]


class _Calls(Primitive):
    """A primitive that calls `call_jaxpr`; `checkify`, which rewrites that, gives it anew."""

    def bind(self, *args: Any, subfuns: Any = None, **params: Any) -> Any:
        if subfuns:
            return subfuns[0].call_wrapped(*args)
        bind: Any = super().bind
        return bind(*args, **params)


both_p: Any = _Calls("both_modes")
jvp_p: Any = Primitive("both_modes_jvp")


def in_both_modes(
    f: Callable[..., Any], operands: Sequence[Any], *, form: Form | None = None, deep: bool = False
) -> Any:
    """Call `f`, which may have reverse rules in it, through `both_p`.

    Args:
        f: a function of arrays that returns a pytree of arrays.
        operands: the arrays.
        form: of the arrays, the leaves of what `f` returns, as a function that has a forward mode;
            by default `f` without the reverse rules in it.
        deep: whether the rules may call functions with reverse rules that are not called through
            `both_p` themselves. They are looked for then, at the cost of one more trace.
    """
    if not any(is_staged(x) for x in operands):
        untraced = Untraced(f)
        out = both_p.bind(*operands, call_jaxpr=untraced, form=form, deep=deep)
        return jax.tree.unflatten(untraced.tree, out)
    closed, shape = jax.make_jaxpr(f, return_shape=True)(*operands)
    inner, consts = opened(closed)
    if traced := [c for c in consts if isinstance(c, jax.core.Tracer)]:
        # what belongs to a trace outside is one more operand
        is_traced = [isinstance(c, jax.core.Tracer) for c in consts]
        fixed = [c for c, t in zip(consts, is_traced, strict=True) if not t]

        def with_consts(*args: Any) -> list[Any]:
            its = {True: iter(args[: len(traced)]), False: iter(fixed)}
            return run(inner, [next(its[t]) for t in is_traced], args[len(traced) :])

        closed = jax.make_jaxpr(with_consts)(*traced, *operands)
        if form is not None:
            form = functools.partial(_without_first, len(traced), form)
    out = both_p.bind(*traced, *operands, call_jaxpr=closed, form=form, deep=deep)
    return jax.tree.unflatten(jax.tree.structure(shape), out)


def _without_first(n: int, form: Form, *args: Any) -> Sequence[Any]:
    return form(*args[n:])


def _in_both_modes(eqn: Equation, values: list[Any]) -> Sequence[Any]:
    """Call the function with a reverse rule that `eqn` calls through `both_p`."""
    closed = jax.make_jaxpr(lambda *args: bind(eqn, args))(*[v.aval for v in eqn.invars])
    return both_p.bind(*values, call_jaxpr=closed, form=None, deep=True)  # type: ignore[no-any-return]


def _as_written(eqn: Equation, values: list[Any]) -> Sequence[Any]:
    """Run the function that `eqn` calls, without the reverse rules in it."""
    inner, consts = as_written(eqn, values)
    return FORWARD.run(inner, consts, values)


RULED = Rewrite(has_reverse_rule, _in_both_modes)
FORWARD = Rewrite(has_reverse_rule, _as_written)


def _push(*args: Any, nz: Flags, of: Any, form: Form | None, **_: Any) -> list[Any]:
    """x, T x -> y, T y: JAX's jvp, by those operands that `nz` tells have a tangent."""
    primals, tangents = args[: len(nz)], args[len(nz) :]
    if form is None:
        form = functools.partial(_without_rules, of)
    else:
        describe(of, primals)

    def of_some(*some: Any) -> list[Any]:
        return list(form(*merged(nz, some, primals)))

    outs, dots = jax.jvp(of_some, where(nz, primals), list(tangents))
    return [*outs, *where(varies(of, nz), dots)]


def _without_rules(call_jaxpr: Any, *args: Any) -> list[Any]:
    if isinstance(call_jaxpr, Untraced):
        call_jaxpr = jax.make_jaxpr(call_jaxpr)(*args)
    inner, consts = opened(call_jaxpr)
    return FORWARD.run(inner, consts, args)


def _type(*avals: Any, call_jaxpr: Any, **_: Any) -> Any:
    return out_types(call_jaxpr, avals), call_jaxpr.effects


def _push_type(*avals: Any, nz: Flags, of: Any, **_: Any) -> Any:
    outs = out_types(of, avals[: len(nz)])
    dots = [t.to_tangent_aval() for t in where(varies(of, nz), outs)]
    return [*outs, *dots], of.effects


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], *, call_jaxpr: Any, **params: Any) -> Any:
    nz = tuple(not is_zero(t) for t in tangents)
    found = jvp_p.bind(*primals, *where(nz, tangents), nz=nz, of=call_jaxpr, **params)
    varying = varies(call_jaxpr, nz)
    outs, dots = found[: len(varying)], found[len(varying) :]
    return outs, merged(varying, dots, list(map(zero_of, outs)))


def _jvp_of_push(
    primals: Sequence[Any], tangents: Sequence[Any], *, nz: Flags, of: Any, **params: Any
) -> Any:
    n = len(nz)
    if all(map(is_zero, tangents[:n])):  # it is linear in its tangents
        outs = jvp_p.bind(*primals, nz=nz, of=of, **params)
        again = tuple(merged(nz, [not is_zero(t) for t in tangents[n:]], nz))
        some = [t for t in tangents[n:] if not is_zero(t)]
        found = jvp_p.bind(*primals[:n], *some, nz=again, of=of, **params)
        varying, still = varies(of, nz), varies(of, again)
        zeros = list(map(zero_of, outs))
        dots = merged(still, found[len(varying) :], [None] * len(varying))
        pairs = zip(where(varying, dots), zeros[len(varying) :], strict=True)
        return outs, [*zeros[: len(varying)], *(z if d is None else d for d, z in pairs)]
    # the value keeps its rule; its tangent is a function like any other
    outs, out_dots = _jvp(primals[:n], tangents[:n], call_jaxpr=of, **params)
    at = [not is_zero(t) for t in tangents]

    def of_some(*some: Any) -> list[Any]:
        found = _push(*merged(at, some, primals), nz=nz, of=of, **params)
        return found[len(outs) :]

    dots, dot_dots = jax.jvp(of_some, where(at, primals), where(at, tangents))
    return [*outs, *dots], [*out_dots, *dot_dots]


def _part(trace: Any, *tracers: Any, nz: Flags, of: Any, deep: bool, **params: Any) -> Any:
    """Part `jvp_p` into what does not depend on tangents, evaluated here, and a linear function."""
    n = len(nz)
    primals = [t.pval.get_known() for t in tracers[:n]]
    if any(x is None for x in primals) or all(t.is_known() for t in tracers):
        params = {"nz": nz, "of": of, "deep": deep, **params}
        return trace.default_process_primitive(jvp_p, tracers, params)
    outs, res, its = forward_pass(primals, nz, of, RULED if deep else None)
    return [*outs, *linear_of_trace(trace, its.push, its.pull, res, tracers[n:], its.types)]


def _part_equation(saveable: Any, unknown: Any, instantiated: Any, eqn: Equation) -> Any:
    """The same of a traced equation, under `jax.checkpoint`: as that of a call of the two parts."""
    nz = eqn.params["nz"]

    def parts(*args: Any) -> list[Any]:
        primals, xs = args[: len(nz)], args[len(nz) :]
        again = RULED if eqn.params["deep"] else None
        outs, res, its = forward_pass(primals, nz, eqn.params["of"], again)
        return [*outs, *linear(its.push, its.pull, res, xs, its.types)]

    run_it = parts if any(unknown) else functools.partial(_push, **eqn.params)
    with eqn.ctx.manager:
        closed = jax.make_jaxpr(run_it)(*[v.aval for v in eqn.invars])
    call_p = core.primitives.closed_call_p
    call = eqn.replace(primitive=call_p, params={"call_jaxpr": closed})
    rule = partial_eval.partial_eval_jaxpr_custom_rules[call_p]
    return rule(saveable, unknown, instantiated, call)


def _transpose(cts: Sequence[Any], *args: Any, call_jaxpr: Any, **_: Any) -> list[Any]:
    """Of a function that is linear in the arguments asked for: JAX's own transpose of it."""
    asked = [ad.is_undefined_primal(x) for x in args]
    varying = varies(call_jaxpr, asked)

    def of_some(*some: Any) -> list[Any]:
        return where(varying, _without_rules(call_jaxpr, *merged(asked, some, args)))

    some = [x.aval for x in where(asked, args)]
    given = [ad.instantiate_zeros(ct) for ct in where(varying, cts)]
    try:
        found = jax.linear_transpose(of_some, *some)(given)
    except Exception as e:
        raise NotImplementedError(
            f"{name_of(call_jaxpr)}: its transpose is asked for (jax.linear_transpose, a solver), "
            "which JAX has of functions that are linear in those of their arguments. What JAX "
            f"says: {type(e).__name__} {str(e).splitlines()[:1]}"
        ) from e
    return merged(asked, found, [None] * len(args))


def _batch(
    axis: Any, args: Any, dims: Any, *, call_jaxpr: Any, form: Form | None, deep: bool
) -> Any:
    is_mapped = reached(call_jaxpr, [d is not None for d in dims])
    to = [0 if m else None for m in is_mapped]
    f = mapped(axis, functools.partial(called, call_jaxpr=call_jaxpr), tuple(dims), to)
    closed = jax.make_jaxpr(f)(*map(jax.typeof, args))
    if form is not None:
        form = mapped(axis, functools.partial(_listed, form), tuple(dims), to)
    return both_p.bind(*args, call_jaxpr=closed, form=form, deep=deep), to


def _listed(form: Form, *args: Any) -> list[Any]:
    return list(form(*args))


def _batch_push(axis: Any, args: Any, dims: Any, *, nz: Flags, of: Any, **params: Any) -> Any:
    """By JAX's own rules: many tangents at one point are not to compute the value many times."""
    describe(of, args[: len(nz)])
    is_mapped = [d is not None for d in dims]
    by_primals = is_mapped[: len(nz)]
    of_tangents = merged(nz, is_mapped[len(nz) :], [False] * len(nz))
    by_either = [a or b for a, b in zip(by_primals, of_tangents, strict=True)]
    dots = where(varies(of, nz), reached(of, by_either))
    to = [0 if m else None for m in [*reached(of, by_primals), *dots]]
    f = mapped(axis, functools.partial(_push, nz=nz, of=of, **params), tuple(dims), to)
    return f(*args), to


def _taylor(primals: Any, series: Any, *, call_jaxpr: Any, **_: Any) -> Any:
    """The rule of `jax.experimental.jet`."""
    # between rules the terms are those of a power series, without the factorials
    f = functools.partial(_without_rules, call_jaxpr)
    return jet.jet(f, primals, series, factorial_scaled=False)


both_p.def_impl(called)
both_p.def_effectful_abstract_eval(_type)
ad.primitive_jvps[both_p] = _jvp
ad.primitive_transposes[both_p] = _transpose
batching.fancy_primitive_batchers[both_p] = _batch
jet.jet_rules[both_p] = _taylor  # type: ignore[assignment]
mlir.register_lowering(both_p, mlir.lower_fun(called))
jvp_p.def_impl(_push)
jvp_p.def_effectful_abstract_eval(_push_type)
ad.primitive_jvps[jvp_p] = _jvp_of_push
batching.fancy_primitive_batchers[jvp_p] = _batch_push
partial_eval.custom_partial_eval_rules[jvp_p] = _part
partial_eval.partial_eval_jaxpr_custom_rules[jvp_p] = _part_equation
mlir.register_lowering(jvp_p, mlir.lower_fun(_push))
