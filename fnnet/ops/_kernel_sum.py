"""Sums of a kernel over all pairs of points, without ever holding the matrix of pairs.

    kernel_sum : p (..., n, d), q (..., m, d), weights w (..., m), scale s -> y (..., n)

Axes: i of n points, j of m points, k of d features; leading ones of the batch are left out.

Forward
    x_ijk = (p_ik - q_jk) / s           r_ij = Σ_k x_ijk²           y_i = Σ_j w_j φ(r_ij)
    gaussian    φ(r) = e^(-r/2)
    laplacian   φ(r) = e^(-√r)
    rq          φ(r) = 1 / (1 + r/2)                rational quadratic

Backward, with g_i = ∂L/∂y_i
    Each weight is a factor:
        dw_j = Σ_i g_i φ(r_ij)
    The cotangent of r_ij is g_i w_j φ'(r_ij), and ∂r_ij/∂p_ik = 2 x_ijk / s = -∂r_ij/∂q_jk. With
    a_ij = 2 g_i w_j φ'(r_ij) and φ for φ(r_ij)
        gaussian    2 φ' = -φ
        laplacian   2 φ' = -φ / √r      and 0 at r = 0, where φ has a kink
        rq          2 φ' = -φ²
        dp_ik = Σ_j a_ij x_ijk / s          dq_jk = -Σ_i a_ij x_ijk / s
    and ∂r_ij/∂s = -2 r_ij / s:
        ds = -Σ_ij a_ij r_ij / s
    Without q, the sum is over p itself, and p has the sum of dp and dq.

Blocks
    Both passes take `block` points p and `block` points q at a time: arrays of block² numbers are
    all they hold beside arguments and results. φ is made again in the backward pass. Differences
    are taken before they are squared: see _differences.py.

Residuals
    p, q, w and s, the caller's arrays. Autodiff keeps arrays of n m d numbers.
    Sums run in float32 for float16 and bfloat16.

References
    B. Charlier et al., Kernel operations on the GPU, with autodiff, without memory overflows
    (KeOps), arXiv:2004.11127.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from fnnet.ops._checks import floats
from fnnet.ops._compiled import compiled
from fnnet.ops._differences import over_features, over_points, require_points
from fnnet.ops._options import Number, choice, in_dtype, number, whole_number
from fnnet.ops._tiles import _cut, padded
from fnnet.ops._vector_norm import root
from fnnet.rules import Static, accumulator, register, spread

Kernel: TypeAlias = Literal["gaussian", "laplacian", "rq"]
Residuals: TypeAlias = tuple[
    jax.Array, jax.Array | None, jax.Array | None, jax.Array | None, Static
]

BLOCK = (
    128  # points; a block of BLOCK x BLOCK pairs stays in a core's cache while features are added
)


@dataclasses.dataclass(frozen=True)
class Options:
    """The keyword arguments; `scale` where it is a Python number."""

    kernel: Kernel
    scale: float | None
    block: int | None


@compiled(
    kernel=choice("gaussian", "laplacian", "rq"),
    scale=number(0.0, above=True),
    block=whole_number(1, or_none="128"),
)
def kernel_sum(
    p: Float[ArrayLike, "*batch n d"],
    q: Float[ArrayLike, "*batch m d"] | None = None,
    weights: Float[ArrayLike, "*batch m"] | None = None,
    *,
    kernel: Kernel = "gaussian",
    scale: Number = 1.0,
    block: int | None = None,
) -> Float[Array, "*batch n"]:
    """At each point of `p`, the sum over all points of `q` of ``weights * k(distance / scale)``.

    Args:
        p: n points of d features, shape (..., n, d), real floating point. Leading axes are batch
            axes.
        q: m points, shape (..., m, d); None stands for `p` itself.
        weights: of the points of `q`, shape (..., m); 1 by default.
        kernel: "gaussian" for k(r) = exp(-r²/2), "laplacian" for exp(-r), "rq" (rational quadratic)
            for 1 / (1 + r²/2).
        scale: what distances are divided by, above 0. An array of no axes has a derivative: a
            learned length scale.
        block: how many points of each are taken at a time at most; 128 by default. The result is
            the same but for rounding, scratch memory grows with its square.

    Returns:
        Shape (..., n), in the dtype of the arrays.

    Raises:
        TypeError: for arrays that are not of real floating point dtype.
        ValueError: for shapes that do not fit, and options out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnnet import kernel_sum
        >>> p = jnp.array([[0.0, 0.0], [0.0, 2.0]])
        >>> [f"{y:.4f}" for y in kernel_sum(p, weights=jnp.array([1.0, 10.0]), scale=2.0)]
        ['7.0653', '10.6065']
    """
    points, others, w = floats("kernel_sum", optional=("q", "weights"), p=p, q=q, weights=weights)
    require_points("kernel_sum", points, others)
    wanted = (points if others is None else others).shape[:-1]
    if w is not None and w.shape != wanted:
        raise ValueError(
            f"kernel_sum: weights must have shape (..., m) = {wanted}, one number for each point "
            f"of {'p' if others is None else 'q'}; got shape {w.shape}"
        )
    options, learned = _options(kernel, scale, block)
    return _kernel_sum(points, others, w, learned, options=options)


def _options(kernel: Kernel, scale: Number, block: int | None) -> tuple[Static, jax.Array | None]:
    """The options, and the scale if it is an array: that one has a derivative."""
    if isinstance(scale, jax.Array):
        return Static(Options(kernel, None, block)), scale
    return Static(Options(kernel, float(scale), block)), None


def _forward(
    p: jax.Array,
    q: jax.Array | None,
    weights: jax.Array | None,
    scale: jax.Array | None,
    *,
    options: Static,
) -> jax.Array:
    pairs = _Pairs(p, q, weights, scale, options.value)

    def row(_: None, pi: jax.Array) -> tuple[None, jax.Array]:
        def add(total: jax.Array, at: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            qj, wj = at
            return total + jnp.sum(pairs.kernel(pairs.squares(pi, qj)) * wj[..., None, :], -1), None

        start = spread(jnp.zeros(pi.shape[:-1], pairs.wide), *pairs.like)
        return None, lax.scan(add, start, (pairs.q, pairs.w))[0]

    y = _joined(lax.scan(row, None, pairs.p)[1], -1, p.shape[-2])
    return y.astype(pairs.narrow)


def _fwd(
    p: jax.Array,
    q: jax.Array | None,
    weights: jax.Array | None,
    scale: jax.Array | None,
    *,
    options: Static,
) -> tuple[jax.Array, Residuals]:
    y = _forward(p, q, weights, scale, options=options)
    return y, (p, q, weights, scale, options)


def kernel_sum_fwd(
    p: jax.Array,
    q: jax.Array | None = None,
    weights: jax.Array | None = None,
    *,
    kernel: Kernel = "gaussian",
    scale: Number = 1.0,
    block: int | None = None,
) -> tuple[jax.Array, Residuals]:
    """p, q, weights -> y, residuals."""
    options, learned = _options(kernel, scale, block)
    return _fwd(p, q, weights, learned, options=options)


def kernel_sum_bwd(
    res: Residuals, g: jax.Array
) -> tuple[jax.Array, jax.Array | None, jax.Array | None, jax.Array | None]:
    """residuals, CT y -> CT p, CT q, CT weights, CT scale where it is an array."""
    p, q, weights, scale, options = res
    pairs = _Pairs(p, q, weights, scale, options.value)
    sums = spread((jnp.zeros_like(pairs.q), jnp.zeros_like(pairs.w)), g, *pairs.like)
    nothing = spread(jnp.zeros((), pairs.wide), g, *pairs.like)

    def row(carry: Any, at: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
        (dq, dw), ds = carry
        pi, gi = at

        def add(carry: Any, at: Any) -> tuple[Any, Any]:
            dpi, ds = carry
            qj, wj, dqj, dwj = at
            r = pairs.squares(pi, qj)
            gk = gi[..., :, None] * pairs.kernel(r)
            a = gk * wj[..., None, :] * pairs.slope(r)
            dp, dq = over_points(a, pairs.steps, pi, qj)
            return (dpi + dp, ds + jnp.sum(a * r)), (dqj + dq, dwj + jnp.sum(gk, -2))

        start = spread(jnp.zeros_like(pi), g, *pairs.like)
        (dpi, ds), sums = lax.scan(add, (start, ds), (pairs.q, pairs.w, dq, dw))
        return (sums, ds), dpi

    blocks = (pairs.p, pairs.cut(g.astype(pairs.wide), -1, pairs.rows))
    ((dq, dw), ds), dp = lax.scan(row, (sums, nothing), blocks)
    dp = _joined(dp, -2, p.shape[-2]) * pairs.inverse
    dq = _joined(dq, -2, (p if q is None else q).shape[-2]) * pairs.inverse
    dweights = dscale = None
    if weights is not None:
        dweights = _joined(dw, -1, weights.shape[-1]).astype(weights.dtype)
    if scale is not None:
        dscale = (-ds * pairs.inverse).astype(scale.dtype)
    if q is None:
        return (dp + dq).astype(p.dtype), None, dweights, dscale
    return dp.astype(p.dtype), dq.astype(q.dtype), dweights, dscale


_kernel_sum = register(_forward, _fwd, kernel_sum_bwd, name="kernel_sum", automatic_axes=True)


class _Pairs:
    """The arguments in blocks, the blocks' axis first, in the accumulator's dtype.

    Attributes:
        p, q, w: the blocks; after the last one's points, zeros of weight 0.
        rows: the size and the number of the blocks of p.
        inverse: 1 / s.
        narrow, wide: the dtype of the result, and of sums.
        like: the arguments that are arrays.
    """

    def __init__(
        self,
        p: jax.Array,
        q: jax.Array | None,
        weights: jax.Array | None,
        scale: jax.Array | None,
        options: Options,
    ) -> None:
        q = p if q is None else q
        w = jnp.ones(q.shape[:-1], q.dtype) if weights is None else weights
        self.narrow, self.wide = jnp.result_type(p, q, w), accumulator(p, q, w)
        self.like = tuple(x for x in (p, q, weights, scale) if x is not None)
        self._kernel = options.kernel
        factor: Any = options.scale if scale is None else in_dtype(scale, self.wide)
        self.inverse = 1 / factor
        most = BLOCK if options.block is None else options.block
        self.rows, columns = _cut(p.shape[-2], most), _cut(q.shape[-2], most)
        p, q, w = (x.astype(self.wide) for x in (p, q, w))
        self.p, self.q = self.cut(p, -2, self.rows), self.cut(q, -2, columns)
        self.w = self.cut(w, -1, columns)

    @staticmethod
    def cut(x: jax.Array, axis: int, blocks: tuple[int, int]) -> jax.Array:
        """An axis as (blocks, size), the first of which comes first."""
        size, number = blocks
        at = x.ndim + axis
        x = padded(x, size * number, at)
        return jnp.moveaxis(x.reshape(*x.shape[:at], number, size, *x.shape[at + 1 :]), at, 0)

    def steps(self, x: jax.Array) -> jax.Array:
        """x of a difference."""
        divided: jax.Array = x * self.inverse
        return divided

    def squares(self, p: jax.Array, q: jax.Array) -> jax.Array:
        """R of all pairs of two blocks."""
        return over_features(lambda x: jnp.square(self.steps(x)), p, q, *self.like)

    def kernel(self, r: jax.Array) -> jax.Array:
        """φ."""
        if self._kernel == "gaussian":
            return jnp.exp(-r / 2)
        return jnp.exp(-root(r, 2)) if self._kernel == "laplacian" else 1 / (1 + r / 2)

    def slope(self, r: jax.Array) -> jax.Array:
        """2 φ' / φ."""
        if self._kernel == "gaussian":
            return -jnp.ones_like(r)
        if self._kernel == "rq":
            return -self.kernel(r)
        zero = r == 0
        return jnp.where(zero, 0, -1 / jnp.sqrt(jnp.where(zero, 1, r)))


def _joined(x: jax.Array, axis: int, size: int) -> jax.Array:
    """The inverse of `_Pairs.cut`: what is of the points alone."""
    at = x.ndim + axis - 1
    x = jnp.moveaxis(x, 0, at)
    x = x.reshape(*x.shape[:at], x.shape[at] * x.shape[at + 1], *x.shape[at + 2 :])
    points: jax.Array = lax.slice_in_dim(x, 0, size, axis=at)
    return points
