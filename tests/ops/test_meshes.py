"""Every op on several devices: shard_map, explicit and automatic sharding."""

import contextlib
import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.cases import CASES, Call, each_case, each_op, each_op_with
from tests.compare import assert_close, loss_of

BATCHED = {"where": lambda case: any(axis is not None for axis in case.batch)}


def _specs(case: Call) -> tuple[P, ...]:
    return tuple(P() if axis is None else P(*[None] * axis, "d") for axis in case.batch)


def on_one(case: Call, args):
    """The gradient of the plain form on one device."""
    gradient = jax.jit(jax.grad(loss_of(case.plain), tuple(range(len(args)))))
    return jax.device_get(gradient(*args))


def _total(case: Call, f):
    """The loss over all devices, from each one's share."""

    def loss(*args):
        return (
            lax.pmean(jnp.sin(f(*args)), "d") if case.scalar else lax.psum(loss_of(f)(*args), "d")
        )

    return loss


@each_op_with(
    "how",
    [(compiled, check_vma) for compiled in (True, False) for check_vma in (True, False)],
    long=[(True, False), (False, True), (False, False)],
    **BATCHED,
)
def test_grad_of_shard_map(case: Call, how, key):
    compiled, check_vma = how
    mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))
    args = case.args(key)
    n = tuple(range(len(args)))

    def gradient(f):
        mapped = jax.shard_map(
            _total(case, f), mesh=mesh, in_specs=_specs(case), out_specs=P(), check_vma=check_vma
        )
        return (jax.jit if compiled else lambda f: f)(jax.grad(mapped, n))(*args)

    got = gradient(case.op)
    assert_close(got, gradient(case.plain))
    if not case.scalar:  # and the same as on one device
        assert_close(jax.device_get(got), on_one(case, args))


@each_op_with("check_vma", [True, False], long=[False], **BATCHED)
def test_grad_inside_shard_map(case: Call, check_vma, key):
    mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))
    args = case.args(key)
    n = tuple(range(len(args)))

    def gradient(f):
        # unchecked, each device has its own gradient of a replicated weight: look at all of them
        def local(*args):
            cts = jax.grad(_total(case, f), n)(*args)
            return cts if check_vma else [ct[None] for ct in cts]

        mapped = jax.shard_map(
            local,
            mesh=mesh,
            in_specs=_specs(case),
            out_specs=_specs(case) if check_vma else [P("d")] * len(args),
            check_vma=check_vma,
        )
        return jax.jit(mapped)(*args)

    got = gradient(case.op)
    assert_close(got, gradient(case.plain))
    if check_vma and not case.scalar:
        assert_close(jax.device_get(got), on_one(case, args))


@each_op(**BATCHED)
def test_second_order_and_scan_in_shard_map(case: Call, key):
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
    args = case.args(key)
    n = tuple(range(len(args)))

    def gradient(f):
        def loss(*args):
            def step(total, scale):
                return total + scale * _total(case, jax.checkpoint(f))(*args), None

            start = jnp.zeros(())
            return lax.scan(step, start, jnp.arange(1.0, 3.0))[0]

        mapped = jax.shard_map(loss, mesh=mesh, in_specs=_specs(case), out_specs=P())

        def squared(*args):
            return sum(jnp.sum(jnp.cos(ct + 1)) for ct in jax.grad(mapped, n)(*args))

        return jax.grad(squared, n)

    both = jax.jit(lambda *args: [gradient(f)(*args) for f in (case.op, case.plain)])
    assert_close(*both(*args))


GRADIENTS = {
    "value and gradient": lambda f, n: jax.value_and_grad(loss_of(f), n),
    "hessian": lambda f, n: jax.hessian(loss_of(f), 0),
    "of one argument": lambda f, n: jax.grad(loss_of(f), 0),
    "checkpoint": lambda f, n: jax.grad(jax.checkpoint(loss_of(f)), n),
}


def has_layouts(case: Call) -> bool:
    return bool(case.layouts)


@each_op_with(
    "how",
    [(gradient, mesh_set) for gradient in GRADIENTS for mesh_set in (True, False)],
    long=[(gradient, False) for gradient in GRADIENTS] + [(g, True) for g in [*GRADIENTS][1:]],
    where=has_layouts,
)
def test_explicit_mesh(case: Call, how, key):
    """`jax.make_mesh`'s default: every contraction must know its result's sharding."""
    gradient, mesh_set = how
    mesh, n, args, _ = explicit(case, key)
    if not mesh_set:
        case.excuse("test_explicit_mesh: no mesh is set")
    for layout in case.layouts:
        placed = place(args, mesh, layout)
        with jax.set_mesh(mesh) if mesh_set else contextlib.nullcontext():
            hand, auto = (
                jax.jit(GRADIENTS[gradient](f, n))(*placed) for f in (case.op, case.plain)
            )
        assert_close(jax.device_get(hand), jax.device_get(auto))
        for h, a in zip(jax.tree.leaves(hand), jax.tree.leaves(auto), strict=True):
            assert h.sharding.spec == a.sharding.spec, layout


@each_op_with("how", ["eager", "mesh of the arrays"], long=["eager"], where=has_layouts)
def test_explicit_mesh_and_one_device(case: Call, how, key):
    mesh, n, args, want = explicit(case, key)
    gradient = jax.grad(loss_of(case.op), n)
    for layout in case.layouts:
        placed = place(args, mesh, layout)
        if how == "eager":
            with jax.set_mesh(mesh):
                got = gradient(*placed)
        else:
            got = jax.jit(gradient)(*placed)
        assert_close(jax.device_get(got), want)


def explicit(case: Call, key):
    mesh = jax.make_mesh((2, 2), ("d", "m"), axis_types=(AxisType.Explicit,) * 2)
    args = case.args(key)
    n = tuple(range(len(args)))
    return mesh, n, args, on_one(case, args)


def place(args, mesh, layout):
    return [
        jax.device_put(a, NamedSharding(mesh, spec)) for a, spec in zip(args, layout, strict=True)
    ]


@each_case(where=has_layouts)
def test_automatic_sharding(case: Call, key):
    mesh = jax.make_mesh((2, 2), ("d", "m"), axis_types=(AxisType.Auto,) * 2)
    args = case.args(key)
    n = tuple(range(len(args)))
    want = on_one(case, args)
    for layout in case.layouts:
        shardings = [NamedSharding(mesh, spec) for spec in layout]
        placed = [jax.device_put(a, s) for a, s in zip(args, shardings, strict=True)]
        gradient = jax.jit(jax.grad(loss_of(case.op), n), out_shardings=tuple(shardings))
        assert_close(jax.device_get(gradient(*placed)), want)


AUTO, EXPLICIT = AxisType.Auto, AxisType.Explicit
DRAWS = [(kind, i) for i in range(6) for kind in ("automatic", "explicit")]


@functools.cache
def on_one_device(name: str):
    """Arguments of a row, and value and gradient there."""
    case = next(case for case in CASES if case.name == name)
    args = case.args(jax.random.key(20_261_121))
    both = jax.jit(jax.value_and_grad(loss_of(case.op), tuple(range(len(args)))))
    return args, jax.device_get(both(*args))


def drawn_layout(case: Call, rng: np.random.Generator) -> list[P]:
    """A mesh axis, or both, for any axes of the arguments that can be cut in as many parts."""

    def spec(shape) -> P:
        names: list = [None] * len(shape)
        for name in rng.permutation(["d", "m"]):
            fits = [i for i, size in enumerate(shape) if size % 2 == 0 and names[i] is None]
            if fits and rng.random() < 0.7:
                names[rng.choice(fits)] = str(name)
        return P(*names)

    return [spec(shape) for shape in case.shapes]


@each_op_with("draw", DRAWS, long=DRAWS[2:])
def test_drawn_axes_of_drawn_arguments_are_cut(case: Call, draw):
    """Value and gradient as on one device, wherever JAX runs the op written without our rule."""
    kind, number = draw
    rng = np.random.default_rng([number, *case.name.encode()])
    layout = drawn_layout(case, rng)
    args, want = on_one_device(case.name)
    mesh = jax.make_mesh((2, 2), ("d", "m"), axis_types=(EXPLICIT if "ex" in kind else AUTO,) * 2)
    placed = place(args, mesh, layout)

    def gradient(f):
        return jax.jit(jax.value_and_grad(loss_of(f), tuple(range(len(args)))))

    with jax.set_mesh(mesh):
        if kind == "explicit":
            try:
                gradient(case.plain).trace(*placed)
            except Exception as e:
                pytest.skip(f"JAX's own op raises {type(e).__name__} for {layout}")
        got = gradient(case.op)(*placed)
    assert_close(jax.device_get(got), want)


def drawn_images(seed: int, count: int) -> None:
    """XLA's aborts cannot be caught: in a process of its own, which says what it does."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "tests.ops.drawn_meshes", str(seed), str(count)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    calls = [line for line in done.stdout.splitlines() if line]
    assert done.returncode == 0, f"{calls[-1:]} ended it:\n{done.stderr[-2000:]}"
    assert calls[-1] == "all right"


@pytest.mark.further
def test_no_drawn_axis_of_an_image_ends_the_process():
    drawn_images(seed=7, count=8)


@pytest.mark.further
@pytest.mark.thorough
def test_no_drawn_axis_of_an_image_ends_the_process_hundreds():
    drawn_images(seed=6, count=200)
