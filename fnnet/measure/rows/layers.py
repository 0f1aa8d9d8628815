"""What is benchmarked: normalisation and activations, alone and as layers under scan."""

from __future__ import annotations

from functools import partial

import jax

from fnnet import ops
from fnnet.measure.row import LAYERS, Row, in_layers

_NORM = [[(256, 256), (256,), (256,)], [(4096, 512), (512,), (512,)]]


ROWS = (
    Row("layer_norm", ops.layer_norm, sizes=_NORM),
    in_layers("layer_norm", ops.layer_norm, [[(256, 256), (LAYERS, 256), (LAYERS, 256)]]),
    Row("rms_norm", ops.rms_norm, sizes=[size[:2] for size in _NORM]),
    in_layers("rms_norm", ops.rms_norm, [[(256, 256), (LAYERS, 256)]]),
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
)
