"""The table of what is benchmarked. A new op is a new row in one of these files."""

from fnnet.measure.rows import dense, layers, losses, nets

ROWS = (*dense.ROWS, *losses.ROWS, *layers.ROWS, *nets.ROWS)
