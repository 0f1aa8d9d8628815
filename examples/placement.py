"""Which device holds what: each mini-batch over the mesh's axis data, the weights over model.

A parameter's last axis is cut over model where model divides it: for weights (n_in, n_out) those
are the layer's outputs. Leaves that it does not divide are whole on every device, as are the data.
The optimiser's own arrays lie as the parameters do. The arithmetic is that of one device; XLA cuts
the programs and adds what the devices must tell each other.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from outcomes import UserError
from training import Params, Step, leaf_name

AXES = ("data", "model")


def mesh_sizes(text: str) -> dict[str, int]:
    """The axes of data=4,model=2, for argparse; one that is not named has size 1."""
    sizes: dict[str, int] = {}
    for part in text.split(","):
        name, _, number = (s.strip() for s in part.partition("="))
        if name not in AXES:
            raise argparse.ArgumentTypeError(
                f"{text!r}: {name!r} is no axis; want {' and '.join(AXES)}, as in data=4,model=2"
            )
        if name in sizes:
            raise argparse.ArgumentTypeError(f"{text!r} names {name} twice")
        if not number.isdecimal() or int(number) < 1:
            raise argparse.ArgumentTypeError(
                f"{text!r}: the size of {name} is {number!r}; want a whole number, 1 or more"
            )
        sizes[name] = int(number)
    return {name: sizes.get(name, 1) for name in AXES}


class Placement:
    """A mesh, and where arrays lie on it."""

    def __init__(self, sizes: Mapping[str, int] | None, batch_size: int) -> None:
        """The mesh of these sizes; by default one device, or, of several processes, all as data.

        Raises:
            UserError: there are other devices than that, or the batch cannot be cut so.
        """
        devices = jax.devices()
        if sizes is None:
            sizes = {"data": len(devices) if jax.process_count() > 1 else 1, "model": 1}
            devices = devices[: sizes["data"]]
        given = ",".join(f"{name}={n}" for name, n in sizes.items())
        if math.prod(sizes.values()) != len(devices):
            raise UserError(
                f"--mesh {given} is of {math.prod(sizes.values())} devices, and JAX has "
                f"{len(devices)}: want sizes whose product is {len(devices)}, as in "
                f"data={len(devices)}; on a CPU, XLA_FLAGS="
                "--xla_force_host_platform_device_count=N makes N devices"
            )
        if batch_size % sizes["data"]:
            up = -(-batch_size // sizes["data"]) * sizes["data"]
            raise UserError(
                f"--batch-size {batch_size} cannot be cut into the data={sizes['data']} equal "
                f"parts of the mesh: want a multiple, such as --batch-size {up}"
            )
        self.sizes = dict(sizes)
        grid = np.array(devices).reshape(*sizes.values())
        self.mesh = Mesh(grid, tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))
        self.whole = NamedSharding(self.mesh, PartitionSpec())

    def text(self, params: Params) -> str:
        """What is sharded, for people."""
        data, model = self.sizes["data"], self.sizes["model"]
        text = f"data={data},model={model}"
        if data > 1:
            text += f": each mini-batch in {data} parts"
        if model > 1:
            named = jax.tree.leaves_with_path(params)
            whole = [leaf_name(path) for path, p in named if self._sharding(p) == self.whole]
            text += (
                f"{';' if data > 1 else ':'} {len(named) - len(whole)} of {len(named)} leaves in "
                f"{model} parts, by their last axis"
            )
            text += f"; whole: {', '.join(whole)}" if whole else ""
        return text

    def _sharding(self, a: Any) -> NamedSharding:
        """Of a parameter, or of an array that the optimiser keeps for one."""
        model = self.sizes["model"]
        if model == 1 or not a.ndim or a.shape[-1] % model:
            return self.whole
        return NamedSharding(self.mesh, PartitionSpec(*[None] * (a.ndim - 1), "model"))

    def put(self, tree: Any) -> Any:
        """Parameters, or a whole state, from where they are to where they belong."""
        return jax.tree.map(lambda a: _put(a, self._sharding(a)), tree)

    def put_whole(self, a: Any) -> Any:
        """An array, or a key, whole on every device."""
        if isinstance(a, jax.Array) and jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            data = _put(jax.random.key_data(a), self.whole)
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(a))
        return _put(a, self.whole)

    def step(self, step: Step) -> Step:
        """`step` with its mini-batch and its state where they belong."""
        batch = NamedSharding(self.mesh, PartitionSpec("data"))

        def placed(state: Any, x: Any, y: Any) -> Any:
            state, value = step(state, *jax.lax.with_sharding_constraint((x, y), batch))
            state, value = jax.lax.with_sharding_constraint(
                (state, value),
                (jax.tree.map(self._sharding, state), jax.tree.map(lambda _: self.whole, value)),
            )
            return state, value

        return placed

    def compile(self, f: Callable[..., Any]) -> Callable[..., Any]:
        """`f` compiled, its results whole on every device."""
        return jax.jit(f, out_shardings=self.whole)


def _put(a: Any, sharding: NamedSharding) -> jax.Array:
    host = np.asarray(a)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def gather(tree: Any) -> Any:
    """Host copies of arrays that may be sharded over the devices of several processes."""

    def host(a: jax.Array) -> np.ndarray:
        if not a.is_fully_addressable:
            whole = NamedSharding(a.sharding.mesh, PartitionSpec())
            a = jax.jit(lambda a: a, out_shardings=whole)(a)
        return np.array(a)

    return jax.tree.map(host, tree)
