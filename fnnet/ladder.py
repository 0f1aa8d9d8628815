"""The matrix product written five ways, and timed; it is written in `fnnet.net.rungs`."""

from fnnet.net.ladder import RUNGS as RUNGS
from fnnet.net.ladder import LadderRow as LadderRow
from fnnet.net.ladder import LadderTable as LadderTable
from fnnet.net.ladder import Rung as Rung
from fnnet.net.ladder import matmul_broadcast as matmul_broadcast
from fnnet.net.ladder import matmul_einsum as matmul_einsum
from fnnet.net.ladder import matmul_loops as matmul_loops
from fnnet.net.ladder import matmul_operator as matmul_operator
from fnnet.net.ladder import matmul_rowcol as matmul_rowcol
from fnnet.net.ladder import time_ladder as time_ladder

__all__ = [
    "RUNGS",
    "LadderRow",
    "LadderTable",
    "Rung",
    "matmul_broadcast",
    "matmul_einsum",
    "matmul_loops",
    "matmul_operator",
    "matmul_rowcol",
    "time_ladder",
]
