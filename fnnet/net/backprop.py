"""The manual pass: a net's loss and all its gradients, every step written out.

The net is linear layers with a relu between any two of them, and its loss the mean squared error.
For two layers:

    z = lin(x, w1, b1)     a = relu(z)     out = lin(a, w2, b2)     l = mse(out, y)

Each function is used through its two passes: NAME_fwd gives the result and the residuals (what its
backward pass will need), and NAME_bwd maps the residuals and the gradient of l in the result to the
gradients of l in the arguments.

The order of the calls. The chain rule writes the gradient of the first weights as a product of one
factor for each step between them and the loss,

    ∂l/∂w1 = ∂l/∂out · ∂out/∂a · ∂a/∂z · ∂z/∂w1,

and ∂l/∂b1, ∂l/∂w2 and ∂l/∂b2 begin with the same factors. Multiplied from the left, the product so
far is always the gradient of one number in one activation, an array of that activation's shape,
and each prefix serves everything that comes before it in the net. From the right it would be the
derivative of an activation in a whole weight matrix, and of use to that one only. So the calls go
backward from the loss:

    1               dl/dl, where it all starts: a constant
    mse_bwd    ->   ∂l/∂out                   from out - y
    lin_bwd    ->   ∂l/∂a, ∂l/∂w2, ∂l/∂b2     from ∂l/∂out, a and w2
    relu_bwd   ->   ∂l/∂z                     from ∂l/∂a and where z > 0
    lin_bwd    ->   ∂l/∂x, ∂l/∂w1, ∂l/∂b1     from ∂l/∂z, x and w1

Nothing can be called earlier: each needs the gradient that the one above it gives. The forward pass
runs first and entirely, since ∂l/∂out needs out, and what it stored is used up last in, first out.

Why l itself is not needed. ∂l/∂out = (2/n)(out - y) contains the difference, not its mean square,
and the start is the 1 of dl/dl, not l: no call above takes l as an argument. It is computed to be
looked at, and costs one pass over `out`.

∂l/∂x comes with the first layer's `lin_bwd` and is dropped here; under `jax.jit` its product is
never computed.

Reference: Rumelhart, Hinton and Williams, Learning representations by back-propagating errors
(1986).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from fnnet.net.init import Initializer, kaiming_normal
from fnnet.net.layers import LinearParams, linear
from fnnet.ops import (
    lin,
    lin_bwd,
    lin_fwd,
    mse,
    mse_bwd,
    mse_fwd,
    relu,
    relu_bwd,
    relu_fwd,
)

MLPParams = list[LinearParams]


def init_mlp(
    key: Array,
    sizes: Sequence[int],
    init: Initializer = kaiming_normal,
    dtype: DTypeLike = jnp.float32,
) -> MLPParams:
    """The first parameters of a net of linear layers.

    Args:
        key: one key, of `jax.random.key` or `jax.random.PRNGKey`.
        sizes: the sizes of the input, of each hidden layer, and of the output; two at least.
        init: draws the weights; biases start at 0.
        dtype: a float dtype.

    Returns:
        a list of LinearParams(w, b), the first layer's first.

    Raises:
        TypeError: if `key` is no key, a size no whole number, or `dtype` no float dtype.
        ValueError: if there are fewer than two sizes, or one is less than 1.

    >>> [(w.shape, b.shape) for w, b in init_mlp(jax.random.key(0), (784, 50, 10))]
    [((784, 50), (50,)), ((50, 10), (10,))]
    """
    sizes = tuple(sizes)
    if len(sizes) < 2:
        raise ValueError(f"init_mlp: sizes must name the input's and the output's, got {sizes}")
    keys = jax.random.split(key, len(sizes) - 1)
    layers = [linear(n_in, n_out, init=init) for n_in, n_out in pairwise(sizes)]
    return [layer.init(k, dtype) for layer, k in zip(layers, keys, strict=True)]


def forward(params: MLPParams, x: Array) -> Array:
    """The net's output.

    Args:
        params: the layers' (w, b), as from `init_mlp`.
        x: inputs (..., n_in).

    Returns:
        outputs (..., n_out).

    Raises:
        TypeError: if x is not of a float dtype.
        ValueError: if there is no layer, or the sizes of two layers, or of x and the first, differ.

    >>> params = init_mlp(jax.random.key(0), (4, 3, 2))
    >>> forward(params, jnp.ones((5, 4))).shape
    (5, 2)
    """
    _require_fit(params, x)
    *hidden, (w_last, b_last) = params
    a = x
    for w, b in hidden:
        a = relu(lin(a, w, b))
    return lin(a, w_last, b_last)


def loss(params: MLPParams, x: Array, y: Array) -> Array:
    """The mean squared error of the net's output: a function to differentiate automatically.

    Args:
        params: the layers' (w, b), as from `init_mlp`.
        x: inputs (..., n_in).
        y: targets (..., n_out), or (...) if n_out is 1.

    Returns:
        a scalar.

    Raises:
        TypeError: if x or y is not of a float dtype.
        ValueError: if shapes do not fit.

    >>> float(loss([(jnp.eye(2), jnp.zeros(2))], jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])))
    2.0
    """
    return mse(forward(params, x), y)


def forward_and_backward(params: MLPParams, x: Array, y: Array) -> tuple[Array, MLPParams]:
    """The loss and its gradient in every parameter, by hand.

    Args:
        params: the layers' (w, b), as from `init_mlp`.
        x: inputs (..., n_in).
        y: targets (..., n_out), or (...) if n_out is 1.

    Returns:
        the scalar loss, and the gradients: a list of LinearParams like `params`.

    Raises:
        TypeError: if x or y is not of a float dtype.
        ValueError: if shapes do not fit.

    >>> params = [LinearParams(jnp.eye(2), jnp.zeros(2))]
    >>> l, grads = forward_and_backward(params, jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0]))
    >>> float(l), grads[0].b.tolist()
    (2.0, [0.0, -2.0])
    """
    _require_fit(params, x, y)
    *hidden, (w_last, b_last) = params

    # Forward: keep each step's residuals.
    a = x
    stored = []
    for w, b in hidden:
        z, lin_res = lin_fwd(a, w, b)
        a, relu_res = relu_fwd(z)
        stored.append((lin_res, relu_res))
    out, last_res = lin_fwd(a, w_last, b_last)
    l, mse_res = mse_fwd(out, y)

    # Backward: g is the gradient of l in the activation reached so far.
    g, _ = mse_bwd(mse_res, jnp.ones_like(l))
    g, dw, db = lin_bwd(last_res, g)
    grads = [LinearParams(dw, db)]
    while stored:
        lin_res, relu_res = stored.pop()
        (g,) = relu_bwd(relu_res, g)
        g, dw, db = lin_bwd(lin_res, g)
        grads.append(LinearParams(dw, db))
    return l, grads[::-1]


def _require_fit(params: Any, x: Array, y: Array | None = None) -> None:
    """The passes themselves check nothing, and without a layer's number an error says little."""
    if not params:
        raise ValueError("backprop: params must hold one layer at least")
    size: tuple[int, ...] = jnp.shape(x)[-1:]
    for i, (w, _) in enumerate(params):
        if jnp.ndim(w) != 2 or jnp.shape(w)[:1] != size:
            source = f"x of shape {jnp.shape(x)}" if i == 0 else f"layer {i - 1}"
            raise ValueError(
                f"backprop: layer {i} has w of shape {jnp.shape(w)}, which does not fit {source}"
            )
        size = jnp.shape(w)[1:]
    arrays = {"x": x} if y is None else {"x": x, "y": y}
    for name, array in arrays.items():
        if not jnp.issubdtype(jnp.result_type(array), jnp.floating):
            raise TypeError(
                f"backprop: {name} must be of a float dtype, got {jnp.result_type(array)}; "
                f"convert it: {name}.astype(jnp.float32)"
            )
    if y is not None:
        out = (*jnp.shape(x)[:-1], *size)
        if out not in (jnp.shape(y), (*jnp.shape(y), 1)):
            raise ValueError(
                f"backprop: y must have the output's shape {out}"
                f"{f' or {out[:-1]}' if out[-1:] == (1,) else ''}, got {jnp.shape(y)}"
            )
