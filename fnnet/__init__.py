"""Pure neural-net functions for JAX whose gradients are derived by hand.

ops         every op is `fnnet.NAME`; each file of `fnnet.ops` derives its backward rule
rules       `register`, to give your own function the gradient you derived; `plain`, to take it away
net         `init`, `layers`, `backprop`, `ladder`: the chapter's machinery, functionally
measure     `memory`: what an array holds, what a backward pass stores, what a program needs
check       is your own hand-derived gradient right? `check.check_vjp`; loads when asked for
proof       the ops again in NumPy, and proofs of their rules; loads when asked for
"""

import importlib
import sys
from types import ModuleType

from fnnet import ops as ops
from fnnet.measure import memory as memory
from fnnet.net import backprop as backprop
from fnnet.net import init as init
from fnnet.net import ladder as ladder
from fnnet.net import layers as layers
from fnnet.ops import attention as attention
from fnnet.ops import avg_pool as avg_pool
from fnnet.ops import conv2d as conv2d
from fnnet.ops import cross_entropy as cross_entropy
from fnnet.ops import fold as fold
from fnnet.ops import gelu as gelu
from fnnet.ops import glu_mlp as glu_mlp
from fnnet.ops import gru as gru
from fnnet.ops import layer_norm as layer_norm
from fnnet.ops import lin as lin
from fnnet.ops import linear_cross_entropy as linear_cross_entropy
from fnnet.ops import log_softmax as log_softmax
from fnnet.ops import matmul as matmul
from fnnet.ops import max_pool as max_pool
from fnnet.ops import mse as mse
from fnnet.ops import norm as norm
from fnnet.ops import relu as relu
from fnnet.ops import rms_norm as rms_norm
from fnnet.ops import rnn as rnn
from fnnet.ops import silu as silu
from fnnet.ops import softmax as softmax
from fnnet.ops import unfold as unfold
from fnnet.rules import plain as plain
from fnnet.rules import register as register

# `from fnnet.layers import linear` finds them too, as `fnnet.layers` does
sys.modules.update(
    {f"fnnet.{m.__name__.rsplit('.', 1)[1]}": m for m in (backprop, init, ladder, layers, memory)}
)

_ON_DEMAND = ("check", "proof")


def __getattr__(name: str) -> ModuleType:
    """Load, when it is first asked for, what those who only import ops need not wait for."""
    if name in _ON_DEMAND:
        return importlib.import_module(f"fnnet.{name}")
    raise AttributeError(f"module 'fnnet' has no attribute {name!r}")
