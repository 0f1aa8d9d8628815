"""What is benchmarked: whole nets."""

from __future__ import annotations

from fnnet.measure import mlp
from fnnet.measure.row import Row

ROWS = (
    Row(
        "mlp",
        mlp.loss,
        sizes=[(200, 100, 50), (256, 784, 256), (2048, 784, 1024)],
        draw=mlp.draw,
        words=mlp.in_words,
        argnums=[0],
        peers={"jax.nn": lambda: mlp.jax_loss},
        eager=False,
    ),
)
