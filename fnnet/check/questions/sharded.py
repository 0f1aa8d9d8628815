"""Is the gradient on several devices that of one?"""

from __future__ import annotations

from fnnet.check.case.finding import Finding
from fnnet.check.oracle.evidence import Evidence
from fnnet.check.questions.sharding import data_parallel, spread_out

NAME = "sharded"


def ask(e: Evidence) -> list[Finding]:
    """Cut arguments over the devices: by the compiler, and by `shard_map` where that is legal."""
    return [*spread_out(e), *data_parallel(e)]
