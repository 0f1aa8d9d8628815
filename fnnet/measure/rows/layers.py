"""What is benchmarked: normalisation, norms and activations, alone and as layers under scan."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from fnnet import ops
from fnnet.measure.row import LAYERS, Row, in_layers, small_normals

_NORM = [[(256, 256), (256,), (256,)], [(4096, 512), (512,), (512,)]]


_BLOCK = [(512, 256), (256, 768), (256, 768), (768, 256)]
_BLOCKS = [_BLOCK[0], *((LAYERS, *shape) for shape in _BLOCK[1:])]

_BATCH = [[(256, 256), (256,), (256,)], [(16, 32, 32, 64), (64,), (64,)]]


def _standardised(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """As one writes it."""
    mean, var = (f(x, axes, keepdims=True) for f in (jnp.mean, jnp.var))
    return (x - mean) * jax.lax.rsqrt(var + 1e-5)


def _affine(y: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    return y * jnp.broadcast_to(scale, y.shape) + jnp.broadcast_to(shift, y.shape)


def _batch_norm(x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    return _affine(_standardised(x, tuple(range(x.ndim - 1))), scale, shift)


def _group_norm(groups: int, x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    grouped = x.reshape(len(x), -1, groups, x.shape[-1] // groups)
    return _affine(_standardised(grouped, (1, 3)).reshape(x.shape), scale, shift)


ROWS = (
    Row("layer_norm", ops.layer_norm, sizes=_NORM),
    in_layers("layer_norm", ops.layer_norm, [[(256, 256), (LAYERS, 256), (LAYERS, 256)]]),
    Row("rms_norm", ops.rms_norm, sizes=[size[:2] for size in _NORM]),
    in_layers("rms_norm", ops.rms_norm, [[(256, 256), (LAYERS, 256)]]),
    Row("batch_norm", ops.batch_norm, sizes=_BATCH, auto=_batch_norm),
    Row(
        "group_norm, 8 groups",
        lambda x, scale, shift: ops.group_norm(x, 8, scale, shift),
        sizes=_BATCH,
        auto=partial(_group_norm, 8),
    ),
    Row(
        "norm",
        partial(ops.norm, axis=-1),
        sizes=[[(256, 256)], [(2048, 1024)]],
        peers={"jax.numpy": lambda: partial(jnp.linalg.norm, axis=-1)},
    ),
    Row("norm, order 3", partial(ops.norm, ord=3, axis=-1), sizes=[[(256, 256)], [(2048, 1024)]]),
    Row(
        "gelu",
        ops.gelu,
        sizes=[[(256, 256)], [(2048, 1024)]],
        peers={"jax.nn": lambda: partial(jax.nn.gelu, approximate=False)},
    ),
    in_layers("gelu", ops.gelu, [[(256, 256)]]),
    Row(
        "silu",
        ops.silu,
        sizes=[[(256, 256)], [(2048, 1024)]],
        peers={"jax.nn": lambda: jax.nn.silu},
    ),
    in_layers("silu", ops.silu, [[(256, 256)]]),
    Row("glu_mlp", ops.glu_mlp, sizes=[_BLOCK], draw=small_normals),
    in_layers("glu_mlp", ops.glu_mlp, [_BLOCKS], draw=small_normals),
)
