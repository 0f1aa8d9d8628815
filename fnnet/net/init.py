"""Initialisers: random first weights whose scale keeps a deep net's signals alive.

Every initialiser is called `(key, shape, dtype=float32)` and returns an array; `normal(std)`
returns such a function.

Why the scale matters. One layer is y_j = Σ_i x_i w_ij with w_ij independent of x, of mean 0 and
variance s². Then

    E[y_j²] = Σ_i E[x_i²] s² = n_in · s² · E[x²],

so each layer multiplies the mean square by n_in·s², and L layers by (n_in·s²)^L: it stays put only
at s² = 1/n_in (`lecun_normal`). Going backward, dx_i = Σ_j g_j w_ij makes the same argument with
n_out, and 2/(n_in + n_out) is the compromise between the two (`xavier_normal`). A relu after the
layer maps a symmetric y to E[relu(y)²] = E[y²]/2, and s² = 2/n_in makes up for that half
(`kaiming_normal`).

n_in and n_out are the fans. For a matrix (n_in, n_out) they are its sides. For a convolution kernel
HWIO they count the taps as well: H·W·I and H·W·O. With groups, I is already the number of inputs of
one group, so n_in is right; a shape does not tell the number of groups, so n_out counts the outputs
of all of them, as in other libraries. Stacked matrices (layer, n_in, n_out) look like a 1-D kernel:
draw them with `jax.vmap` over split keys instead.

The normal ones are not truncated: their standard deviation is the formula's. bfloat16, float16 and
narrower draws are made in float32 and rounded once: JAX's own 16-bit normals start from a 16-bit
uniform draw, and in bfloat16 never reach 3 standard deviations.

References: LeCun, Bottou, Orr and Müller, Efficient BackProp (1998); Glorot and Bengio,
Understanding the difficulty of training deep feedforward neural networks (2010); He, Zhang, Ren and
Sun, Delving deep into rectifiers (2015).
"""

import math
import operator
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike


class Initializer(Protocol):
    """What every initialiser is: `(key, shape, dtype=float32) -> array`."""

    def __call__(self, key: Array, shape: Sequence[int], dtype: DTypeLike = ...) -> Array:
        """Draw an array of `shape` and `dtype`."""
        ...


def zeros(key: Any, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
    """All zeros: right for a bias, wrong for weights.

    Units that start equal receive equal gradients and stay equal, so a layer of zero weights never
    becomes more than one unit, and the layers before it get no gradient at all.

    Args:
        key: not used, whatever it is; there so that every initialiser is called alike.
        shape: the array's shape, of any number of axes.
        dtype: a float dtype.

    Raises:
        TypeError: if `dtype` is no float dtype.
        ValueError: if `shape` is no sequence of sizes.

    >>> zeros(None, (2, 3)).tolist()
    [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    return jnp.zeros(_sizes("zeros", shape), _float_dtype("zeros", dtype))


def normal(std: float) -> Initializer:
    """An initialiser that draws from the normal distribution of mean 0 and this standard deviation.

    Args:
        std: the standard deviation, a real number, not negative.

    Raises:
        TypeError: if `std` is not one real number.
        ValueError: if `std` is negative, infinite or NaN.

    >>> draw = normal(0.01)
    >>> draw(jax.random.key(0), (50,)).shape
    (50,)
    """
    try:
        scale = math.fsum([std])  # unlike float(), this takes no text
    except TypeError:
        raise TypeError(
            f"normal: std must be a real number, got {_described(std)}; normal(std) returns the "
            "initialiser, which is then called with (key, shape, dtype)"
        ) from None
    if not 0 <= scale < math.inf:
        raise ValueError(f"normal: std must be finite and not negative, got {std!r}")
    return partial(_normal_of, scale)  # which can be pickled, as a closure cannot


def _normal_of(
    std: float, key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32
) -> Array:
    return _normal("normal", key, _sizes("normal", shape), dtype, std)


def xavier_normal(key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
    """Normal, variance 2 / (n_in + n_out): for tanh and other odd activations (Glorot and Bengio).

    Args:
        key: one key, of `jax.random.key` or `jax.random.PRNGKey`.
        shape: (n_in, n_out), or a convolution kernel's (..., I, O).
        dtype: a float dtype.

    Raises:
        TypeError: if `key` is no key or `dtype` no float dtype.
        ValueError: if `shape` has fewer than two axes, or there are several keys.

    >>> w = xavier_normal(jax.random.key(0), (784, 50))
    >>> w.shape, w.dtype
    ((784, 50), dtype('float32'))
    """
    fan_in, fan_out = fans("xavier_normal", shape)
    return _normal("xavier_normal", key, shape, dtype, math.sqrt(2 / (fan_in + fan_out)))


def xavier_uniform(key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
    """Uniform on ±√(6 / (n_in + n_out)), whose variance is 2 / (n_in + n_out) (Glorot and Bengio).

    Arguments and errors are those of `xavier_normal`.

    >>> w = xavier_uniform(jax.random.key(0), (784, 50))
    >>> bool(jnp.max(jnp.abs(w)) <= (6 / 834) ** 0.5)
    True
    """
    fan_in, fan_out = fans("xavier_uniform", shape)
    return _uniform("xavier_uniform", key, shape, dtype, math.sqrt(2 / (fan_in + fan_out)))


def kaiming_normal(key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
    """Normal, variance 2 / n_in: for layers followed by a relu (He and others).

    Arguments and errors are those of `xavier_normal`.

    >>> kaiming_normal(jax.random.key(0), (3, 3, 16, 32), jnp.bfloat16).dtype
    dtype(bfloat16)
    """
    fan_in, _ = fans("kaiming_normal", shape)
    return _normal("kaiming_normal", key, shape, dtype, math.sqrt(2 / fan_in))


def kaiming_uniform(key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
    """Uniform on ±√(6 / n_in), whose variance is 2 / n_in (He and others).

    Arguments and errors are those of `xavier_normal`.

    >>> kaiming_uniform(jax.random.key(0), (784, 50)).shape
    (784, 50)
    """
    fan_in, _ = fans("kaiming_uniform", shape)
    return _uniform("kaiming_uniform", key, shape, dtype, math.sqrt(2 / fan_in))


def lecun_normal(key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
    """Normal, variance 1 / n_in: keeps the scale of a linear layer's output (LeCun and others).

    This is the 1/√n_in that introductions often call Xavier initialisation; the two agree on square
    matrices. Arguments and errors are those of `xavier_normal`.

    >>> lecun_normal(jax.random.key(0), (784, 50)).shape
    (784, 50)
    """
    fan_in, _ = fans("lecun_normal", shape)
    return _normal("lecun_normal", key, shape, dtype, math.sqrt(1 / fan_in))


def fans(name: str, shape: Sequence[int]) -> tuple[int, int]:
    """(n_in, n_out) of a weight of this shape; each at least 1, so that empty weights are allowed.

    Args:
        name: who asks, for the error's message.
        shape: (n_in, n_out), or a convolution kernel's (..., I, O).

    Raises:
        ValueError: if `shape` has fewer than two axes.

    >>> fans("mine", (784, 50)), fans("mine", (5, 5, 3, 16))
    ((784, 50), (75, 400))
    """
    sizes = _sizes(name, shape)
    if len(sizes) < 2:
        raise ValueError(
            f"{name}: shape {sizes} has no fan: it takes a matrix (n_in, n_out) or a kernel "
            "(..., I, O); for a bias use zeros or normal(std)"
        )
    *taps, n_in, n_out = sizes
    return max(1, math.prod(taps) * n_in), max(1, math.prod(taps) * n_out)


def _normal(name: str, key: Array, shape: Sequence[int], dtype: DTypeLike, std: float) -> Array:
    dtype = _float_dtype(name, dtype)
    draw = jax.random.normal(_one_key(name, key), tuple(shape), _draw_dtype(dtype))
    return (std * draw).astype(dtype)


def _uniform(name: str, key: Array, shape: Sequence[int], dtype: DTypeLike, std: float) -> Array:
    dtype = _float_dtype(name, dtype)
    limit = math.sqrt(3) * std  # the variance of the uniform distribution on ±limit is limit²/3
    draw = jax.random.uniform(
        _one_key(name, key), tuple(shape), _draw_dtype(dtype), minval=-limit, maxval=limit
    )
    return draw.astype(dtype)


def _sizes(name: str, shape: Sequence[int]) -> tuple[int, ...]:
    try:
        sizes = tuple(operator.index(n) for n in shape)
    except TypeError:
        raise ValueError(f"{name}: shape must be a sequence of sizes, got {shape!r}") from None
    if any(n < 0 for n in sizes):
        raise ValueError(f"{name}: shape must have no negative size, got {sizes}")
    return sizes


def _float_dtype(name: str, dtype: DTypeLike) -> Any:
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{name}: dtype must be a float dtype, got {jnp.dtype(dtype).name}")
    return jnp.dtype(dtype)


def _draw_dtype(dtype: Any) -> Any:
    return dtype if dtype.itemsize > 4 else jnp.dtype(jnp.float32)


def _one_key(name: str, key: Any) -> Array:
    if not jnp.issubdtype(getattr(key, "dtype", object), jax.dtypes.prng_key):
        try:
            key = jax.random.wrap_key_data(key)
        except (TypeError, ValueError):
            raise TypeError(
                f"{name}: key must be a key such as jax.random.key(0), got {_described(key)}"
            ) from None
    if key.shape != ():
        raise ValueError(
            f"{name}: one key is wanted, got an array of keys of shape {key.shape}; "
            "use jax.vmap for many draws"
        )
    return key  # type: ignore[no-any-return]


def _described(x: Any) -> str:
    if hasattr(x, "dtype") and hasattr(x, "shape"):
        return f"an array of shape {x.shape} and dtype {x.dtype}"
    return repr(x)
