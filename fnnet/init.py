"""Initialisers, `(key, shape, dtype=float32) -> array`; they are written in `fnnet.net.init`."""

from fnnet.net.init import Initializer as Initializer
from fnnet.net.init import fans as fans
from fnnet.net.init import kaiming_normal as kaiming_normal
from fnnet.net.init import kaiming_uniform as kaiming_uniform
from fnnet.net.init import lecun_normal as lecun_normal
from fnnet.net.init import normal as normal
from fnnet.net.init import xavier_normal as xavier_normal
from fnnet.net.init import xavier_uniform as xavier_uniform
from fnnet.net.init import zeros as zeros

__all__ = [
    "Initializer",
    "fans",
    "kaiming_normal",
    "kaiming_uniform",
    "lecun_normal",
    "normal",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]
