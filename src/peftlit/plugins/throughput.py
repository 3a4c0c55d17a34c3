"""How fast training is: rows over wall time, and how much of that time went into fetching batches."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import Profiler

_FETCH = "train_dataloader_next"
"""What Lightning's profilers call the fetching of a training batch."""


class Throughput(Callback):
    """The one clock of a run: forward, backward, data loading, logging and checkpoints of training.

    The sanity check and validations are left out. The device is waited for only where the clock stops, before a
    validation and at the end. A resumed run continues with the rows and seconds of its checkpoint.

    Attributes:
        rows: Rows trained on. Ranks get equal shares, to a row; those of this one are taken for all.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._seconds = 0.0
        self._fetching = 0.0
        self._started: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds of training so far."""
        return self._seconds + (0.0 if self._started is None else time.perf_counter() - self._started)

    def rate(self) -> float:
        """Return rows per second, 0 before the first batch."""
        return self.rows / self.seconds if self.rows else 0.0

    def summary(self) -> dict[str, float]:
        """Return rows per second, and the share of the time in which the process waited for its next batch."""
        share = self._fetching / self.seconds if self.rows else 0.0
        return {"samples_per_second": round(self.rate(), 2), "data_wait_fraction": round(share, 4)}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._time_fetching(trainer.profiler)  # type: ignore[attr-defined]  # set by a connector
        self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch's rows."""
        if isinstance(batch, dict) and "input_ids" in batch:
            self.rows += len(batch["input_ids"]) * trainer.world_size

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._stop(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock again, unless training has not begun."""
        if not trainer.sanity_checking:
            self._started = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._stop(trainer)

    def _stop(self, trainer: Trainer) -> None:
        if self._started is None:
            return
        if trainer.strategy.root_device.type != "cpu":
            torch.accelerator.synchronize()
        self._seconds, self._started = self.seconds, None

    def _time_fetching(self, profiler: Profiler) -> None:
        """Listen to what Lightning tells its profiler, whichever it is: it gives no other sign of a fetch."""
        start, stop, begun = profiler.start, profiler.stop, 0.0

        def on_start(action_name: str) -> None:
            nonlocal begun
            start(action_name)
            if action_name.endswith(_FETCH):
                begun = time.perf_counter()

        def on_stop(action_name: str) -> None:
            if action_name.endswith(_FETCH):
                self._fetching += time.perf_counter() - begun
            stop(action_name)

        profiler.start, profiler.stop = on_start, on_stop  # type: ignore[method-assign]

    def state_dict(self) -> dict[str, Any]:
        """Return what has been counted so far."""
        return {"rows": self.rows, "seconds": self.seconds, "fetching": self._fetching}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what had been counted."""
        self.rows, self._seconds, self._fetching = (state_dict[name] for name in ("rows", "seconds", "fetching"))


def throughput_of(trainer: Trainer) -> Throughput | None:
    """Return the Trainer's clock, None where it has none."""
    return next((c for c in trainer.callbacks if isinstance(c, Throughput)), None)  # type: ignore[attr-defined]
