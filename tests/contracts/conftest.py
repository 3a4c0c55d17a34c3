"""What came of every row of the table goes into the reports of the contracts that run over it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from tests.contracts import families
from tests.contracts.outcomes import PROPERTY


@pytest.fixture
def kept_or_refused(request: pytest.FixtureRequest) -> Callable[[str, str | None], AbstractContextManager[None]]:
    """Return :func:`families.judged` for a promise of the test's row; it takes the reason of a refusal."""
    row = str(request.node.callspec.params["case"])
    cells: dict[str, list[str]] = {promise: [] for promise in families.PROMISES}
    for promise, cell in cells.items():
        request.node.user_properties.append((PROPERTY, [promise, row, cell, len(families.KEYS)]))
    return lambda promise, reason: families.judged(cells[promise], reason)
