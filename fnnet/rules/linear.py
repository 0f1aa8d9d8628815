"""A linear function that is given its transpose.

    evaluate  : res, x -> y             linear in x
    transpose : res, CT y -> CT x

JAX evaluates the one; where it transposes, as reverse mode does, the other runs.
`jax.custom_derivatives.linear_call` says as much, but has no vmap and no derivative by `res`.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
from jax.extend import core
from jax.interpreters import ad, batching, mlir

Flat = Callable[[list[Any], list[Any]], Sequence[Any]]

# whether a backward rule is traced in order to be transposed itself
is_transposed = contextvars.ContextVar("is_transposed", default=False)


class Primitive(core.Primitive):
    """A primitive with a list of results, which is lowered as a whole, whatever is in it."""

    multiple_results = True

    def is_high(self, *_: Any, **__: Any) -> bool:
        """JAX's question whether it is to be replaced before that."""
        return False


linear_p: Any = Primitive("linear")


def linear(
    evaluate: Flat, transpose: Flat, res: Sequence[Any], xs: Sequence[Any], types: Sequence[Any]
) -> list[Any]:
    """``evaluate(res, xs)``, a function whose transpose is `transpose`.

    Args:
        evaluate: of two lists of arrays, the list of results; linear in the second.
        transpose: of `res` and the cotangents of all results, the cotangents of all `xs`.
        res: arrays.
        xs: arrays.
        types: of the results.
    """
    return list(linear_p.bind(*res, *xs, **_params(evaluate, transpose, res, types)))


def _params(evaluate: Flat, transpose: Flat, res: Sequence[Any], types: Any) -> dict[str, Any]:
    return {"evaluate": evaluate, "transpose": transpose, "n": len(res), "types": tuple(types)}


def linear_of_trace(
    trace: Any, evaluate: Flat, transpose: Flat, res: Any, xs: Any, types: Any
) -> Any:
    """The same, for a trace that partially evaluates: `xs` are not known in it yet."""
    params = _params(evaluate, transpose, res, types)
    return trace.default_process_primitive(linear_p, [*res, *xs], params)


def _evaluate(*args: Any, evaluate: Flat, n: int, **_: Any) -> list[Any]:
    return list(evaluate(list(args[:n]), list(args[n:])))


def is_zero(tangent: Any) -> bool:
    """Whether nothing is to be computed for a tangent: JAX knows it to be zero."""
    return type(tangent) is ad.Zero or getattr(tangent, "dtype", None) == jax.dtypes.float0


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> Any:
    n = params["n"]
    out = linear_p.bind(*primals, **params)
    dot: list[Any] = [ad.Zero(t.to_tangent_aval()) for t in params["types"]]
    if not all(map(is_zero, tangents[n:])):
        xs = map(ad.instantiate_zeros, tangents[n:])
        dot = linear_p.bind(*primals[:n], *xs, **params)
    # of its residuals it is a function like any other
    if at := [i for i in range(n) if not is_zero(tangents[i])]:

        def of_res(*some: Any) -> list[Any]:
            full = list(primals)
            for i, x in zip(at, some, strict=True):
                full[i] = x
            return _evaluate(*full, **params)

        _, more = jax.jvp(of_res, [primals[i] for i in at], [tangents[i] for i in at])
        dot = list(map(ad.add_tangents, dot, more))
    return out, dot


def _transpose(cts: Sequence[Any], *args: Any, transpose: Flat, n: int, **_: Any) -> list[Any]:
    found = transpose(list(args[:n]), [ad.instantiate_zeros(ct) for ct in cts])
    pairs = zip(args[n:], found, strict=True)
    return [None] * n + [ct if ad.is_undefined_primal(x) else None for x, ct in pairs]


def mapped(axis: Any, f: Callable[..., Any], in_axes: Any, out_axes: Any = 0) -> Callable[..., Any]:
    """`jax.vmap` over the axis that a batching rule is told of."""
    return jax.vmap(
        f,
        in_axes,
        out_axes,
        axis_size=axis.size,
        axis_name=axis.name,
        spmd_axis_name=axis.spmd_name or axis.explicit_mesh_axis,
    )


def _batch(axis: Any, args: Sequence[Any], dims: Sequence[Any], **params: Any) -> Any:
    n = params["n"]
    res_dims, x_dims = list(dims[:n]), list(dims[n:])

    def transpose(res: list[Any], cts: list[Any]) -> Sequence[Any]:
        to = [0 if d is None else d for d in x_dims]
        found = mapped(axis, params["transpose"], (res_dims, 0), to)(res, cts)
        # what is the same for all gets the sum of what arrives at each
        return [ct.sum(0) if d is None else ct for ct, d in zip(found, x_dims, strict=True)]

    evaluate = mapped(axis, params["evaluate"], (res_dims, x_dims))
    of_all = partial(core.unmapped_aval, axis.size, 0, explicit_mesh_axis=axis.explicit_mesh_axis)
    types = [of_all(t) for t in params["types"]]
    out = linear(evaluate, transpose, args[:n], args[n:], types)
    return out, [0] * len(out)


linear_p.def_impl(_evaluate)
linear_p.def_abstract_eval(lambda *_, types, **__: list(types))
ad.primitive_jvps[linear_p] = _jvp
ad.primitive_transposes[linear_p] = _transpose
batching.fancy_primitive_batchers[linear_p] = _batch
mlir.register_lowering(linear_p, mlir.lower_fun(_evaluate))
