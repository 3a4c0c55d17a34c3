"""Everything in this folder computes on a CUDA device, and skips where there is none."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests import device
from tests.contracts import families


@pytest.fixture(autouse=True)
def _on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    monkeypatch.setattr(device, "current", "cuda")


@pytest.fixture
def kept_or_refused() -> Any:
    """Judge a row of the table, but leave docs/families.md to the runs on a CPU."""
    return lambda promise, reason: families.judged([], reason)
