"""Every op lowers for CPU, CUDA and TPU, and a gradient survives being saved and loaded."""

import jax
from jax import export

from tests.cases import Call, each_case, each_op
from tests.compare import assert_close, loss_of


@each_case()
def test_gradient_lowers_for_every_platform(case: Call, key):
    args = case.args(key, "float32")
    gradient = jax.jit(jax.grad(loss_of(case.op), tuple(range(len(args)))))
    exported = export.export(gradient, platforms=["cpu", "cuda", "tpu"])(*args)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    again = export.deserialize(exported.serialize())
    assert_close(again.call(*args), gradient(*args), rtol=1e-6)


@each_op()
def test_exported_function_is_differentiated_by_our_rule(case: Call, key):
    """Exported with its derivative, it needs neither fnnet nor its Python any more."""
    args = case.args(key)
    n = tuple(range(len(args)))
    again = export.deserialize(export.export(jax.jit(case.op))(*args).serialize(vjp_order=1))
    got, want = (jax.jit(jax.grad(loss_of(f), n))(*args) for f in (again.call, case.plain))
    assert_close(got, want)


@each_op()
def test_symbolic_batch_size(case: Call, key):
    if all(axis is None for axis in case.batch):
        return
    args = case.args(key)
    shapes = [
        ", ".join("n" if axis == i else str(size) for i, size in enumerate(a.shape))
        for a, axis in zip(args, case.batch, strict=True)
    ]
    scope = export.SymbolicScope()
    specs = [
        jax.ShapeDtypeStruct(export.symbolic_shape(s, scope=scope), a.dtype)
        for s, a in zip(shapes, args, strict=True)
    ]
    gradient = jax.jit(jax.grad(loss_of(case.op), tuple(range(len(args)))))
    again = export.deserialize(export.export(gradient)(*specs).serialize())
    assert_close(again.call(*args), gradient(*args))
