"""Drawn calls of the ops on images, on meshes that cut drawn axes of the image.

XLA ends the process at what its partitioner cannot do, which no `try` sees. So `test_meshes.py`
runs this in a process of its own: each call is printed before it is made.

    python -m tests.ops.drawn_meshes SEED COUNT
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import numpy as np


def known(op: str, size: int, stride: int, devices: int = 4, **options: Any) -> dict[str, Any]:
    """A call with the height of the images cut."""
    options = {"stride": stride, "padding": 1, **options}
    return {
        "op": op,
        "size": (size, size),
        "options": options,
        "shape": (2, 16, 8, 2),
        "cut": [(1, devices)],
    }


# each of these has ended a process once, or been refused, or had wrong numbers: of shards with
# hardly a window XLA cuts pads, slices and convolutions wrongly
KNOWN = [
    known("max_pool", 3, 2),
    known("max_pool", 2, 3),
    known("avg_pool", 3, 2),
    known("fold", 3, 2),
    known("unfold", 2, 3, dilation=3, padding="SAME"),
    known("conv2d by unfold", 3, 2),
    {
        "op": "conv2d",
        "size": (2, 3),
        "options": {"stride": (3, 3), "padding": ((2, 2), (2, 1))},
        "shape": (4, 8, 11, 2),
        "cut": [(1, 2), (0, 2)],
    },
    {
        "op": "avg_pool",
        "size": (6, 3),
        "options": {"stride": (2, 3), "padding": "VALID"},
        "shape": (1, 12, 12, 2),
        "cut": [(1, 4)],
    },
    {
        "op": "conv2d by unfold",
        "size": (2, 2),
        "options": {"stride": (2, 3), "padding": "SAME"},
        "shape": (2, 8, 2, 2),
        "cut": [(2, 2), (0, 2)],
    },
    {
        "op": "unfold",
        "size": (6, 2),
        "options": {"stride": (3, 2), "padding": 1, "dilation": (3, 2)},
        "shape": (4, 16, 15, 2),
        "cut": [(1, 4), (0, 2)],
    },
    {
        "op": "conv2d",
        "size": (4, 3),
        "options": {"stride": (2, 1), "padding": "VALID", "dilation": (1, 3)},
        "shape": (2, 6, 8, 2),
        "cut": [(2, 2), (1, 2)],
    },
    {
        "op": "conv2d",
        "size": (6, 4),
        "options": {"stride": (2, 2), "padding": 1, "dilation": (2, 2)},
        "shape": (1, 16, 12, 2),
        "cut": [(1, 2)],
    },
    {  # the gradient of the kernel, of images cut over one of two axes
        "op": "conv2d",
        "size": (2, 2),
        "options": {"groups": 2},
        "shape": (4, 5, 5, 2),
        "cut": [(0, 2)],
        "beside": 2,
    },
]


def draw(rng: np.random.Generator) -> dict[str, Any]:
    """One call, without its arrays: an op, its options, shapes, and which axes are cut in what.

    A device holds hardly a window of some images, and many of others.
    """
    pick = lambda *of: of[rng.integers(len(of))]  # noqa: E731
    name = pick("max_pool", "avg_pool", "unfold", "fold", "conv2d", "conv2d by unfold")
    size = tuple(int(pick(1, 2, 2, 3, 3, 4, 5, 6)) for _ in range(2))
    pads = tuple(tuple(int(rng.integers(4)) for _ in range(2)) for _ in range(2))
    options: dict[str, Any] = {
        "stride": tuple(int(pick(1, 2, 2, 3, 4)) for _ in range(2)),
        "padding": pick("SAME", "VALID", 1, pads, pads),
    }
    if "pool" not in name:
        options["dilation"] = tuple(int(pick(1, 1, 2, 3)) for _ in range(2))
    if "conv2d" in name:
        options["groups"] = pick(1, 1, 2)
    devices = pick(2, 4, 8)
    cut = [(pick(1, 1, 2, 2, 0, 3), devices)]
    if devices < 8 and rng.random() < 0.5:  # two axes
        cut.append(((cut[0][0] + int(rng.integers(1, 4))) % 4, 2))
    shape = [int(rng.integers(1, 4)), *(int(rng.integers(5, 17)) for _ in range(2)), 2]
    wide = devices < 8 and rng.random() < 0.3
    for axis, parts in cut:
        shape[axis] = parts * int(rng.integers(1, 3) if axis in (0, 3) else rng.integers(1, 5))
    for side in (0, 1):  # one window at least
        reach = (size[side] - 1) * options.get("dilation", (1, 1))[side] + 1
        while shape[1 + side] < reach:
            shape[1 + side] *= 2
        for axis, parts in cut:
            if wide and axis == 1 + side:
                at_least = 2 * max(reach, options["stride"][side], 3) + 4
                shape[axis] = parts * (at_least + int(rng.integers(5)))
    explicit = name != "conv2d" and rng.random() < 0.2  # as `jax.lax.conv` has no gradient there
    return {
        "op": name,
        "size": size,
        "options": options,
        "shape": tuple(shape),
        "cut": cut,
        # of the kernel, where it fits: an axis and the mesh axis that cuts it
        "kernel": (int(rng.integers(4)), pick(0, 0, len(cut) - 1)) if rng.random() < 0.5 else None,
        "explicit": bool(explicit),
        "beside": int(pick(1, 2)) if np.prod([parts for _, parts in cut]) < 8 else 1,
    }


def run(call: dict[str, Any], seed: int) -> None:
    """Value and gradient on the mesh, against the NumPy twin's."""
    import jax
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    import fnnet
    from fnnet.proof import reference as twin
    from tests.compare import assert_close

    rng = np.random.default_rng(seed)
    name, size, options, shape = (call[k] for k in ("op", "size", "options", "shape"))
    numbers = lambda *s: rng.integers(-9, 10, s).astype("float64")  # noqa: E731
    args = [numbers(*shape)]
    if name.startswith("conv2d"):
        form = "unfold" if "unfold" in name else "direct"
        args.append(numbers(*size, shape[3] // options.get("groups", 1), 4))
        f = functools.partial(fnnet.conv2d, form=form, **options)
        of_twin = lambda x, w, g: twin.conv2d_vjp(x, w, None, g, **options)[:2]  # noqa: E731
    elif name == "fold":
        p = jax.eval_shape(lambda x: fnnet.unfold(x, size, **options), args[0])
        args = [numbers(*p.shape)]
        f = functools.partial(fnnet.fold, shape=shape, size=size, **options)
        of_twin = lambda p, g: twin.fold_vjp(p, shape, size, g, **options)  # noqa: E731
    else:
        f = functools.partial(getattr(fnnet, name), size=size, **options)
        of_twin = lambda x, g: getattr(twin, f"{name}_vjp")(x, size, g, **options)  # noqa: E731
    y = jax.eval_shape(f, *args)
    g = numbers(*y.shape)
    value = getattr(twin, name.split()[0])
    want = (
        value(*args, **options)
        if "conv" in name
        else value(args[0], shape, size, **options)
        if name == "fold"
        else value(args[0], size, **options)
    )

    axes, spec, explicit = [], [None] * 4, call.get("explicit")
    for i, (axis, parts) in enumerate(call["cut"]):
        axes.append((f"a{i}", parts))
        spec[axis] = f"a{i}"
    axes.append(("beside", call.get("beside", 1)))  # an axis that cuts nothing
    mesh = jax.make_mesh(
        tuple(n for _, n in axes),
        tuple(a for a, _ in axes),
        axis_types=(AxisType.Explicit if explicit else AxisType.Auto,) * len(axes),
    )
    whole = NamedSharding(mesh, PartitionSpec())

    def placed(a: Any) -> Any:  # what of the spec divides the array; patches have other sides
        of = dict(axes)
        fits = [s if s and n % of[s] == 0 else None for s, n in zip(spec, a.shape, strict=True)]
        return jax.device_put(a, NamedSharding(mesh, PartitionSpec(*fits)))

    def passes(args: Any, g: Any) -> Any:
        y, vjp = jax.vjp(f, *args)
        return y, vjp(jax.reshard(g, jax.typeof(y).sharding) if explicit else g)

    on_mesh = [placed(args[0]), *(jax.device_put(a, whole) for a in args[1:])]
    if call.get("kernel") and len(args) > 1 and not explicit:
        axis, i = call["kernel"]
        of = [
            f"a{i}" if a == axis and n % axes[i][1] == 0 else None
            for a, n in enumerate(args[1].shape)
        ]
        on_mesh[1] = jax.device_put(args[1], NamedSharding(mesh, PartitionSpec(*of)))
    with jax.set_mesh(mesh):
        got = jax.jit(passes)(on_mesh, placed(g))
        value = jax.jit(f)(*on_mesh)
    assert_close(jax.tree.map(np.asarray, got), (want, of_twin(*args, g)))
    assert_close(np.asarray(value), want)


def main(seed: int, count: int) -> None:
    """Make the known calls and `count` drawn ones, each printed before it is made."""
    import jax

    drawn = (draw(np.random.default_rng([seed, i])) for i in range(count))
    for i, call in enumerate([*KNOWN, *drawn]):
        print(i, call, flush=True)
        run(call, i)
        if i % 50 == 49:
            jax.clear_caches()
    print("all right", flush=True)


if __name__ == "__main__":
    import tests.conftest  # noqa: F401  eight devices, strict numerics

    main(*map(int, sys.argv[1:]))
