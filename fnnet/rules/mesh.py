"""Meshes, once: what a textbook backward rule needs to be right on several devices.

Inside `jax.shard_map` with `check_vma=True` every value has a type that says over which mesh axes
it varies from device to device. A weight that is the same on all of them has a cotangent that is
not: each device has summed over its own share of the batch. The cotangent of the one weight is the
sum over devices, a `psum`.

On a mesh of explicit axes (`AxisType.Explicit`, what `jax.make_mesh` gives) every contraction must
know its result's sharding. A backward rule knows it: the cotangent's sharding is its primal's. So
the rule runs with the axes automatic inside, and its results are given their primals' shardings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P


def varying_as(ct: jax.Array, primal: Any) -> jax.Array:
    """`ct` made to vary over just the manual mesh axes that `primal` varies over.

    Over axes that `primal` is marked reduced over, the sum is left to whoever marked it.
    """
    have = jax.typeof(ct).manual_axis_type.varying
    want, summed_later = primal.manual_axis_type.varying, primal.manual_axis_type.reduced
    if axes := have - want - summed_later:
        ct = jax.lax.psum(ct, tuple(sorted(axes)))
    if axes := want - have:
        ct = jax.lax.pcast(ct, tuple(sorted(axes)), to="varying")
    if summed_later:
        ct = jax.lax.pcast(ct, tuple(sorted(summed_later)), to="unreduced")
    return ct


def zero_cotangent(primal: Any) -> jax.Array:
    """The cotangent of `primal` that is zero on every device."""
    ct = jnp.zeros(primal.shape, primal.dtype)
    if axes := primal.manual_axis_type.reduced:
        ct = jax.lax.pcast(ct, tuple(sorted(axes)), to="varying")
    return varying_as(ct, primal)


def explicit_mesh(avals: Sequence[Any]) -> Any:
    """The mesh with explicit axes that one of `avals` lies on, or None."""
    for aval in avals:
        mesh = aval.sharding.mesh
        if AxisType.Explicit in mesh.axis_types:
            return mesh
    return None


def with_axes_automatic(
    f: Callable[..., list[jax.Array]], mesh: Any, like: Sequence[Any]
) -> Callable[..., list[jax.Array]]:
    """`f`, whose results are like `like`, run with the explicit axes of `mesh` made automatic."""
    axes = tuple(
        name
        for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
        if kind is AxisType.Explicit
    )
    specs = [a.sharding.spec for a in like]
    run = jax.sharding.auto_axes(f, axes=axes, out_sharding=[P(*spec.partitions) for spec in specs])

    def in_mesh(*args: Any) -> list[jax.Array]:
        # a sharded array may be used under jit with no mesh set around it
        unset = jax.sharding.get_abstract_mesh().empty
        with jax.sharding.use_abstract_mesh(mesh) if unset else nullcontext():
            cts = run(*args)
            # where the primal is marked reduced over an axis, the sum over it is still to come
            return [
                jax.reshard(ct, P(*spec.partitions, unreduced=spec.reduced)) if spec.reduced else ct
                for ct, spec in zip(cts, specs, strict=True)
            ]

    return in_mesh
