"""Is the gradient on several devices that of one?"""

from __future__ import annotations

from fnnet.check.evidence import Evidence
from fnnet.check.report import Finding
from fnnet.check.sharding import data_parallel, spread_out

NAME = "sharded"


def ask(e: Evidence) -> list[Finding]:
    """Cut arguments over the devices: by the compiler, and by `shard_map` where that is legal."""
    return [*spread_out(e), *data_parallel(e)]
