"""Values and cotangents: against autodiff, the NumPy twin, differences, and rounding's bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.cases import Call, each_case, each_case_with
from tests.compare import assert_close, cotangent_like, normal, passes


def cotangent_for(case, args):
    return cotangent_like(jax.random.key(1), jax.eval_shape(case.plain, *args))


LOW = ["float32", "bfloat16", "float16"]


@each_case()
def test_value_and_every_cotangent_against_autodiff(case: Call, key):
    args = case.args(key)
    g = cotangent_for(case, args)
    assert_close(passes(case.op, args, g), passes(case.plain, args, g))


@each_case(where=lambda case: case.complex_too)
def test_complex_arguments_follow_jax_convention(case: Call, key):
    args = case.args(key, "complex128")
    g = cotangent_for(case, args)
    assert_close(passes(case.op, args, g), passes(case.plain, args, g))


@each_case()
def test_fwd_and_bwd_usable_alone(case: Call, key):
    args = case.args(key)
    g = cotangent_for(case, args)

    @jax.jit
    def alone(args, g):
        out, res = case.fwd(*args)
        return out, tuple(ct for ct in case.bwd(res, g) if ct is not None)

    assert_close(alone(args, g), passes(case.plain, args, g))


@each_case()
def test_against_the_numpy_twin(case: Call, key):
    """Called eagerly."""
    args = case.args(key)
    out, vjp = jax.vjp(case.op, *args)
    g = cotangent_like(jax.random.key(1), out)
    twin = case.twin(*map(np.asarray, args), np.asarray(g))
    assert_close(tuple(map(np.asarray, vjp(g))), tuple(map(np.asarray, twin)))


@each_case()
def test_against_central_differences(case: Call, key):
    """Along random directions; (f(x+h) - f(x-h)) / 2h errs by h² and by rounding / h."""
    args = case.args(key)
    g = cotangent_for(case, args)
    value = jax.jit(lambda *args: jnp.sum(case.op(*args) * g))
    _, cts = passes(case.op, args, g)
    directions = normal(jax.random.key(2), case.shapes, "float64")
    h = 1e-5
    for number, (ct, v) in enumerate(zip(cts, map(np.asarray, directions), strict=True)):

        def along(t, number=number, v=v):
            return float(
                value(*args[:number], np.asarray(args[number] + t * v), *args[number + 1 :])
            )

        slope = (along(h) - along(-h)) / (2 * h)
        assert slope == pytest.approx(float(np.sum(ct * v)), rel=1e-7, abs=1e-9)


@each_case_with("dtype", LOW, long=["float32", "float16"])
def test_low_precision_within_rounding(case: Call, dtype, key):
    """Within the error that rounding explains, elementwise.

    A sum of k products, each and every partial sum rounded to float32 (unit u32), errs by at most
    about k u32 Σ|terms|; casting the sum to `dtype` adds u |sum|; an op may round to `dtype` once
    more on the way (mse's difference, squared: twice), or, where the row says so, a state or a
    pre-activation. The reference is float64 of the same inputs.
    """
    args = case.args(key, dtype)
    g = cotangent_for(case, args)
    exact, exact_g = [np.asarray(a, "float64") for a in args], np.asarray(g, "float64")
    got_value, got_cts = passes(case.op, args, g)
    value, cts = passes(case.plain, exact, exact_g)
    if case.majorant:
        size, sizes = passes(case.majorant, [*map(np.abs, exact)], np.abs(exact_g))
    else:
        most = np.abs(exact_g).max()
        size, *sizes = (np.abs(leaf).max() + most for leaf in (value, *cts))
    u, u32 = float(jnp.finfo(dtype).eps) / 2, float(jnp.finfo("float32").eps) / 2
    least = float(jnp.finfo(dtype).smallest_subnormal)
    for got, exactly, bound in zip(
        (got_value, *got_cts), (value, *cts), (size, *sizes), strict=True
    ):
        assert got.dtype == dtype
        size = np.abs(bound)
        allowed = 4 * u * np.abs(exactly) + (case.terms * u32 + case.rounded * u) * size + least
        assert (np.abs(np.asarray(got, "float64") - exactly) <= allowed).all()


def test_low_precision_sums_are_held_in_float32():
    """4096 products of 1: bfloat16 stops counting at 256, float16 at 2048."""
    from fnnet import lin, matmul, mse

    def total(w, b, x):
        return lin(x, w, b).sum().astype("float32")

    for dtype in ("bfloat16", "float16"):
        x, w = jnp.ones((4096, 1), dtype), jnp.ones((1, 1), dtype)
        dw, db = jax.grad(total, (0, 1))(w, w[0], x)
        assert (float(dw[0, 0]), float(db[0])) == (4096, 4096)
        assert float(matmul(x.T, x)[0, 0]) == 4096
        assert float(lin(x.T, x)[0, 0]) == 4096
        assert float(mse(x, 0 * x)) == 1
        # the mean of 4096 large squares: each, and their sum, is beyond float16
        assert float(mse(300 * x, 298 * x)) == 4


@each_case(where=lambda case: bool(case.kinks))
def test_kinks(case: Call):
    for at, derivative in case.kinks:
        x = jnp.array(at)
        assert jax.vmap(jax.grad(case.op))(x).tolist() == list(derivative)
        assert jax.vmap(jax.grad(case.plain))(x).tolist() == list(derivative)


@each_case()
def test_the_op_is_its_own_plain_function(case: Call, key):
    """`plain(op)` differentiates the op's forward text: the same derivative, by autodiff."""
    import fnnet

    args = case.args(key)
    np.testing.assert_array_equal(case.op(*args), fnnet.plain(case.op)(*args))
    g = cotangent_for(case, args)
    assert_close(passes(case.op, args, g), passes(fnnet.plain(case.op), args, g))
