"""What came of every row of the table goes into the reports of the contracts that run over it."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import pytest

from tests.contracts import families
from tests.contracts.outcomes import PROPERTY


@pytest.fixture
def kept_or_refused(request: pytest.FixtureRequest) -> Callable[[str | None], AbstractContextManager[None]]:
    """Return :func:`families.judged` for the cell of the test's promise and row; it takes the reason of a refusal."""
    promise = re.sub(r"test_p0*(\d+)_.*", r"P\1", request.node.name)
    cell: list[str] = []
    row = str(request.node.callspec.params["case"])
    request.node.user_properties.append((PROPERTY, [promise, row, cell, len(families.KEYS)]))
    return partial(families.judged, cell)
