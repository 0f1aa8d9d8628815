"""How rules are made with JAX's newer mechanisms: hijax primitives, and primitives of one's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import hijax as hi
from jax.extend.core import Primitive
from jax.interpreters import mlir

Base: Any = getattr(hi, "HiPrim", None) or hi.VJPHiPrimitive  # JAX 0.12's name, and 0.10's


def types_of(f: Callable[..., Any], avals: Any) -> Any:
    """The types of what `f` gives; it varies over the axes of a mesh that its arguments do."""
    out = jax.eval_shape(f, *(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals))

    def varies(a: Any) -> int:
        kind = getattr(a, "manual_axis_type", None)  # JAX 0.12's name
        return len(a.vma if kind is None else kind.varying)

    like = max(avals, key=varies)
    return jax.tree.map(lambda s: like.update(shape=s.shape, dtype=s.dtype), out)


def hijax(expand: Callable[..., Any], **rules: Any) -> Callable[..., Any]:
    """A hijax primitive of arrays that computes `expand`; `rules` are its methods.

    Args:
        expand: what it computes, a function of arrays.
        rules: `vjp_fwd(self, nzs, *args)`, `vjp_bwd_retval(self, res, g)`, `jvp`, `batch`, ...;
            None for one that JAX gives.
    """

    class Op(Base):
        def __init__(self, *avals: Any) -> None:
            self.in_avals = avals
            self.out_aval = types_of(expand, avals)
            self.params = {}
            super().__init__()

        def expand(self, *args: Any) -> Any:
            return expand(*args)

        def vjp_fwd(self, nzs: Any, *args: Any) -> Any:
            return self(*args), args

    for name, method in {"batch": elementwise, **rules}.items():
        if method is not None:
            setattr(Op, name, method)
    Op.__name__ = expand.__name__ if expand.__name__ != "<lambda>" else "Op"
    return lambda *args: Op(*map(jax.typeof, args))(*args)


def elementwise(self: Any, axis: Any, args: Any, dims: Any) -> Any:
    """The batching rule of an elementwise function: the batch axes in front, and again."""
    batched = [jnp.moveaxis(x, d, 0) for x, d in zip(args, dims, strict=True) if d is not None]
    if not batched:
        out = self(*args)
        return out, jax.tree.map(lambda _: None, out)
    shape = max((x.shape for x in batched), key=len)
    moved = [
        jnp.broadcast_to(x, shape) if d is None else jnp.moveaxis(x, d, 0)
        for x, d in zip(args, dims, strict=True)
    ]
    out = type(self)(*map(jax.typeof, moved))(*moved)
    return out, jax.tree.map(lambda _: 0, out)


def primitive(name: str, f: Callable[..., Any], *, opaque: bool = False) -> Primitive:
    """A primitive that computes `f` of arrays, whose rules are then to be given.

    Args:
        name: its name.
        f: what it computes.
        opaque: whether what it computes is known when it is lowered only.
    """
    p = Primitive(name)
    p.def_impl(jax.jit(p.bind) if opaque else f)

    def abstract(*avals: Any) -> Any:
        return types_of(f, avals)

    p.def_abstract_eval(abstract)
    mlir.register_lowering(p, mlir.lower_fun(f, multiple_results=False))
    return p
