"""The transformer block that is compiled for pods: a training step, cut over data and model.

    h = x + attention(rms_norm(x)) wo        y = h + glu_mlp(rms_norm(h))

as in Llama (Touvron et al. 2023), with a squared error after it and a step of gradient descent.
Over the axis "model" heads and hidden units are cut (Shoeybi et al. 2019, "Megatron-LM"), over
"data" the examples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from fnnet.ops import attention, glu_mlp, lin, mse, rms_norm

Params = dict[str, Any]
Step = Callable[[Params, Any, Any], tuple[Params, Any]]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of a block; by default those of Llama 3 8B.

    Attributes:
        time: positions of an example.
        width: features of a position.
        heads: of attention, each width / heads features.
        hidden: units of the gated layers.
    """

    time: int = 2048
    width: int = 4096
    heads: int = 32
    hidden: int = 14336

    def __str__(self) -> str:
        return f"{self.time} positions, {self.width} wide, {self.heads} heads, {self.hidden} hidden"


SPECS: Params = {
    "norm": (P(), P()),
    "wq": P(None, "model"),
    "wk": P(None, "model"),
    "wv": P(None, "model"),
    "wo": P("model"),
    "w_gate": P(None, "model"),
    "w_up": P(None, "model"),
    "w_down": P("model"),
}
IN_SHARDINGS = (SPECS, P("data"), P("data"))


def shapes(batch: int, sizes: Sizes, dtype: Any = jnp.bfloat16) -> tuple[Params, Any, Any]:
    """Parameters, inputs and targets as shapes.

    Example:
        >>> params, x, y = shapes(2, Sizes(time=8, width=4, heads=2, hidden=6))
        >>> x.shape, params["w_gate"].shape
        ((2, 8, 4), (4, 6))
    """
    d, f = sizes.width, sizes.hidden

    def array(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    params = {name: array(d, d) for name in ("wq", "wk", "wv", "wo")}
    params |= {"w_gate": array(d, f), "w_up": array(d, f), "w_down": array(f, d)}
    data = array(batch, sizes.time, d)
    return {"norm": (array(d), array(d)), **params}, data, data


def block(params: Params, x: jax.Array, heads: int) -> jax.Array:
    """The block's output: `x` (batch, time, width) to the same shape."""
    before, after = params["norm"]
    u = rms_norm(x, before)
    q, k, v = (lin(u, params[w]).reshape(*x.shape[:-1], heads, -1) for w in ("wq", "wk", "wv"))
    seen = attention(q, k, v, causal=True).reshape(x.shape)
    h = x + lin(seen, params["wo"])
    return h + glu_mlp(rms_norm(h, after), params["w_gate"], params["w_up"], params["w_down"])


def loss(heads: int) -> Callable[[Params, Any, Any], Any]:
    """The squared error of the block's output, every gradient by hand."""
    return lambda params, x, y: mse(block(params, x, heads), y)


def step(of: Callable[[Params, Any, Any], Any]) -> Step:
    """A step of gradient descent: ``(params, x, y) -> (new parameters, loss)``."""

    def run(params: Params, x: Any, y: Any) -> tuple[Params, Any]:
        value, grads = jax.value_and_grad(of)(params, x, y)
        return jax.tree.map(lambda p, g: p - (1e-3 * g).astype(p.dtype), params, grads), value

    return run
