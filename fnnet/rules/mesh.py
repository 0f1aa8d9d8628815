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

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

T = TypeVar("T")
OutSharding: TypeAlias = P | NamedSharding | None


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


def spread(tree: T, *like: Any) -> T:
    """`tree` made to vary over every manual mesh axis that an array in `like` varies over.

    A loop's first carry must vary where what the loop adds to it does; zeros made on the spot do
    not. Outside of `jax.shard_map` nothing varies.

    Example:
        >>> spread({"sum": jnp.zeros(2)}, jnp.ones(3))
        {'sum': Array([0., 0.], dtype=float32)}
    """
    axes = {axis for x in jax.tree.leaves(like) for axis in jax.typeof(x).manual_axis_type.varying}

    def varying(x: jax.Array) -> jax.Array:
        missing = axes - jax.typeof(x).manual_axis_type.varying
        return jax.lax.pcast(x, tuple(sorted(missing)), to="varying") if missing else x

    return jax.tree.map(varying, tree)  # type: ignore[no-any-return]


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
    specs = [a.sharding.spec for a in like]
    run = _automatic(f, mesh, [P(*spec.partitions) for spec in specs])

    def in_mesh(*args: Any) -> list[jax.Array]:
        with _set(mesh):
            cts = run(*args)
            # where the primal is marked reduced over an axis, the sum over it is still to come
            return [
                jax.reshard(ct, P(*spec.partitions, unreduced=spec.reduced)) if spec.reduced else ct
                for ct, spec in zip(cts, specs, strict=True)
            ]

    return in_mesh


def forward_with_axes_automatic(
    f: Callable[..., T],
    operands: Sequence[Any],
    *,
    is_rule: bool = False,
    out: NamedSharding | None = None,
) -> T:
    """``f(*operands)``, with the axes of an explicit mesh, if there is one, made automatic.

    A result gets the sharding `out`; where that is None, the sharding of the first operand of its
    shape, else that of the first operand: on every axis of the same size if it has as many axes, or
    on as many leading axes as they share.
    Where `f` is a forward rule (`is_rule`), what it returns beside the value may have the axes in
    another order: each further axis gets the sharding of an axis of the first operand of its size.
    """
    types: list[Any] = [jax.typeof(x) for x in operands]
    mesh = explicit_mesh(types) if out is None else out.mesh
    if mesh is None:
        return f(*operands)
    with _set(mesh):
        shapes = jax.eval_shape(f, *(jax.ShapeDtypeStruct(t.shape, t.dtype) for t in types))
        tree = jax.tree.structure(shapes)
        values = len(jax.tree.leaves(shapes[0] if is_rule else shapes))
        specs = [
            _spec_of(s.shape, types, any_order=i >= values) if out is None else out.spec
            for i, s in enumerate(jax.tree.leaves(shapes))
        ]
        run = _automatic(lambda *args: jax.tree.leaves(f(*args)), mesh, specs)
        return jax.tree.unflatten(tree, run(*operands))  # type: ignore[no-any-return]


def result_sharding(
    op: str, out_sharding: OutSharding, ndim: int, *operands: Any
) -> NamedSharding | None:
    """`out_sharding` of a result with `ndim` axes, whole: on the mesh the operands lie on.

    Raises:
        ValueError: where there is no mesh of explicit axes, or for more axes than there are.
    """
    if out_sharding is None:
        return None
    spec = out_sharding.spec if isinstance(out_sharding, NamedSharding) else out_sharding
    mesh = explicit_mesh([jax.typeof(x) for x in operands])
    around = jax.sharding.get_abstract_mesh()
    if mesh is None and AxisType.Explicit in around.axis_types:
        mesh = around
    if mesh is None:
        raise ValueError(
            f"{op}: out_sharding={spec} is for meshes of explicit axes, and the arrays lie on "
            "none. Put them on one (jax.make_mesh, jax.set_mesh), or leave out_sharding out"
        )
    named = [a for part in spec for a in (part if isinstance(part, tuple) else (part,))]
    if unknown := [a for a in named if isinstance(a, str) and a not in mesh.axis_names]:
        raise ValueError(
            f"{op}: out_sharding={spec} names {unknown}; the mesh has the axes {mesh.axis_names}"
        )
    if len(spec) > ndim:
        raise ValueError(
            f"{op}: out_sharding={spec} is for {len(spec)} axes; the result has {ndim}"
        )
    return NamedSharding(mesh, P(*spec, *[None] * (ndim - len(spec))))


@contextmanager
def tells_of_out_sharding(op: str) -> Iterator[None]:
    """In JAX's errors about shardings of explicit axes, the op's name and the remedy."""
    try:
        yield
    except Exception as e:
        # the class has no public name
        if type(e).__name__ != "ShardingTypeError":
            raise
        raise type(e)(
            f"{op}: how the result is sharded does not follow from how the arguments are. Say it "
            f"with out_sharding, as for jnp.matmul: {op}(..., out_sharding=jax.P(...)), with one "
            "mesh axis or None for each axis of the result; where a summed axis is sharded, "
            f"leave its mesh axis out. What JAX says: {e}"
        ) from e


def _spec_of(shape: tuple[int, ...], types: Sequence[Any], *, any_order: bool) -> P:
    for t in types:
        if t.shape == shape:
            return P(*t.sharding.spec.partitions)
    first = types[0]
    names = first.sharding.spec.partitions
    names = (*names, *[None] * (len(first.shape) - len(names)))
    if len(shape) == len(first.shape) and not any_order:
        return P(
            *(a if n == m else None for a, n, m in zip(names, shape, first.shape, strict=True))
        )
    common = 0
    for n, m in zip(shape, first.shape, strict=False):
        if n != m:
            break
        common += 1
    spec = list(names[:common])
    if any_order:
        # a wrong guess costs a collective, no more
        left = [(n, p) for n, p in zip(first.shape, names, strict=True) if p and p not in spec]
        for n in shape[common:]:
            found = next((pair for pair in left if pair[0] == n), (n, None))
            spec.append(found[1])
            if found in left:
                left.remove(found)
    return P(*spec)


def _automatic(f: Callable[..., Any], mesh: Any, specs: Sequence[P]) -> Callable[..., Any]:
    axes = tuple(
        name
        for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
        if kind is AxisType.Explicit
    )
    run: Callable[..., Any] = jax.sharding.auto_axes(f, axes=axes, out_sharding=list(specs))
    return run


def _set(mesh: Any) -> Any:
    """A sharded array may be used under jit with no mesh set around it: set it."""
    unset = jax.sharding.get_abstract_mesh().empty
    return jax.sharding.use_abstract_mesh(mesh) if unset else nullcontext()
