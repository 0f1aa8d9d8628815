"""The chapter's manual backward pass, no autodiff in it; it is written in `fnnet.net.backprop`."""

from fnnet.net.backprop import MLPParams as MLPParams
from fnnet.net.backprop import forward as forward
from fnnet.net.backprop import forward_and_backward as forward_and_backward
from fnnet.net.backprop import init_mlp as init_mlp
from fnnet.net.backprop import loss as loss
from fnnet.net.layers import LinearParams as LinearParams

__all__ = [
    "LinearParams",
    "MLPParams",
    "forward",
    "forward_and_backward",
    "init_mlp",
    "loss",
]
