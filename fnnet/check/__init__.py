"""Is this gradient right? A verifier for any hand-written VJP."""

from fnnet.check.compare import compare_gradients as compare_gradients
from fnnet.check.report import Finding as Finding
from fnnet.check.report import GradientError as GradientError
from fnnet.check.report import Report as Report
from fnnet.check.verify import assert_vjp as assert_vjp
from fnnet.check.verify import check_vjp as check_vjp

__all__ = [
    "Finding",
    "GradientError",
    "Report",
    "assert_vjp",
    "check_vjp",
    "compare_gradients",
]
