"""Tangents of what is linear in each argument: matmul, lin, unfold, fold, conv2d, avg_pool.

`NAME_jvp(*args, *tangents, **options)` gives the tangent of the output from those of the arguments
in the order of `NAME_vjp`'s cotangents. A linear function is its own derivative, so f(dx) is the
tangent of f(x); of a product, linear in each of two arguments, it is f(dx, w) + f(x, dw). A bias is
added once, its tangent too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .dense import lin, matmul
from .elementary import Array
from .images import avg_pool, conv2d, fold, unfold


def matmul_jvp(a: Array, b: Array, da: Array, db: Array) -> Array:
    """The tangent of a b: da b + a db."""
    return matmul(da, b) + matmul(a, db)


def lin_jvp(x: Array, w: Array, b: Array | None, dx: Array, dw: Array, db: Array | None) -> Array:
    """The tangent of x w + b: dx w + x dw + db; db is None where b is."""
    return lin(dx, w) + lin(x, dw, db)


def conv2d_jvp(
    x: Array, w: Array, b: Array | None, dx: Array, dw: Array, db: Array | None, **options: Any
) -> Array:
    """The tangent of the cross-correlation of x and w: that of dx and w, and that of x and dw."""
    return conv2d(dx, w, **options) + conv2d(x, dw, db, **options)


def unfold_jvp(x: Array, size: Any, dx: Array, **options: Any) -> Array:
    """The tangent of the patches: the patches of the tangent."""
    return unfold(dx, size, **options)


def fold_jvp(p: Array, shape: Sequence[int], size: Any, dp: Array, **options: Any) -> Array:
    """The tangent of the image: the image of the tangent."""
    return fold(dp, shape, size, **options)


def avg_pool_jvp(x: Array, size: Any, dx: Array, **options: Any) -> Array:
    """The tangent of the means: the means of the tangent."""
    return avg_pool(dx, size, **options)
