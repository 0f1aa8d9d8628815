"""Compile for hardware that is not there: TPUs and GPUs, on any machine.

`compile_for(f, *args, target=)`    the program a chip would run: memory, exchanges, kernels
`mesh_on(target, axes)`             a mesh of devices that exist in name alone
`largest_batch(f, arguments, ...)`  how much of it fits a chip's memory
`names()`                           the chips that are known

They are written in `fnnet.measure`.
"""

from fnnet.measure.chips import names as names
from fnnet.measure.fits import Fit as Fit
from fnnet.measure.fits import largest_batch as largest_batch
from fnnet.measure.programs import Collective as Collective
from fnnet.measure.programs import Compiled as Compiled
from fnnet.measure.programs import TargetMemory as TargetMemory
from fnnet.measure.targets import compile_for as compile_for
from fnnet.measure.targets import mesh_on as mesh_on

__all__ = [
    "Collective",
    "Compiled",
    "Fit",
    "TargetMemory",
    "compile_for",
    "largest_batch",
    "mesh_on",
    "names",
]
