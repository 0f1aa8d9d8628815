"""Layers as pairs of pure functions, (init, apply), and how to put them one after another.

    init(key, dtype=float32) -> params        apply(params, x) -> y

A layer holds no state: its parameters are a pytree that the caller keeps, differentiates, updates
and saves. What a class with attributes does elsewhere is done by these pairs, and `parameters`
lists the leaves by name, as "0.w". The functions of a pair are functions of this file with their
sizes filled in, no closures, so that a layer can be pickled.

    net = sequential(linear(784, 50), relu_layer(), linear(50, 10))
    params = net.init(jax.random.key(0))
    loss = lambda params, x, y: mse(net.apply(params, x), y)
    grads = jax.grad(loss)(params, x, y)

Parameters of `linear` are a `LinearParams(w, b)`, of `conv` a `ConvParams(w, b)`, of
`layer_norm_layer` a `LayerNormParams(scale, shift)`, of `sequential` a tuple of its layers' own,
and of a layer without any the empty tuple.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from fnnet.net._image_layers import ConvParams as ConvParams
from fnnet.net._image_layers import conv as conv
from fnnet.net._image_layers import max_pool_layer as max_pool_layer
from fnnet.net._layer import Layer as Layer
from fnnet.net._layer import Params as Params
from fnnet.net._layer import no_params, size_of
from fnnet.net.init import Initializer, kaiming_normal, zeros
from fnnet.ops import layer_norm, lin, relu


class LinearParams(NamedTuple):
    """The parameters of one linear layer.

    Attributes:
        w: weights (n_in, n_out).
        b: bias (n_out,), or None for no bias.
    """

    w: Array
    b: Array | None


def linear(
    n_in: int, n_out: int, *, bias: bool = True, init: Initializer = kaiming_normal
) -> Layer:
    """The layer x @ w + b, x (..., n_in) to (..., n_out), through `fnnet.lin`.

    Args:
        n_in: the size of x's last axis.
        n_out: the size of the result's last axis.
        bias: whether there is a b; it starts at 0.
        init: draws w.

    Returns:
        a Layer with LinearParams; `apply` raises ValueError if x does not fit.

    Raises:
        TypeError: if a size is no whole number, or `init` cannot be called.
        ValueError: if a size is less than 1.

    >>> layer = linear(3, 2)
    >>> params = layer.init(jax.random.key(0))
    >>> params.w.shape, params.b.shape, layer.apply(params, jnp.ones((5, 3))).shape
    ((3, 2), (2,), (5, 2))
    """
    n_in, n_out = (size_of("linear", name, n) for name, n in (("n_in", n_in), ("n_out", n_out)))
    name = f"linear({n_in}, {n_out})"
    if not callable(init):
        raise TypeError(f"{name}: init must be an initialiser, got {init!r}")

    return Layer(
        partial(_linear_params, n_in, n_out, bias, init), partial(_linear_apply, n_in, n_out)
    )


def _linear_params(
    n_in: int,
    n_out: int,
    bias: bool,
    init: Initializer,
    key: Array,
    dtype: DTypeLike = jnp.float32,
) -> LinearParams:
    return LinearParams(
        w=init(key, (n_in, n_out), dtype), b=zeros(key, (n_out,), dtype) if bias else None
    )


def _linear_apply(n_in: int, n_out: int, params: LinearParams, x: Array) -> Array:
    w, b = params
    name = f"linear({n_in}, {n_out})"
    if jnp.ndim(x) < 1 or jnp.shape(x)[-1] != n_in:
        raise ValueError(
            f"{name}: the last axis of x must have size {n_in}, got shape {jnp.shape(x)}"
        )
    if jnp.shape(w) != (n_in, n_out):
        raise ValueError(
            f"{name}: w must have shape {(n_in, n_out)}, got {jnp.shape(w)}: "
            "these are another layer's parameters"
        )
    return lin(x, w, b)


def relu_layer() -> Layer:
    """The layer max(x, 0), of any shape, without parameters, through `fnnet.relu`.

    >>> relu_layer().apply((), jnp.array([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """
    return Layer(no_params, _relu_apply)


def _relu_apply(params: Params, x: Array) -> Array:
    return relu(x)


def flatten() -> Layer:
    """The layer that makes a vector of each sample: (n, a, b, ...) to (n, a·b·...).

    Its `apply` raises ValueError if x has no axis at all.

    >>> flatten().apply((), jnp.ones((5, 28, 28, 1))).shape
    (5, 784)
    """
    return Layer(no_params, _flatten_apply)


def _flatten_apply(params: Params, x: Array) -> Array:
    if not jnp.ndim(x):
        raise ValueError("flatten: x must have a first axis, of samples; got shape ()")
    n, *rest = jnp.shape(x)
    return jnp.reshape(x, (n, math.prod(rest)))


class LayerNormParams(NamedTuple):
    """The parameters of one layer norm: (d,) each.

    Attributes:
        scale: starts at 1.
        shift: starts at 0.
    """

    scale: Array
    shift: Array


def layer_norm_layer(d: int, *, eps: float = 1e-5) -> Layer:
    """Layer norm over the last axis, of size d, through `fnnet.layer_norm`.

    >>> layer = layer_norm_layer(3)
    >>> layer.apply(layer.init(jax.random.key(0)), jnp.eye(3)).shape
    (3, 3)
    """
    d = size_of("layer_norm_layer", "d", d)
    return Layer(partial(_layer_norm_params, d), partial(_layer_norm_apply, eps))


def _layer_norm_params(d: int, key: Array, dtype: DTypeLike = jnp.float32) -> LayerNormParams:
    return LayerNormParams(scale=jnp.ones(d, dtype), shift=zeros(key, (d,), dtype))


def _layer_norm_apply(eps: float, params: LayerNormParams, x: Array) -> Array:
    return layer_norm(x, params.scale, params.shift, eps=eps)


def sequential(*layers: Layer) -> Layer:
    """The layers one after another, as one layer; a `sequential` may hold others.

    Args:
        layers: the layers, the first applied first; none at all gives the identity.

    Returns:
        a Layer whose parameters are the tuple of its layers' parameters. An error inside a layer
        carries a note saying which one it was.

    Raises:
        TypeError: if an argument is no Layer.

    >>> net = sequential(linear(784, 50), relu_layer(), linear(50, 10))
    >>> params = net.init(jax.random.key(0))
    >>> [name for name, _ in parameters(params)]
    ['0.w', '0.b', '2.w', '2.b']
    >>> net.apply(params, jnp.ones((5, 784))).shape
    (5, 10)
    """
    for i, layer in enumerate(layers):
        if not isinstance(layer, Layer):
            uncalled = callable(layer)
            called = f"; call it: {getattr(layer, '__name__', layer)}()" if uncalled else ""
            raise TypeError(f"sequential: argument {i} is no Layer but {layer!r}{called}")
    return Layer(partial(_sequential_params, layers), partial(_sequential_apply, layers))


def _sequential_params(
    layers: tuple[Layer, ...], key: Array, dtype: DTypeLike = jnp.float32
) -> tuple[Params, ...]:
    keys = jax.random.split(key, len(layers))
    return tuple(layer.init(k, dtype) for layer, k in zip(layers, keys, strict=True))


def _sequential_apply(layers: tuple[Layer, ...], params: tuple[Params, ...], x: Array) -> Array:
    if len(params) != len(layers):
        raise ValueError(
            f"sequential: {len(layers)} layers need as many entries in params, got {len(params)}"
        )
    for i, (layer, layer_params) in enumerate(zip(layers, params, strict=True)):
        try:
            x = layer.apply(layer_params, x)
        except Exception as error:
            error.add_note(f"This was layer {i} of sequential, counting from 0.")
            raise
    return x


def parameters(params: Params) -> list[tuple[str, Array]]:
    """Every array of a pytree with its path as a name, in the tree's order.

    Works on gradients and optimiser states too.

    Args:
        params: any pytree.

    Returns:
        (name, array) pairs; a name joins the keys, indices and fields on the way by dots.

    >>> params = sequential(linear(3, 2, bias=False), sequential(linear(2, 1))).init(
    ...     jax.random.key(0)
    ... )
    >>> [(name, p.shape) for name, p in parameters(params)]
    [('0.w', (3, 2)), ('1.0.w', (2, 1)), ('1.0.b', (1,))]
    """
    return [
        (jax.tree_util.keystr(path, simple=True, separator="."), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    ]


def parameter_count(params: Params) -> int:
    """How many numbers a pytree of arrays holds.

    >>> parameter_count(linear(784, 10).init(jax.random.key(0)))
    7850
    """
    return sum(math.prod(jnp.shape(leaf)) for leaf in jax.tree.leaves(params))
