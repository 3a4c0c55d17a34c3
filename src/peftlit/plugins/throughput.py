"""Samples per second of training, what happens between the batches left out."""

from __future__ import annotations

import time
from typing import Any


class Throughput:
    """Rows over all ranks, and the seconds spent on them, since it was made."""

    def __init__(self) -> None:
        self.rows = 0
        self.seconds = 0.0
        self._started = 0.0

    def start(self) -> None:
        """Start the clock for one batch."""
        self._started = time.perf_counter()

    def stop(self, batch: Any, world_size: int) -> None:
        """Stop the clock and count the batch.

        Args:
            batch: The batch.
            world_size: Number of processes that had one like it.
        """
        self.seconds += time.perf_counter() - self._started
        self.rows += len(batch["input_ids"]) * world_size if isinstance(batch, dict) and "input_ids" in batch else 0

    def rate(self) -> float:
        """Return rows per second, 0 before the first batch."""
        return self.rows / self.seconds if self.seconds else 0.0
