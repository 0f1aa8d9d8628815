"""A row of the table that has an excuse for a test: the test is skipped, with the reason."""

import pytest

from tests.call import Call


@pytest.fixture(autouse=True)
def _excused(request: pytest.FixtureRequest) -> None:
    callspec = getattr(request.node, "callspec", None)
    case = callspec.params.get("case") if callspec else None
    if isinstance(case, Call):
        case.excuse(request.node.originalname)
