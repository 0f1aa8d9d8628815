"""Is this gradient right? A verifier for any hand-written VJP.

Its rooms, each of which imports from those before it and from none after:

- `case`: the call that is checked, the numerics it is run in, and what a finding is;
- `oracle`: what the truth is, how exactly it is known, who is right where two differ;
- `diagnosis`: what the mistake probably is;
- `questions`: one file each, ``ask(evidence) -> findings``;
- `report`: the findings as a table and as JSON;
- `taylor`, `verify`, `compare`: the public functions, which ask the questions;
- `selftest`: the checker's own exam and fnnet's ops under it; `cli` is the command.
"""

from fnnet.check.case.finding import Finding as Finding
from fnnet.check.compare import compare_gradients as compare_gradients
from fnnet.check.declare import declare as declare
from fnnet.check.report.report import GradientError as GradientError
from fnnet.check.report.report import Report as Report
from fnnet.check.taylor import Taylor as Taylor
from fnnet.check.taylor import taylor as taylor
from fnnet.check.verify import assert_vjp as assert_vjp
from fnnet.check.verify import check_vjp as check_vjp

__all__ = [
    "Finding",
    "GradientError",
    "Report",
    "Taylor",
    "assert_vjp",
    "check_vjp",
    "compare_gradients",
    "declare",
    "taylor",
]
