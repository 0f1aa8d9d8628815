"""Every op on several devices: shard_map, explicit and automatic sharding."""

import contextlib

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.cases import Case, each_case, each_op, each_op_with
from tests.compare import assert_close, loss_of

BATCHED = {"where": lambda case: any(axis is not None for axis in case.batch)}


def _specs(case: Case) -> tuple[P, ...]:
    return tuple(P() if axis is None else P(*[None] * axis, "d") for axis in case.batch)


def _total(case: Case, f):
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
def test_grad_of_shard_map(case: Case, how, key):
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
        assert_close(jax.device_get(got), jax.device_get(jax.grad(loss_of(case.plain), n)(*args)))


@each_op_with("check_vma", [True, False], long=[False], **BATCHED)
def test_grad_inside_shard_map(case: Case, check_vma, key):
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
        assert_close(jax.device_get(got), jax.device_get(jax.grad(loss_of(case.plain), n)(*args)))


# JAX 0.12 cannot differentiate erfc in shard_map with check_vma=True, and gelu's backward holds one
@each_op(where=lambda case: BATCHED["where"](case) and case.name != "gelu", long=True)
def test_second_order_and_scan_in_shard_map(case: Case, key):
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

        return jax.jit(jax.grad(squared, n))(*args)

    assert_close(gradient(case.op), gradient(case.plain))


GRADIENTS = {
    "value and gradient": lambda f, n: jax.value_and_grad(loss_of(f), n),
    "hessian": lambda f, n: jax.hessian(loss_of(f), 0),
    "of one argument": lambda f, n: jax.grad(loss_of(f), 0),
    "checkpoint": lambda f, n: jax.grad(jax.checkpoint(loss_of(f)), n),
}


def has_layouts(case: Case) -> bool:
    return bool(case.layouts)


@each_op_with(
    "how",
    [(gradient, mesh_set) for gradient in GRADIENTS for mesh_set in (True, False)],
    long=[(gradient, False) for gradient in GRADIENTS] + [(g, True) for g in [*GRADIENTS][1:]],
    where=has_layouts,
)
def test_explicit_mesh(case: Case, how, key):
    """`jax.make_mesh`'s default: every contraction must know its result's sharding."""
    gradient, mesh_set = how
    mesh, n, args, _ = explicit(case, key)
    if case.plain_needs_mesh and not mesh_set:
        pytest.skip("JAX's own derivative fails there")
    for layout in case.layouts:
        placed = place(args, mesh, layout)
        with jax.set_mesh(mesh) if mesh_set else contextlib.nullcontext():
            hand, auto = (
                jax.jit(GRADIENTS[gradient](f, n))(*placed) for f in (case.op, case.plain)
            )
        assert_close(jax.device_get(hand), jax.device_get(auto))
        for h, a in zip(jax.tree.leaves(hand), jax.tree.leaves(auto), strict=True):
            assert h.sharding.spec == a.sharding.spec, layout


@each_op_with("how", ["eager", "mesh of the arrays"], where=has_layouts)
def test_explicit_mesh_and_one_device(case: Case, how, key):
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


def explicit(case: Case, key):
    mesh = jax.make_mesh((2, 2), ("d", "m"), axis_types=(AxisType.Explicit,) * 2)
    args = case.args(key)
    n = tuple(range(len(args)))
    return mesh, n, args, jax.device_get(jax.grad(loss_of(case.plain), n)(*args))


def place(args, mesh, layout):
    return [
        jax.device_put(a, NamedSharding(mesh, spec)) for a, spec in zip(args, layout, strict=True)
    ]


@each_case(where=has_layouts, brief=True)
def test_automatic_sharding(case: Case, key):
    mesh = jax.make_mesh((2, 2), ("d", "m"), axis_types=(AxisType.Auto,) * 2)
    args = case.args(key)
    n = tuple(range(len(args)))
    want = jax.device_get(jax.grad(loss_of(case.plain), n)(*args))
    for layout in case.layouts:
        shardings = [NamedSharding(mesh, spec) for spec in layout]
        placed = [jax.device_put(a, s) for a, s in zip(args, shardings, strict=True)]
        gradient = jax.jit(jax.grad(loss_of(case.op), n), out_shardings=tuple(shardings))
        assert_close(jax.device_get(gradient(*placed)), want)
