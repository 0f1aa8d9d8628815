"""Rules around `jax.ffi.ffi_call`: a Cholesky factor by the LAPACK that JAX itself brings for CPUs.

a = l lᵀ, of which LAPACK reads the lower triangle
s = l⁻ᵀ phi(lᵀ g) l⁻¹     phi: the lower triangle, half of its diagonal
da = the lower triangle of s + sᵀ, half of its diagonal
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular

from .row import bug, normal, positive, right, rule

_TARGETS = {"float32": "lapack_spotrf_ffi", "float64": "lapack_dpotrf_ffi"}


def _factor(a):
    columns = (*range(a.ndim - 2), a.ndim - 1, a.ndim - 2)
    call = jax.ffi.ffi_call(
        _TARGETS[str(a.dtype)],
        (jax.ShapeDtypeStruct(a.shape, a.dtype), jax.ShapeDtypeStruct(a.shape[:-2], jnp.int32)),
        input_layouts=[columns],
        output_layouts=[columns, None],
        vmap_method="broadcast_all",
    )
    return jnp.tril(call(a, uplo=np.uint8(ord("L")))[0])


def _half(x, diagonal=0.5):
    return jnp.tril(x) - (1 - diagonal) * jnp.diag(jnp.diag(x))


def _pulled(l, g, phi=_half, spread=_half):
    half = solve_triangular(l, phi(l.T @ g), lower=True, trans=1)
    s = solve_triangular(l, half.T, lower=True, trans=1)
    return spread(s + s.T)


def _a():
    # jaxlib finds SciPy's LAPACK when JAX first asks for it: a target called before that crashes
    jnp.linalg.cholesky(jnp.eye(2, dtype="float32")).block_until_ready()
    x = normal(4, 4)
    return x @ x.T + 2 * jnp.eye(4, dtype="float32")


def _row(**how):
    return lambda: (rule(_factor, lambda a, l, g: (_pulled(l, g, **how),)), (_a(),))


right("cholesky by LAPACK, through the FFI")(_row())
bug("cholesky by LAPACK: the diagonal whole", "elements", "unknown", "missing_term")(
    _row(phi=jnp.tril)
)
bug("cholesky by LAPACK: of a symmetric argument", "elements", "unknown", "missing_term")(
    _row(spread=lambda s: s / 2)
)


def _log_det(a):
    return 2 * jnp.log(jnp.diagonal(_factor(a))).sum()


def _inverse(a):
    l = _factor(a)
    return solve_triangular(
        l, solve_triangular(l, jnp.eye(len(a), dtype=a.dtype), lower=True), lower=True, trans=1
    )


@right("log determinant by LAPACK, through the FFI")
def _():
    # of a symmetric matrix of which the lower triangle is read
    def bwd(args, y, g):
        s = g * _inverse(args[0])
        return (_half(2 * s),)

    return rule(_log_det, bwd), (_a(),)


@bug("log determinant by LAPACK: the transpose's", "elements", "unknown", "transposed")
def _():
    def bwd(args, y, g):
        return (_half(2 * g * _inverse(args[0])).T,)

    return rule(_log_det, bwd), (_a(),)


def _solve(l, x):
    """The x of ``l x = b``, for a lower triangle and columns."""
    call = jax.ffi.ffi_call(
        "lapack_strsm_ffi" if l.dtype == jnp.float32 else "lapack_dtrsm_ffi",
        jax.ShapeDtypeStruct(x.shape, x.dtype),
        input_layouts=[(1, 0), (1, 0)],
        output_layouts=(1, 0),
        input_output_aliases={1: 0},
        vmap_method="sequential",
    )
    words = {"side": "L", "uplo": "L", "trans_x": "N", "diag": "N"}
    return call(l, x, **{k: np.uint8(ord(v)) for k, v in words.items()})


def _solved(transposed):
    def bwd(args, y, g):
        v = solve_triangular(args[0], g, lower=True, trans=transposed)
        return jnp.tril(-v @ y.T), v

    def build():
        return rule(_solve, bwd), (jnp.linalg.cholesky(_a()), positive(4, 2))

    return build


right("triangular solve by LAPACK, through the FFI")(_solved(1))
bug("triangular solve by LAPACK: the solve not transposed", "elements", "unknown", "transposed")(
    _solved(0)
)
