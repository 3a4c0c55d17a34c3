"""Callbacks for runs that are killed: one kills, one writes down what every batch was and what came of it."""

import os
import signal
from typing import Any

from lightning import Callback


class KillAt(Callback):
    """Send this process, and all that it was started with, SIGKILL at the instant that ``KILL_AT`` names.

    ``train 0/4`` is the end of the fifth training batch of the first epoch, ``validation 1/0`` that of the first
    validation batch of the second, ``end`` that of all training. Of several ranks the first one kills.
    """

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._kill_at(f"train {trainer.current_epoch}/{batch_idx}", trainer)

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if not trainer.sanity_checking:
            self._kill_at(f"validation {trainer.current_epoch}/{batch_idx}", trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._kill_at("end", trainer)

    @staticmethod
    def _kill_at(instant: str, trainer: Any) -> None:
        if trainer.is_global_zero and os.environ.get("KILL_AT") == instant:
            os.killpg(os.getpgrp(), signal.SIGKILL)


class StopAfterFour(Callback):
    """Ask for the end of training after four batches, as a limit of time may."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 3:
            trainer.should_stop = True


class Trace(Callback):
    """Append epoch, batch, its rows and its loss, to the last bit, to ``trace_RANK.txt``."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        loss = float(outputs["loss"]).hex()
        with open(f"trace_{trainer.global_rank}.txt", "a", encoding="utf-8") as file:
            file.write(f"{trainer.current_epoch}/{batch_idx} {batch['row'].tolist()} {loss}\n")
