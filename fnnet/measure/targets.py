"""Compile for hardware that is not there, and read what the compiler made of a program.

The compilers of TPUs and of NVIDIA's GPUs run on any machine: a program is lowered for devices that
exist in name alone, and the very executable comes out that the chip would run. What it needs in
memory and what it exchanges are then known exactly; how long it takes is not, and is not guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from fnnet.measure.chips import devices_of, target_of
from fnnet.measure.programs import Axes, Compiled, read


def compile_for(
    f: Callable[..., Any],
    *args: Any,
    target: str,
    mesh: Mesh | AbstractMesh | Axes | None = None,
    in_shardings: Any = None,
    **kwargs: Any,
) -> Compiled:
    """Compile `f` at these arguments for chips that need not be there. Nothing is run.

    Args:
        f: a function of arrays, or what `jax.jit` made of one (then its donated and static
            arguments count).
        args: its arguments: arrays, or `jax.ShapeDtypeStruct`s. Of an array only its shape and
            dtype are used, and its `PartitionSpec` where a mesh is given.
        target: "tpu v5e:2x2", "tpu v6e:1x1", "h100", "h100:8", ... (see `fnnet.targets.names`).
        mesh: the axes of a mesh of all the target's devices, ``{"data": 2, "model": 2}``; or one
            that `mesh_on` made; or another mesh, whose axes and kinds of axes are taken (its
            devices are not). Without it the program is for the target's first device alone.
        in_shardings: for the arguments, a `PartitionSpec` or None each, or trees of these, as
            `jax.jit` takes them; by default those that the arguments have, else replicated.
        kwargs: its keyword arguments.

    Returns:
        A `Compiled`.

    Raises:
        ModuleNotFoundError: if the target's compiler is not installed; what to install is said.
        ValueError: for a target that does not exist, or a mesh of another number of devices.
        RuntimeError: if JAX was started in a way that shut the compiler out.
        Exception: whatever JAX and the compiler raise for `f` itself; also where the program does
            not fit the chip's memory.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnnet import lin, targets
        >>> x, w = (jax.ShapeDtypeStruct((256, 256), jnp.bfloat16) for _ in range(2))
        >>> c = targets.compile_for(lin, x, w, target="tpu v5e:1x1")  # doctest: +SKIP
        >>> c.memory.arguments, c.memory.outputs, c.collectives  # doctest: +SKIP
        (262144, 131072, ())
    """
    place = target_of(target)
    if mesh is None and in_shardings is not None:
        raise ValueError(
            "targets: in_shardings says how arguments are cut over a mesh, and there is none: give "
            "mesh={'data': 2, ...}"
        )
    jitted: Any = f if hasattr(f, "lower") else jax.jit(f)
    if mesh is None:
        one = SingleDeviceSharding(devices_of(place).devices[0])
        shapes = [jax.tree.map(lambda x: _shape(x, one), arg) for arg in (*args, kwargs)]
        compiled = jitted.lower(*shapes[:-1], **shapes[-1]).compile()
        names: Axes = {}
    else:
        on = mesh_on(target, mesh)
        names = dict(on.shape)
        specs = _specs(on, args, in_shardings)
        shapes = [_placed(arg, spec, on) for arg, spec in zip(args, specs, strict=True)]
        named = jax.tree.map(lambda x: _shape(x, NamedSharding(on, _own_spec(x, on))), kwargs)
        with jax.set_mesh(on):
            compiled = jitted.lower(*shapes, **named).compile()
    return read(compiled, place.name, names)


def mesh_on(target: str, axes: Mesh | AbstractMesh | Axes) -> Mesh:
    """A mesh of the target's devices: to close a function over, or for `compile_for`.

    Args:
        target: as for `compile_for`.
        axes: ``{"data": 2, "model": 2}``, in the order of the mesh, with automatic axes; or a mesh
            whose axes, sizes and kinds are taken.

    Raises:
        TypeError: if it is neither.
        ValueError: if the sizes do not make up the target's number of devices.
    """
    place = target_of(target)
    if isinstance(axes, (Mesh, AbstractMesh)):
        kinds = axes.axis_types
        sizes = dict(axes.shape)
    elif isinstance(axes, Mapping):
        sizes, kinds = dict(axes), (AxisType.Auto,) * len(axes)
    else:
        raise TypeError(
            "targets: mesh must be a mesh or the sizes of its axes by name, as {'data': 2, "
            f"'model': 2}}, not {type(axes).__name__}"
        )
    topology = devices_of(place)
    if isinstance(axes, Mesh) and set(axes.devices.flat) <= set(topology.devices):
        return axes
    number = len(topology.devices)
    if int(np.prod(list(sizes.values()))) != number:
        raise ValueError(
            f"targets: {place.name} has {number} devices, and mesh {sizes} another number: its "
            f"sizes must multiply to {number}"
        )
    flat = topologies.make_mesh(topology, tuple(sizes.values()), tuple(sizes))
    return Mesh(flat.devices, flat.axis_names, axis_types=kinds)


def _specs(mesh: Mesh, args: Sequence[Any], in_shardings: Any) -> list[Any]:
    """For each argument a spec, a tree of specs, or None for its own."""
    if in_shardings is None or isinstance(in_shardings, (P, NamedSharding)):
        return [in_shardings] * len(args)
    if not isinstance(in_shardings, (tuple, list)) or len(in_shardings) != len(args):
        raise ValueError(
            f"targets: in_shardings must be one PartitionSpec, or one for each of the {len(args)} "
            f"arguments (or a tree of them), not {in_shardings!r}"
        )
    return list(in_shardings)


def _placed(arg: Any, spec: Any, mesh: Mesh) -> Any:
    """An argument's shapes on the mesh; `spec` may stand for a whole tree of arrays."""

    def one(spec: Any, part: Any) -> Any:
        spec = spec.spec if isinstance(spec, NamedSharding) else spec
        return jax.tree.map(
            lambda x: _shape(x, NamedSharding(mesh, _own_spec(x, mesh) if spec is None else spec)),
            part,
        )

    leaf = lambda x: x is None or isinstance(x, (P, NamedSharding))  # noqa: E731
    return jax.tree.map(one, spec, arg, is_leaf=leaf)


def _own_spec(x: Any, mesh: Mesh) -> P:
    sharding = getattr(x, "sharding", None)
    if isinstance(sharding, NamedSharding) and set(sharding.mesh.axis_names) <= set(
        mesh.axis_names
    ):
        return sharding.spec
    return P()


def _shape(x: Any, sharding: Any) -> Any:
    """A shape for what is an array; all else is handed on as it is."""
    if isinstance(x, (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct)):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    return x
