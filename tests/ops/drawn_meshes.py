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


# each of these has ended a process once: a pad cropped before, and put zeros between
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
]


def draw(rng: np.random.Generator) -> dict[str, Any]:
    """One call, without its arrays: an op, its options, shapes, and which axes are cut in what."""
    pick = lambda *of: of[rng.integers(len(of))]  # noqa: E731
    name = pick("max_pool", "avg_pool", "unfold", "fold", "conv2d", "conv2d by unfold")
    dilated = name not in ("max_pool", "avg_pool")
    size = tuple(int(pick(1, 2, 2, 3, 3, 4, 6)) for _ in range(2))
    pads = tuple(tuple(int(rng.integers(3)) for _ in range(2)) for _ in range(2))
    options: dict[str, Any] = {
        "stride": tuple(int(pick(1, 2, 2, 3)) for _ in range(2)),
        "padding": pick("SAME", "VALID", 1, pads, pads),
    }
    if dilated:
        options["dilation"] = tuple(int(pick(1, 1, 2, 3)) for _ in range(2))
    devices = pick(2, 4, 8)
    cut = [(pick(1, 1, 2, 2, 0, 3), devices)]
    if devices < 8 and rng.random() < 0.4:  # two axes
        cut.append(((cut[0][0] + int(rng.integers(1, 4))) % 4, 2))
    shape = [int(rng.integers(1, 4)), *(int(rng.integers(6, 17)) for _ in range(2)), 2]
    for axis, parts in cut:
        shape[axis] = parts * int(rng.integers(1, 3) if axis in (0, 3) else rng.integers(2, 5))
    for side in (0, 1):  # one window at least
        reach = (size[side] - 1) * options.get("dilation", (1, 1))[side] + 1
        while shape[1 + side] < reach:
            shape[1 + side] *= 2
    explicit = name != "conv2d" and rng.random() < 0.3  # as `jax.lax.conv` has no gradient there
    return {
        "op": name,
        "size": size,
        "options": options,
        "shape": tuple(shape),
        "cut": cut,
        "explicit": bool(explicit),
    }


def run(call: dict[str, Any], seed: int) -> bool:
    """Value and gradient on the mesh, against the NumPy twin's; whether XLA makes a program."""
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
        args.append(numbers(*size, shape[3], 2))
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
    with jax.set_mesh(mesh):
        try:
            got = jax.jit(passes)(on_mesh, placed(g))
            value = jax.jit(f)(*on_mesh)
        except jax.errors.JaxRuntimeError:
            # XLA makes no program of some slices and convolutions with strides and dilations that
            # an automatic mesh cuts (README, Limits): an error, which ends nothing
            if explicit or np.max([options.get(k) or 1 for k in ("stride", "dilation")]) == 1:
                raise
            return False
    assert_close(jax.tree.map(np.asarray, got), (want, of_twin(*args, g)))
    assert_close(np.asarray(value), want)
    return True


def main(seed: int, count: int) -> None:
    """Make the known calls and `count` drawn ones, each printed before it is made."""
    import jax

    refused = 0
    drawn = (draw(np.random.default_rng([seed, i])) for i in range(count))
    for i, call in enumerate([*KNOWN, *drawn]):
        print(i, call, flush=True)
        refused += not run(call, i)
        if i % 50 == 49:
            jax.clear_caches()
    assert refused <= 0.02 * count, f"XLA refused {refused} of {count}"
    print("all right", flush=True)


if __name__ == "__main__":
    import tests.conftest  # noqa: F401  eight devices, strict numerics

    main(*map(int, sys.argv[1:]))
