"""The values that a call meets when its compiled program runs, without changing what it computes.

`see_p` is the identity on a call's arrays. Compiled, it hands them to a Python function as well. As
its results are what the call goes on with, it runs if and only if the call does; as it has no
effect in JAX's sense, it is allowed wherever a call is: in loops, branches, solvers,
`jax.checkpoint`. Mapped by `jax.vmap` it hands over the first example alone, and differentiated the
primal values alone. In a program for another platform or for export it is the identity and nothing
else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.interpreters import ad, batching, mlir

Receive = Callable[..., None]

see_p = core.Primitive("fnnet_see")
see_p.multiple_results = True


def see(receive: Receive, *arrays: Any) -> list[Any]:
    """`arrays`, which `receive` is given when they are computed.

    Args:
        receive: called with each as a NumPy array, once for each run; hashed by identity.
        arrays: JAX arrays or tracers, at least one.

    Example:
        >>> import jax.numpy as jnp
        >>> found = []
        >>> f = jax.jit(lambda x: see(found.append, 2 * x)[0] + 1)
        >>> jax.block_until_ready(f(jnp.ones(()))).tolist(), found[0].tolist()
        (3.0, 2.0)
    """
    return see_p.bind(*arrays, receive=receive, mapped=(0,) * len(arrays))  # type: ignore[no-any-return]


def _first(x: Any, axes: int) -> Any:
    """The first example of an array with so many mapped axes in front.

    On a mesh of explicit axes JAX slices no axis that is cut: the mapped ones are put together.
    """
    if not axes:
        return x
    cut = jax.typeof(x).sharding
    if any(name is not None for name in cut.spec[:axes]):
        whole = jax.P(*[None] * axes, *cut.spec[axes:])
        x = jax.sharding.reshard(x, jax.NamedSharding(cut.mesh, whole))
    return x[(0,) * axes]


def _told(*arrays: Any, receive: Receive, mapped: Sequence[int]) -> list[Any]:
    if all(all(x.shape[:axes]) for x, axes in zip(arrays, mapped, strict=True)):
        jax.debug.callback(receive, *map(_first, arrays, mapped))
    return list(arrays)


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> Any:
    return see_p.bind(*primals, **params), list(tangents)


def _batch(axis: Any, args: Any, dims: Any, *, receive: Receive, mapped: Sequence[int]) -> Any:
    moved = [x if d is None else jnp.moveaxis(x, d, 0) for x, d in zip(args, dims, strict=True)]
    more = tuple(n + (d is not None) for n, d in zip(mapped, dims, strict=True))
    outs = see_p.bind(*moved, receive=receive, mapped=more)
    return outs, [None if d is None else 0 for d in dims]


def _lower(ctx: Any, *args: Any, **params: Any) -> Any:
    module = ctx.module_context
    exported = getattr(module.lowering_parameters, "for_export", False)
    if exported or tuple(module.platforms) != (jax.default_backend(),):
        return list(args)
    return mlir.lower_fun(_told, multiple_results=True)(ctx, *args, **params)


see_p.def_impl(_told)
see_p.def_abstract_eval(lambda *avals, **_: list(avals))
ad.primitive_jvps[see_p] = _jvp
ad.primitive_transposes[see_p] = lambda cts, *_, **__: list(cts)
batching.fancy_primitive_batchers[see_p] = _batch
mlir.register_lowering(see_p, _lower)
