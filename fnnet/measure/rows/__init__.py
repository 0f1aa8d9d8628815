"""The table of what is benchmarked. A new op is a new row in one of these files."""

from fnnet.measure.rows import dense, geometry, images, layers, losses, nets, sequences

ROWS = (
    *dense.ROWS,
    *losses.ROWS,
    *layers.ROWS,
    *images.ROWS,
    *sequences.ROWS,
    *geometry.ROWS,
    *nets.ROWS,
)
