"""What contracts share: the base of toy runs, and the way of a row's outcome into the reports."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.contracts import families
from tests.contracts.outcomes import PROPERTY
from tests.contracts.toy_runs import write_base


@pytest.fixture
def bert(model_folder) -> Path:
    """The folder of the tiny BERT."""
    return model_folder("bert")


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT in ``bert``, and toy data."""
    folder = tmp_path_factory.mktemp("base")
    write_base(folder)
    return folder


@pytest.fixture
def kept_or_refused(request: pytest.FixtureRequest) -> Callable[[str, str | None], AbstractContextManager[None]]:
    """Return :func:`families.judged` for a promise of the test's row; it takes the reason of a refusal."""
    row = str(request.node.callspec.params["case"])
    cells: dict[str, list[str]] = {promise: [] for promise in families.PROMISES}
    for promise, cell in cells.items():
        request.node.user_properties.append((PROPERTY, [promise, row, cell, len(families.KEYS)]))
    return lambda promise, reason: families.judged(cells[promise], reason)
