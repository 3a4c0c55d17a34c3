"""Progress on a terminal (rich bars) and without one (plain lines): loss, learning rate, samples per second."""

from __future__ import annotations

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar
from lightning.pytorch.utilities import rank_zero_only

from peftlit.metrics import HEADLINES
from peftlit.optim import learning_rate
from peftlit.plugins.throughput import Throughput

_LINES_PER_EPOCH = 10


def _training_numbers(trainer: Trainer, throughput: Throughput) -> dict[str, str]:
    numbers = {}
    if "train/loss" in trainer.callback_metrics:
        numbers["loss"] = f"{float(trainer.callback_metrics['train/loss']):.4f}"
    rate = learning_rate(trainer.optimizers[0]) if trainer.optimizers else None
    if rate is not None:
        numbers["lr"] = f"{rate:.2e}"
    if throughput.rows:
        numbers["samples/s"] = f"{throughput.rate():.0f}"
    return numbers


class RichProgress(RichProgressBar):
    """Rich bars with loss, learning rate and samples per second."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=1)
        self._throughput = Throughput()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock.

        Args:
            trainer: The trainer.
            pl_module: The module.
            batch: The batch.
            batch_idx: Its number in the epoch.
        """
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self._throughput.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop the clock and redraw.

        Args:
            trainer: The trainer.
            pl_module: The module.
            outputs: What the step returned.
            batch: The batch.
            batch_idx: Its number in the epoch.
        """
        self._throughput.stop(batch, trainer.world_size)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return what stands at the end of the bar.

        Args:
            trainer: The trainer.
            pl_module: The module.
        """
        return dict(_training_numbers(trainer, self._throughput))


class LineProgress(ProgressBar):
    """One plain line now and then, for logs and pipes."""

    def __init__(self) -> None:
        super().__init__()
        self._throughput = Throughput()

    def disable(self) -> None:
        """Lightning turns bars off on all ranks but the first; lines are printed there only anyway."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock.

        Args:
            trainer: The trainer.
            pl_module: The module.
            batch: The batch.
            batch_idx: Its number in the epoch.
        """
        self._throughput.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print a line a few times per epoch.

        Args:
            trainer: The trainer.
            pl_module: The module.
            outputs: What the step returned.
            batch: The batch.
            batch_idx: Its number in the epoch.
        """
        self._throughput.stop(batch, trainer.world_size)
        batches = trainer.num_training_batches
        total = int(batches) if batches != float("inf") else 0
        lines = min(total, _LINES_PER_EPOCH) or 1
        due = (batch_idx + 1) * lines // total > batch_idx * lines // total if total else (batch_idx + 1) % 100 == 0
        if due:
            numbers = "  ".join(f"{k} {v}" for k, v in _training_numbers(trainer, self._throughput).items())
            _say(
                f"epoch {trainer.current_epoch + 1}  batch {batch_idx + 1}/{total or '?'}  "
                f"step {trainer.global_step}  {numbers}"
            )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the validation's main numbers.

        Args:
            trainer: The trainer.
            pl_module: The module.
        """
        if trainer.sanity_checking:
            return
        logged = trainer.callback_metrics
        values = {f"val/{name}": float(logged[f"val/{name}"]) for name in HEADLINES if f"val/{name}" in logged}
        _say(f"epoch {trainer.current_epoch + 1}  " + "  ".join(f"{k} {v:.4f}" for k, v in values.items()))


@rank_zero_only
def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201  the one place whose purpose is to print
