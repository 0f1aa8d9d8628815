"""The ops: pure functions with hand-derived backward passes, one file each.

`NAME` is the function; `NAME_fwd(*args) -> (out, res)` and `NAME_bwd(res, g) -> cotangents` are its
two passes, usable alone.
"""

from fnnet.ops._lin import lin as lin
from fnnet.ops._lin import lin_bwd as lin_bwd
from fnnet.ops._lin import lin_fwd as lin_fwd
from fnnet.ops._matmul import matmul as matmul
from fnnet.ops._matmul import matmul_bwd as matmul_bwd
from fnnet.ops._matmul import matmul_fwd as matmul_fwd
from fnnet.ops._mse import mse as mse
from fnnet.ops._mse import mse_bwd as mse_bwd
from fnnet.ops._mse import mse_fwd as mse_fwd
from fnnet.ops._relu import relu as relu
from fnnet.ops._relu import relu_bwd as relu_bwd
from fnnet.ops._relu import relu_fwd as relu_fwd
