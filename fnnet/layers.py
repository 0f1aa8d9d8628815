"""Layers as pairs of pure functions, (init, apply); they are written in `fnnet.net.layers`."""

from fnnet.net.layers import ConvParams as ConvParams
from fnnet.net.layers import Layer as Layer
from fnnet.net.layers import LayerNormParams as LayerNormParams
from fnnet.net.layers import LinearParams as LinearParams
from fnnet.net.layers import Params as Params
from fnnet.net.layers import conv as conv
from fnnet.net.layers import flatten as flatten
from fnnet.net.layers import layer_norm_layer as layer_norm_layer
from fnnet.net.layers import linear as linear
from fnnet.net.layers import max_pool_layer as max_pool_layer
from fnnet.net.layers import parameter_count as parameter_count
from fnnet.net.layers import parameters as parameters
from fnnet.net.layers import relu_layer as relu_layer
from fnnet.net.layers import sequential as sequential

__all__ = [
    "ConvParams",
    "Layer",
    "LayerNormParams",
    "LinearParams",
    "Params",
    "conv",
    "flatten",
    "layer_norm_layer",
    "linear",
    "max_pool_layer",
    "parameter_count",
    "parameters",
    "relu_layer",
    "sequential",
]
