"""The matrix product written five ways, from three loops that the reader writes to none.

    c_ij = Σ_l a_il b_lj        a is (m, k), b is (k, n), c is (m, n)

rung                what the reader still writes       what runs as one operation
matmul_loops        loops over i, j and l              one multiplication and one addition
matmul_rowcol       loops over i and j                 a row times a column, summed
matmul_broadcast    a loop over i                      a row times the whole of b, summed over l
matmul_einsum       the indices, 'il,lj->ij'           the product
matmul_operator     a @ b                              the product

Called with arrays the loops are Python's, as one would write them at first: that is the slowness
the ladder is there to show. Under `jax.jit`, `jax.vmap`, `jax.grad` and the other transformations
an argument has no value yet, and a Python loop would be unrolled into m·n or more copies of its
body: there the same loops are `lax` ones. The values agree to rounding; in 16-bit dtypes every rung
adds up in float32 and rounds once. (On devices whose matrix units round float32 inputs, the last
two agree as far as `jax.default_matmul_precision` says.) All are differentiated by JAX's own rules:
the product with a hand-derived gradient is `fnnet.matmul`.

`RUNGS` is the table of all five, each with its plain, its jit-compiled and its vmap-compiled form.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

MatmulFn = Callable[[ArrayLike, ArrayLike], Array]
Index = int | Array
Loop = Callable[[Callable[[Index], Array], int, tuple[int, ...]], Array]


def matmul_loops(a: ArrayLike, b: ArrayLike) -> Array:
    """The product by three loops, one multiplication at a time.

    Called with arrays it computes with Python's own numbers, so float32 input is added up in double
    precision and rounded at the end.

    Args:
        a: matrix (m, k).
        b: matrix (k, n).

    Returns:
        matrix (m, n), of the dtype that `a @ b` has.

    Raises:
        ValueError: if `a` or `b` is no matrix, or a has not as many columns as b has rows.

    >>> matmul_loops(jnp.arange(9).reshape(3, 3), jnp.arange(15).reshape(3, 5))[0].tolist()
    [25, 28, 31, 34, 37]
    """
    a, b = _matrices("matmul_loops", a, b)
    if _loop(a, b) is _lax_loop:
        return _matmul_lax_loops(a, b)
    rows, columns = a.tolist(), b.T.tolist()
    c = []
    for row in rows:
        line = []
        for column in columns:
            total = 0
            for x, y in zip(row, column, strict=True):
                total += x * y
            line.append(total)
        c.append(line)
    wide = np.asarray(c).reshape(a.shape[0], b.shape[1])
    with np.errstate(over="ignore"):  # beyond the dtype's largest number is inf, as in a @ b
        return jnp.asarray(wide.astype(jnp.result_type(a, b)))


def matmul_rowcol(a: ArrayLike, b: ArrayLike) -> Array:
    """The product by two loops: row i times column j elementwise, then the sum.

    Arguments, result and errors are those of `matmul_loops`.

    >>> matmul_rowcol(jnp.eye(2), jnp.array([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [[1.0, 2.0], [3.0, 4.0]]
    """
    a, b = _matrices("matmul_rowcol", a, b)
    dtype = jnp.result_type(a, b)
    a, b, loop = _wide(a), _wide(b), _loop(a, b)
    (m, _), (_, n) = a.shape, b.shape
    return loop(lambda i: loop(lambda j: jnp.sum(a[i] * b[:, j]), n, ()), m, (n,)).astype(dtype)


def matmul_broadcast(a: ArrayLike, b: ArrayLike) -> Array:
    """The product by one loop: row i as a column (k, 1), broadcast against b (k, n), then the sum.

    Broadcasting the last loop away too would hold m·k·n numbers at once when not compiled; a row at
    a time holds k·n. Arguments, result and errors are those of `matmul_loops`.

    >>> matmul_broadcast(jnp.eye(2), jnp.array([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [[1.0, 2.0], [3.0, 4.0]]
    """
    a, b = _matrices("matmul_broadcast", a, b)
    dtype = jnp.result_type(a, b)
    a, b, loop = _wide(a), _wide(b), _loop(a, b)
    (m, _), (_, n) = a.shape, b.shape
    return loop(lambda i: jnp.sum(a[i][:, None] * b, axis=0), m, (n,)).astype(dtype)


def matmul_einsum(a: ArrayLike, b: ArrayLike) -> Array:
    """The product in index notation: a repeated index that the result lacks is summed over.

    Arguments, result and errors are those of `matmul_loops`.

    >>> matmul_einsum(jnp.eye(2), jnp.array([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [[1.0, 2.0], [3.0, 4.0]]
    """
    a, b = _matrices("matmul_einsum", a, b)
    return jnp.einsum("il,lj->ij", a, b)


def matmul_operator(a: ArrayLike, b: ArrayLike) -> Array:
    """The product as `a @ b`.

    Arguments, result and errors are those of `matmul_loops`.

    >>> matmul_operator(jnp.eye(2), jnp.array([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [[1.0, 2.0], [3.0, 4.0]]
    """
    a, b = _matrices("matmul_operator", a, b)
    return a @ b


class Rung(NamedTuple):
    """One way to write the product, in its three forms.

    Attributes:
        name: the function's name.
        plain: the function, (m, k) and (k, n) to (m, n).
        jit: the same, compiled.
        vmap: the same over a leading axis of both, compiled: (s, m, k) and (s, k, n) to (s, m, n).
    """

    name: str
    plain: MatmulFn
    jit: MatmulFn
    vmap: MatmulFn


RUNGS: tuple[Rung, ...] = tuple(
    Rung(rung.__name__, rung, jax.jit(rung), jax.jit(jax.vmap(rung)))
    for rung in (matmul_loops, matmul_rowcol, matmul_broadcast, matmul_einsum, matmul_operator)
)


def _matmul_lax_loops(a: Array, b: Array) -> Array:
    dtype = jnp.result_type(a, b)
    a, b = _wide(a), _wide(b)
    (m, k), (_, n) = a.shape, b.shape
    zero = jnp.zeros((), jnp.result_type(a, b))

    def element(i: Index, j: Index) -> Array:
        total = zero
        if k:  # an axis without elements cannot be indexed, not even in a body that never runs
            total = lax.fori_loop(0, k, lambda l, total: total + a[i, l] * b[l, j], zero)
        return total

    return _lax_loop(lambda i: _lax_loop(lambda j: element(i, j), n, ()), m, (n,)).astype(dtype)


def _loop(a: Array, b: Array) -> Loop:
    traced = isinstance(a, jax.core.Tracer) or isinstance(b, jax.core.Tracer)
    return _lax_loop if traced else _python_loop


def _python_loop(f: Callable[[Index], Array], n: int, shape: tuple[int, ...]) -> Array:
    """f(0), ..., f(n - 1) stacked, each of this shape."""
    return jnp.stack([f(i) for i in range(n)]) if n else jnp.zeros((0, *shape))


def _lax_loop(f: Callable[[Index], Array], n: int, shape: tuple[int, ...]) -> Array:
    """The same as one operation, whose size does not grow with n."""
    return lax.map(f, jnp.arange(n)) if n else jnp.zeros((0, *shape))


def _wide(x: Array) -> Array:
    narrow = jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize < 4
    return x.astype(jnp.float32) if narrow else x


def _matrices(name: str, a: ArrayLike, b: ArrayLike) -> tuple[Array, Array]:
    a, b = jnp.asarray(a), jnp.asarray(b)
    if a.ndim != 2 or b.ndim != 2:
        raise ValueError(
            f"{name}: a and b must be matrices, got shapes {a.shape} and {b.shape}; "
            "for batches of matrices use jax.vmap or RUNGS"
        )
    if a.shape[1] != b.shape[0]:
        hint = "; b.T would fit" if a.shape[1] == b.shape[1] else ""
        raise ValueError(
            f"{name}: a {a.shape} has {a.shape[1]} columns and b {b.shape} has {b.shape[0]} rows, "
            f"which must be equal{hint}"
        )
    return a, b
