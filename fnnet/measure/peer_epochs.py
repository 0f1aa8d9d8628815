"""The same epoch by other packages, each written as that package would have it.

A package that is not installed raises its ImportError here, and is left out by the caller.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnnet.measure.adam import Adam


class Problem(NamedTuple):
    """What every form of the epoch is given.

    Attributes:
        params: the first parameters, [(w, b), (w, b)].
        x: images (n, i).
        y: targets (n, o).
        batches: indices of the mini-batches (steps, batch).
        optimizer: what moves the parameters.
    """

    params: Any
    x: jax.Array
    y: jax.Array
    batches: jax.Array
    optimizer: Adam


def flax_epoch(problem: Problem) -> Callable[[], Any]:
    """flax.linen's Dense and relu, the epoch as one scan."""
    nn: Any = import_module("flax.linen")

    class Net(nn.Module):  # type: ignore[misc]
        @nn.compact  # type: ignore[untyped-decorator]
        def __call__(self, x: Any) -> Any:
            for i, (w, _) in enumerate(problem.params):
                x = nn.Dense(w.shape[1])(nn.relu(x) if i else x)
            return x

    net = Net()
    layers = {
        f"Dense_{i}": {"kernel": jnp.copy(w), "bias": jnp.copy(b)}
        for i, (w, b) in enumerate(problem.params)
    }
    return _scanned(problem, {"params": layers}, net.apply)


def equinox_epoch(problem: Problem) -> Callable[[], Any]:
    """equinox's MLP under vmap, the epoch as one scan."""
    eqx: Any = import_module("equinox")

    (w1, b1), (w2, b2) = problem.params
    net = eqx.nn.MLP(w1.shape[0], w2.shape[1], w1.shape[1], depth=1, key=jax.random.key(0))
    net = eqx.tree_at(
        lambda n: [a for layer in n.layers for a in (layer.weight, layer.bias)],
        net,
        [jnp.copy(a) for a in (w1.T, b1, w2.T, b2)],
    )
    arrays, rest = eqx.partition(net, eqx.is_array)

    def apply(arrays: Any, x: Any) -> Any:
        return jax.vmap(eqx.combine(arrays, rest))(x)

    return _scanned(problem, arrays, apply)


def torch_epoch(problem: Problem) -> Callable[[], Any]:
    """PyTorch's Sequential on the CPU, a Python loop of eager steps: its usual way."""
    torch: Any = import_module("torch")

    layers: list[Any] = []
    for i, (w, b) in enumerate(problem.params):
        layers += [torch.nn.ReLU()] if i else []
        linear = torch.nn.Linear(*w.shape)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(np.array(w.T)))
            linear.bias.copy_(torch.from_numpy(np.array(b)))
        layers.append(linear)
    net = torch.nn.Sequential(*layers)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    x, y, batches = (torch.from_numpy(np.array(a)) for a in (problem.x, problem.y, problem.batches))

    def run() -> Any:
        loss = torch.zeros(())
        for batch in batches:
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(net(x[batch]), y[batch])
            loss.backward()
            optimizer.step()
        return np.float32(loss.item())

    return run


PEERS = {
    "flax, compiled whole": flax_epoch,
    "equinox, compiled whole": equinox_epoch,
    "torch on the CPU, eager loop": torch_epoch,
}


def _scanned(problem: Problem, params: Any, apply: Callable[..., Any]) -> Callable[[], Any]:
    optimizer = problem.optimizer

    def loss(params: Any, x: Any, y: Any) -> Any:
        return jnp.mean((apply(params, x) - y) ** 2)

    @partial(jax.jit, donate_argnums=0)
    def epoch(state: Any, x: Any, y: Any, batches: Any) -> tuple[Any, Any]:
        def body(state: Any, batch: Any) -> tuple[Any, Any]:
            params, moments = state
            value, grads = jax.value_and_grad(loss)(params, x[batch], y[batch])
            return optimizer.update(grads, moments, params), value

        state, losses = jax.lax.scan(body, state, batches)
        return state, losses[-1]

    state = (params, optimizer.init(params))

    def run() -> Any:
        nonlocal state
        state, value = epoch(state, problem.x, problem.y, problem.batches)
        return value

    return run
