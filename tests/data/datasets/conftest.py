"""A stand-in for the hub."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import datasets
import pytest


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[Any, ...]]]:
    """Return a function that takes what the hub holds by split; what is asked of it then stands in the list."""

    def holds(**splits: datasets.Dataset) -> list[tuple[Any, ...]]:
        asked: list[tuple[Any, ...]] = []

        def load_dataset(path: str, name: str | None, *, revision: str | None, streaming: bool) -> datasets.DatasetDict:
            asked.append((path, name, revision))
            return datasets.DatasetDict(splits)

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return asked

    return holds
