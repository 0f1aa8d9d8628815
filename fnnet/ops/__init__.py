"""The ops: pure functions with hand-derived backward passes, one file each.

`NAME` is the function; `NAME_fwd(*args) -> (out, res)` and `NAME_bwd(res, g) -> cotangents` are its
two passes, usable alone.
"""

from fnnet.ops._activations import gelu as gelu
from fnnet.ops._activations import gelu_bwd as gelu_bwd
from fnnet.ops._activations import gelu_fwd as gelu_fwd
from fnnet.ops._activations import silu as silu
from fnnet.ops._activations import silu_bwd as silu_bwd
from fnnet.ops._activations import silu_fwd as silu_fwd
from fnnet.ops._cross_entropy import cross_entropy as cross_entropy
from fnnet.ops._cross_entropy import cross_entropy_bwd as cross_entropy_bwd
from fnnet.ops._cross_entropy import cross_entropy_fwd as cross_entropy_fwd
from fnnet.ops._lin import lin as lin
from fnnet.ops._lin import lin_bwd as lin_bwd
from fnnet.ops._lin import lin_fwd as lin_fwd
from fnnet.ops._matmul import matmul as matmul
from fnnet.ops._matmul import matmul_bwd as matmul_bwd
from fnnet.ops._matmul import matmul_fwd as matmul_fwd
from fnnet.ops._mse import mse as mse
from fnnet.ops._mse import mse_bwd as mse_bwd
from fnnet.ops._mse import mse_fwd as mse_fwd
from fnnet.ops._norm import layer_norm as layer_norm
from fnnet.ops._norm import layer_norm_bwd as layer_norm_bwd
from fnnet.ops._norm import layer_norm_fwd as layer_norm_fwd
from fnnet.ops._norm import rms_norm as rms_norm
from fnnet.ops._norm import rms_norm_bwd as rms_norm_bwd
from fnnet.ops._norm import rms_norm_fwd as rms_norm_fwd
from fnnet.ops._relu import relu as relu
from fnnet.ops._relu import relu_bwd as relu_bwd
from fnnet.ops._relu import relu_fwd as relu_fwd
from fnnet.ops._softmax import log_softmax as log_softmax
from fnnet.ops._softmax import log_softmax_bwd as log_softmax_bwd
from fnnet.ops._softmax import log_softmax_fwd as log_softmax_fwd
from fnnet.ops._softmax import softmax as softmax
from fnnet.ops._softmax import softmax_bwd as softmax_bwd
from fnnet.ops._softmax import softmax_fwd as softmax_fwd
