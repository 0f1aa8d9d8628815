"""Where the bytes are: in an array, in a backward pass, in a compiled program.

`storage(x)`                 an array's buffer: contents in order, strides, addresses, who shares it
`residuals(f, *args)`        what the forward pass of `f` stores for its backward pass
`compiled_memory(f, *args)`  what the compiled `f` needs, counted by the compiler

They are written in `fnnet.measure`.
"""

from fnnet.measure.memory import CompiledMemory as CompiledMemory
from fnnet.measure.memory import Residual as Residual
from fnnet.measure.memory import Residuals as Residuals
from fnnet.measure.memory import Shard as Shard
from fnnet.measure.memory import Storage as Storage
from fnnet.measure.memory import compiled_memory as compiled_memory
from fnnet.measure.memory import residuals as residuals
from fnnet.measure.memory import storage as storage

__all__ = [
    "CompiledMemory",
    "Residual",
    "Residuals",
    "Shard",
    "Storage",
    "compiled_memory",
    "residuals",
    "storage",
]
