"""What came of every row of the table, collected while the contracts run and written to docs/families.md."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial

import pytest

from tests.contracts import families


@pytest.fixture(scope="session")
def outcomes() -> Iterator[families.Outcomes]:
    """What came of every row so far; written to the docs at the end of the run."""
    found: families.Outcomes = {}
    yield found
    families.write(families.PAGE, found)


@pytest.fixture
def kept_or_refused(
    request: pytest.FixtureRequest, outcomes: families.Outcomes
) -> Callable[[str | None], AbstractContextManager[None]]:
    """Return :func:`families.judged` for the cell of the test's promise and row; it takes the reason of a refusal."""
    promise = re.sub(r"test_p0*(\d+)_.*", r"P\1", request.node.name)
    cell = outcomes[promise, request.node.callspec.params["case"]] = []
    return partial(families.judged, cell)
