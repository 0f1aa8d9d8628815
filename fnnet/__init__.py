"""Pure neural-net functions for JAX whose gradients are derived by hand.

ops         every op is `fnnet.NAME`; each file of `fnnet.ops` derives its backward rule
rules       `register`, to give your own function the gradient you derived; `plain`, to take it
            away; `both_modes`, to give forward mode to anybody's function with such a gradient
net         `init`, `layers`, `backprop`, `ladder`: the chapter's machinery, functionally
curvature   Gauss-Newton and Hessian products, diagonals and traces
measure     `memory`: what an array holds, what a backward pass stores, what a program needs;
            `targets`: the same for a TPU or a GPU that is not there; loads when asked for
check       is your own hand-derived gradient right? `check.check_vjp`; loads when asked for
watch       every hand-written rule that a program meets, checked; loads when asked for
proof       the ops again in NumPy, and proofs of their rules; loads when asked for
"""

import sys
from typing import TYPE_CHECKING

if sys.argv[:1] == ["-m"]:  # `python -m` is looking for its module: perhaps for this one
    from fnnet._terminal import starting

    starting(sys.orig_argv)

from fnnet import backprop as backprop
from fnnet import curvature as curvature
from fnnet import init as init
from fnnet import ladder as ladder
from fnnet import layers as layers
from fnnet import memory as memory
from fnnet import ops as ops
from fnnet.ops import attention as attention
from fnnet.ops import avg_pool as avg_pool
from fnnet.ops import batch_norm as batch_norm
from fnnet.ops import conv2d as conv2d
from fnnet.ops import cross_entropy as cross_entropy
from fnnet.ops import fold as fold
from fnnet.ops import gelu as gelu
from fnnet.ops import glu_mlp as glu_mlp
from fnnet.ops import group_norm as group_norm
from fnnet.ops import gru as gru
from fnnet.ops import kernel_sum as kernel_sum
from fnnet.ops import layer_norm as layer_norm
from fnnet.ops import lin as lin
from fnnet.ops import linear_cross_entropy as linear_cross_entropy
from fnnet.ops import log_softmax as log_softmax
from fnnet.ops import matmul as matmul
from fnnet.ops import max_pool as max_pool
from fnnet.ops import mse as mse
from fnnet.ops import norm as norm
from fnnet.ops import pairwise_distance as pairwise_distance
from fnnet.ops import relu as relu
from fnnet.ops import rms_norm as rms_norm
from fnnet.ops import rnn as rnn
from fnnet.ops import rope as rope
from fnnet.ops import silu as silu
from fnnet.ops import softmax as softmax
from fnnet.ops import unfold as unfold
from fnnet.rules import both_modes as both_modes
from fnnet.rules import plain as plain
from fnnet.rules import register as register

if TYPE_CHECKING:
    from fnnet import check as check
    from fnnet import proof as proof
    from fnnet import targets as targets
    from fnnet import watch as watch

    __version__: str

__all__ = [
    "attention",
    "avg_pool",
    "backprop",
    "batch_norm",
    "both_modes",
    "check",
    "conv2d",
    "cross_entropy",
    "curvature",
    "fold",
    "gelu",
    "glu_mlp",
    "group_norm",
    "gru",
    "init",
    "kernel_sum",
    "ladder",
    "layer_norm",
    "layers",
    "lin",
    "linear_cross_entropy",
    "log_softmax",
    "matmul",
    "max_pool",
    "memory",
    "mse",
    "norm",
    "ops",
    "pairwise_distance",
    "plain",
    "proof",
    "register",
    "relu",
    "rms_norm",
    "rnn",
    "rope",
    "silu",
    "softmax",
    "targets",
    "unfold",
    "watch",
]

# hidden from type checkers, to which any name would be right that a `__getattr__` may know
if not TYPE_CHECKING:

    def __getattr__(name):
        """Load, when it is first asked for, what those who only import ops need not wait for."""
        if name in ("check", "proof", "targets", "watch"):
            from importlib import import_module

            return import_module(f"fnnet.{name}")
        if name == "__version__":
            from importlib import metadata

            try:
                return metadata.version("fnnet")
            except metadata.PackageNotFoundError:  # a source folder on the path, not installed
                return "0+unknown"
        raise AttributeError(f"module 'fnnet' has no attribute {name!r}")

    def __dir__():
        """The public names, loaded or not, beside what every module has."""
        special = [name for name in globals() if name.startswith("__")]
        return sorted({*special, *__all__, "__version__"})
