"""Where the bytes are: in an array, in a backward pass, in a compiled program.

`storage(x)`                 an array's buffer: contents in order, strides, addresses, who shares it
`residuals(f, *args)`        what the forward pass of `f` stores for its backward pass
`compiled_memory(f, *args)`  what the compiled `f` needs, counted by the compiler

Each looks at one thing, and is a file of its own; this module gathers them.
"""

from fnnet.measure.compiled import CompiledMemory as CompiledMemory
from fnnet.measure.compiled import compiled_memory as compiled_memory
from fnnet.measure.residuals import Residual as Residual
from fnnet.measure.residuals import Residuals as Residuals
from fnnet.measure.residuals import residuals as residuals
from fnnet.measure.storage import Shard as Shard
from fnnet.measure.storage import Storage as Storage
from fnnet.measure.storage import storage as storage
