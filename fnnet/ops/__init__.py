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
from fnnet.ops._attention import attention as attention
from fnnet.ops._attention import attention_bwd as attention_bwd
from fnnet.ops._attention import attention_fwd as attention_fwd
from fnnet.ops._batch_norm import batch_norm as batch_norm
from fnnet.ops._batch_norm import batch_norm_bwd as batch_norm_bwd
from fnnet.ops._batch_norm import batch_norm_fwd as batch_norm_fwd
from fnnet.ops._batch_norm import group_norm as group_norm
from fnnet.ops._batch_norm import group_norm_bwd as group_norm_bwd
from fnnet.ops._batch_norm import group_norm_fwd as group_norm_fwd
from fnnet.ops._conv import conv2d as conv2d
from fnnet.ops._conv import conv2d_bwd as conv2d_bwd
from fnnet.ops._conv import conv2d_fwd as conv2d_fwd
from fnnet.ops._cross_entropy import cross_entropy as cross_entropy
from fnnet.ops._cross_entropy import cross_entropy_bwd as cross_entropy_bwd
from fnnet.ops._cross_entropy import cross_entropy_fwd as cross_entropy_fwd
from fnnet.ops._glu import glu_mlp as glu_mlp
from fnnet.ops._glu import glu_mlp_bwd as glu_mlp_bwd
from fnnet.ops._glu import glu_mlp_fwd as glu_mlp_fwd
from fnnet.ops._gru import gru as gru
from fnnet.ops._gru import gru_bwd as gru_bwd
from fnnet.ops._gru import gru_fwd as gru_fwd
from fnnet.ops._kernel_sum import kernel_sum as kernel_sum
from fnnet.ops._kernel_sum import kernel_sum_bwd as kernel_sum_bwd
from fnnet.ops._kernel_sum import kernel_sum_fwd as kernel_sum_fwd
from fnnet.ops._lin import lin as lin
from fnnet.ops._lin import lin_bwd as lin_bwd
from fnnet.ops._lin import lin_fwd as lin_fwd
from fnnet.ops._linear_cross_entropy import linear_cross_entropy as linear_cross_entropy
from fnnet.ops._linear_cross_entropy import linear_cross_entropy_bwd as linear_cross_entropy_bwd
from fnnet.ops._linear_cross_entropy import linear_cross_entropy_fwd as linear_cross_entropy_fwd
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
from fnnet.ops._pairwise_distance import pairwise_distance as pairwise_distance
from fnnet.ops._pairwise_distance import pairwise_distance_bwd as pairwise_distance_bwd
from fnnet.ops._pairwise_distance import pairwise_distance_fwd as pairwise_distance_fwd
from fnnet.ops._pool import avg_pool as avg_pool
from fnnet.ops._pool import avg_pool_bwd as avg_pool_bwd
from fnnet.ops._pool import avg_pool_fwd as avg_pool_fwd
from fnnet.ops._pool import max_pool as max_pool
from fnnet.ops._pool import max_pool_bwd as max_pool_bwd
from fnnet.ops._pool import max_pool_fwd as max_pool_fwd
from fnnet.ops._relu import relu as relu
from fnnet.ops._relu import relu_bwd as relu_bwd
from fnnet.ops._relu import relu_fwd as relu_fwd
from fnnet.ops._rnn import rnn as rnn
from fnnet.ops._rnn import rnn_bwd as rnn_bwd
from fnnet.ops._rnn import rnn_fwd as rnn_fwd
from fnnet.ops._rope import rope as rope
from fnnet.ops._rope import rope_bwd as rope_bwd
from fnnet.ops._rope import rope_fwd as rope_fwd
from fnnet.ops._softmax import log_softmax as log_softmax
from fnnet.ops._softmax import log_softmax_bwd as log_softmax_bwd
from fnnet.ops._softmax import log_softmax_fwd as log_softmax_fwd
from fnnet.ops._softmax import softmax as softmax
from fnnet.ops._softmax import softmax_bwd as softmax_bwd
from fnnet.ops._softmax import softmax_fwd as softmax_fwd
from fnnet.ops._unfold import fold as fold
from fnnet.ops._unfold import fold_bwd as fold_bwd
from fnnet.ops._unfold import fold_fwd as fold_fwd
from fnnet.ops._unfold import unfold as unfold
from fnnet.ops._unfold import unfold_bwd as unfold_bwd
from fnnet.ops._unfold import unfold_fwd as unfold_fwd
from fnnet.ops._vector_norm import norm as norm
from fnnet.ops._vector_norm import norm_bwd as norm_bwd
from fnnet.ops._vector_norm import norm_fwd as norm_fwd

__all__ = [
    "attention",
    "attention_bwd",
    "attention_fwd",
    "avg_pool",
    "avg_pool_bwd",
    "avg_pool_fwd",
    "batch_norm",
    "batch_norm_bwd",
    "batch_norm_fwd",
    "conv2d",
    "conv2d_bwd",
    "conv2d_fwd",
    "cross_entropy",
    "cross_entropy_bwd",
    "cross_entropy_fwd",
    "fold",
    "fold_bwd",
    "fold_fwd",
    "gelu",
    "gelu_bwd",
    "gelu_fwd",
    "glu_mlp",
    "glu_mlp_bwd",
    "glu_mlp_fwd",
    "group_norm",
    "group_norm_bwd",
    "group_norm_fwd",
    "gru",
    "gru_bwd",
    "gru_fwd",
    "kernel_sum",
    "kernel_sum_bwd",
    "kernel_sum_fwd",
    "layer_norm",
    "layer_norm_bwd",
    "layer_norm_fwd",
    "lin",
    "lin_bwd",
    "lin_fwd",
    "linear_cross_entropy",
    "linear_cross_entropy_bwd",
    "linear_cross_entropy_fwd",
    "log_softmax",
    "log_softmax_bwd",
    "log_softmax_fwd",
    "matmul",
    "matmul_bwd",
    "matmul_fwd",
    "max_pool",
    "max_pool_bwd",
    "max_pool_fwd",
    "mse",
    "mse_bwd",
    "mse_fwd",
    "norm",
    "norm_bwd",
    "norm_fwd",
    "pairwise_distance",
    "pairwise_distance_bwd",
    "pairwise_distance_fwd",
    "relu",
    "relu_bwd",
    "relu_fwd",
    "rms_norm",
    "rms_norm_bwd",
    "rms_norm_fwd",
    "rnn",
    "rnn_bwd",
    "rnn_fwd",
    "rope",
    "rope_bwd",
    "rope_fwd",
    "silu",
    "silu_bwd",
    "silu_fwd",
    "softmax",
    "softmax_bwd",
    "softmax_fwd",
    "unfold",
    "unfold_bwd",
    "unfold_fwd",
]
