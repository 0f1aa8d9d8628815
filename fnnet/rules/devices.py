"""What a program becomes for many devices, where it is not known yet on which mesh.

XLA cuts the work of a program over the devices of a mesh of automatic axes. Windows that reach over
the border of two devices need their neighbour's pixels, and there its partitioner (in JAX 0.10.2
and 0.12.0.1) is right while each device holds some windows or more. Where it holds less, XLA
refuses some strides and dilations, ends the process at others, and for some has wrong numbers.

    gathered   : x -> x        an axis in `parts` is cut into so many parts at most, or not at all
    by_devices : args -> outs  one of two forms of a function: for a device alone, or for several

A program is traced before it is known where its arrays lie, so `jax.lax.with_sharding_constraint`,
which wants a mesh, cannot say this. Primitives can: what they become is decided when the program is
lowered, for a number of devices. For one device `gathered` is nothing at all. For more devices than
`parts` it is a constraint that the axis be whole, and the other axes as they are; an axis that no
mesh cuts is whole already. It is linear, and its own transpose. Of `by_devices` each form is
differentiated, transposed and mapped by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
from jax.experimental import jet
from jax.extend import core
from jax.extend.mlir import ir
from jax.extend.mlir.dialects import sdy, stablehlo
from jax.interpreters import ad, batching, mlir

from fnnet.rules.linear import Primitive, is_zero, mapped

Form = Callable[..., Any]
_JET: dict[Any, Any] = jet.jet_rules
Forms = tuple[Form, Form]  # for one device, and for several

gathered_p: Any = core.Primitive("gathered")
by_devices_p: Any = Primitive("by_devices")


def gathered(x: jax.Array, parts: Mapping[int, int]) -> jax.Array:
    """`x`, with no axis in `parts` cut over devices into more parts than told there.

    Example:
        >>> import jax.numpy as jnp
        >>> gathered(jnp.ones((2, 3)), {1: 2}).shape
        (2, 3)
    """
    if not parts:
        return x
    return gathered_p.bind(x, parts=tuple(sorted(parts.items())))  # type: ignore[no-any-return]


def _batch(args: Sequence[Any], dims: Sequence[Any], *, parts: Any) -> tuple[Any, Any]:
    (x,), (d,) = args, dims
    return gathered_p.bind(x, parts=tuple((a + (a >= d), most) for a, most in parts)), d


def _lowered(ctx: Any, x: Any, *, parts: Any) -> list[Any]:
    (aval,), (n, manual) = ctx.avals_in, _devices(ctx)
    whole = [a for a, most in parts if n > max(most, 1)]
    if not whole:
        return [x]
    if not getattr(jax.config, "jax_use_shardy_partitioner", True):
        if manual:  # the older partitioner has no such constraint there
            return [x]
        free = [a for a in range(aval.ndim) if a not in whole]
        call = stablehlo.CustomCallOp(
            [x.type],
            [x],
            call_target_name="Sharding",
            backend_config=ir.StringAttr.get(f"unspecified_dims={free}".replace(" ", "")),
        )
        call.operation.attributes["mhlo.sharding"] = ir.StringAttr.get("{replicated}")
        return [call.result]
    # on a mesh without axes, as whatever mesh x lies on
    parts = [sdy.DimensionShardingAttr.get([], is_closed=a in whole) for a in range(aval.ndim)]
    sharding = sdy.TensorShardingAttr.get(sdy.MeshAttr.get([]), parts)
    return [sdy.ShardingConstraintOp(x, sharding).result]


def _devices(ctx: Any) -> tuple[int, bool]:
    """Over how many devices the program may be cut unasked; whether it is cut by hand as well."""
    around = ctx.module_context.axis_context
    manual: frozenset[Any] = getattr(
        around, "manual_axes", frozenset()
    )  # of these arrays are one device's part
    if hasattr(around, "mesh"):
        return math.prod(n for a, n in around.mesh.shape.items() if a not in manual), bool(manual)
    return getattr(around, "num_devices", 1), False


def by_devices(alone: Form, together: Form, *args: jax.Array) -> jax.Array:
    """``alone(*args)``, written as ``together(*args)`` where the program is for several devices.

    Args:
        alone: a function of arrays, with one array for its result.
        together: another form of the same function.
        args: the arrays.
    """
    (out,) = _bind([lambda *xs: [alone(*xs)], lambda *xs: [together(*xs)]], args)
    return out  # type: ignore[no-any-return]


def _bind(forms: Iterable[Form], args: Sequence[Any]) -> list[Any]:
    alone, together = forms
    types = tuple(jax.make_jaxpr(alone)(*args).out_avals)
    return by_devices_p.bind(*args, forms=(alone, together), types=types)  # type: ignore[no-any-return]


def _evaluate(*args: Any, forms: Forms, **_: Any) -> list[Any]:
    n = max(len(x.sharding.device_set) if isinstance(x, jax.Array) else 1 for x in args)
    return list(forms[n > 1](*args))


def _lowered_form(ctx: Any, *args: Any, forms: Forms, **_: Any) -> Any:
    form = forms[_devices(ctx)[0] > 1]
    return mlir.lower_fun(lambda *xs: list(form(*xs)))(ctx, *args)


def _push(primals: Sequence[Any], tangents: Sequence[Any], *, types: Any, forms: Forms) -> Any:
    at = [i for i, t in enumerate(tangents) if not is_zero(t)]
    n, out = len(primals), by_devices_p.bind(*primals, types=types, forms=forms)

    def tangent(form: Form) -> Form:
        def dot(*args: Any) -> Any:
            def of_some(*some: Any) -> list[Any]:
                return list(form(*_with(args[:n], at, some)))

            return jax.jvp(of_some, [args[i] for i in at], list(args[n:]))[1]

        return dot

    return out, _bind(map(tangent, forms), [*primals, *(tangents[i] for i in at)])


def _pull(cts: Sequence[Any], *args: Any, types: Any, forms: Forms) -> list[Any]:
    at = [i for i, x in enumerate(args) if ad.is_undefined_primal(x)]
    avals = [args[i].aval for i in at]
    known = [x for i, x in enumerate(args) if i not in at]

    def transposed(form: Form) -> Form:
        def back(*given: Any) -> Any:
            rest = iter(given[: len(known)])
            full = [None if i in at else next(rest) for i in range(len(args))]

            def of_some(*some: Any) -> list[Any]:
                return list(form(*_with(full, at, some)))

            return jax.linear_transpose(of_some, *avals)(list(given[len(known) :]))

        return back

    cts = [ad.instantiate_zeros(ct) for ct in cts]
    found = _bind(map(transposed, forms), [*known, *cts])
    return _with([None] * len(args), at, found)


def _mapped(axis: Any, args: Sequence[Any], dims: Any, *, types: Any, forms: Forms) -> Any:
    if all(d is None for d in dims):  # JAX asks for what is not mapped too
        return by_devices_p.bind(*args, types=types, forms=forms), [None] * len(types)
    out = _bind((mapped(axis, form, tuple(dims)) for form in forms), args)
    return out, [0] * len(out)


def _with(args: Sequence[Any], at: Sequence[int], some: Sequence[Any]) -> list[Any]:
    """`args` with those at some places replaced."""
    full = list(args)
    for i, x in zip(at, some, strict=True):
        full[i] = x
    return full


def _series(primals: Any, series: Any, *, forms: Forms, **_: Any) -> Any:
    return jet.jet(
        forms[1], primals, series, factorial_scaled=False
    )  # right on any number of devices


by_devices_p.def_impl(_evaluate)
by_devices_p.def_abstract_eval(lambda *_, types, **__: list(types))
ad.primitive_jvps[by_devices_p] = _push
ad.primitive_transposes[by_devices_p] = _pull
batching.fancy_primitive_batchers[by_devices_p] = _mapped
_JET[by_devices_p] = _series
mlir.register_lowering(by_devices_p, _lowered_form)

gathered_p.def_impl(lambda x, *, parts: x)
gathered_p.def_abstract_eval(lambda x, *, parts: x)
ad.deflinear2(gathered_p, lambda ct, _, *, parts: [gathered_p.bind(ct, parts=parts)])
batching.primitive_batchers[gathered_p] = _batch
jet.deflinear(gathered_p)
mlir.register_lowering(gathered_p, _lowered)
