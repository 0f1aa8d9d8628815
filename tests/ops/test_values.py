"""Values and cotangents: against autodiff, the NumPy twin, differences, and rounding's bounds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.cases import Case, each_case, each_case_with
from tests.compare import assert_close, cotangent_like


@functools.partial(jax.jit, static_argnums=0)
def passes(f, args, g):
    """The value and the cotangents of f, compiled as one."""
    out, vjp = jax.vjp(f, *args)
    return out, vjp(g.astype(out.dtype))


def cotangent_for(case, args):
    return cotangent_like(jax.random.key(1), jax.eval_shape(case.plain, *args))


LOW = ["float32", "bfloat16", "float16"]


@each_case()
def test_value_and_every_cotangent_against_autodiff(case: Case, key):
    args = case.args(key)
    out, vjp = jax.vjp(case.op, *args)
    want, plain_vjp = jax.vjp(case.plain, *args)
    assert_close(out, want)
    g = cotangent_like(jax.random.key(1), out)
    assert_close(vjp(g), plain_vjp(g))


@each_case(where=lambda case: case.complex_too)
def test_complex_arguments_follow_jax_convention(case: Case, key):
    args = case.args(key, "complex128")
    g = cotangent_for(case, args)
    assert_close(passes(case.op, args, g), passes(case.plain, args, g))


@each_case(brief=True)
def test_fwd_and_bwd_usable_alone(case: Case, key):
    args = case.args(key)
    out, res = case.fwd(*args)
    assert_close(out, case.plain(*args))
    g = cotangent_like(jax.random.key(1), out)
    cotangents = case.bwd(res, g)
    found = tuple(ct for ct in cotangents if ct is not None)
    assert_close(found, jax.vjp(case.plain, *args)[1](g))


@each_case()
def test_against_the_numpy_twin(case: Case, key):
    args = case.args(key)
    out, vjp = jax.vjp(case.op, *args)
    g = cotangent_like(jax.random.key(1), out)
    twin = case.twin(*map(np.asarray, args), np.asarray(g))
    assert_close(tuple(map(np.asarray, vjp(g))), tuple(map(np.asarray, twin)))


@each_case(brief=True)
def test_against_central_differences(case: Case, key):
    """Along random directions; (f(x+h) - f(x-h)) / 2h errs by h² and by rounding / h."""
    args = case.args(key)
    out, vjp = jax.vjp(case.op, *args)
    g = cotangent_like(jax.random.key(1), out)
    h = 1e-5
    for number, (arg, ct) in enumerate(zip(args, vjp(g), strict=True)):
        v = jax.random.normal(jax.random.fold_in(jax.random.key(2), number), arg.shape)

        def along(t, number=number, v=v):
            moved = [a + t * v if i == number else a for i, a in enumerate(args)]
            return float(jnp.sum(case.op(*moved) * g))

        slope = (along(h) - along(-h)) / (2 * h)
        assert slope == pytest.approx(float(jnp.sum(ct * v)), rel=1e-7, abs=1e-9)


@each_case_with("dtype", LOW, long=["float32", "float16"], brief=True)
def test_low_precision_within_rounding(case: Case, dtype, key):
    """Within the error that rounding explains, elementwise.

    A sum of k products, each and every partial sum rounded to float32 (unit u32), errs by at most
    about k u32 Σ|terms|; casting the sum to `dtype` adds u |sum|; an op may round to `dtype` once
    more on the way (mse's difference, squared: twice), or, where the row says so, a state or a
    pre-activation. The reference is float64 of the same inputs.
    """
    args = case.args(key, dtype)
    exact = [a.astype("float64") for a in args]
    g = cotangent_for(case, args)
    got_value, got_cts = passes(case.op, args, g)
    value, cts = passes(case.plain, exact, g.astype("float64"))
    if case.majorant:
        size, sizes = passes(case.majorant, [*map(jnp.abs, exact)], jnp.abs(g.astype("float64")))
    else:
        most = jnp.abs(g).max().astype("float64")
        size, *sizes = (jnp.abs(leaf).max() + most for leaf in (value, *cts))
    u, u32 = float(jnp.finfo(dtype).eps) / 2, float(jnp.finfo("float32").eps) / 2
    least = float(jnp.finfo(dtype).smallest_subnormal)
    for got, exactly, bound in zip(
        (got_value, *got_cts), (value, *cts), (size, *sizes), strict=True
    ):
        assert got.dtype == dtype
        size = jnp.abs(bound).astype("float64")
        allowed = 4 * u * jnp.abs(exactly) + (case.terms * u32 + case.rounded * u) * size + least
        assert (jnp.abs(got.astype("float64") - exactly) <= allowed).all()


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
def test_kinks(case: Case):
    for at, derivative in case.kinks:
        x = jnp.array(at)
        assert jax.vmap(jax.grad(case.op))(x).tolist() == list(derivative)
        assert jax.vmap(jax.grad(case.plain))(x).tolist() == list(derivative)


@each_case(brief=True, long=True)
def test_the_op_is_its_own_plain_function(case: Case, key):
    """`plain(op)` differentiates the op's forward text: the same derivative, by autodiff."""
    import fnnet

    args = case.args(key)
    np.testing.assert_array_equal(case.op(*args), fnnet.plain(case.op)(*args))
    g = cotangent_for(case, args)
    assert_close(passes(case.op, args, g), passes(fnnet.plain(case.op), args, g))
