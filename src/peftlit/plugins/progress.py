"""Progress on a terminal (rich bars) and without one (plain lines): loss, learning rate, samples per second."""

from __future__ import annotations

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar
from lightning.pytorch.utilities import rank_zero_only

from peftlit.modules.accumulation import at_step_boundary
from peftlit.modules.metrics import HEADLINES
from peftlit.modules.optim import learning_rate
from peftlit.plugins.throughput import throughput_of

_LINES_PER_EPOCH = 10


def _training_numbers(trainer: Trainer) -> dict[str, str]:
    """Return the numbers of training as text; this waits for the loss."""
    numbers = {}
    if "train/loss" in trainer.callback_metrics:
        numbers["loss"] = f"{float(trainer.callback_metrics['train/loss']):.4f}"
    rate = learning_rate(trainer.optimizers[0]) if trainer.optimizers else None
    if rate is not None:
        numbers["lr"] = f"{rate:.2e}"
    throughput = throughput_of(trainer)
    if throughput is not None and throughput.rows:
        numbers["samples/s"] = f"{throughput.rate():.3g}"
    return numbers


class RichProgress(RichProgressBar):
    """Rich bars with loss, learning rate and samples per second, of the last logging step."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=1)
        self._shown: dict[str, str] = {}

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return what the end of the bar shows."""
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by a connector
        is_logging_step = at_step_boundary(trainer) and every and trainer.global_step % every == 0
        if is_logging_step or "loss" not in self._shown:
            self._shown = _training_numbers(trainer)
        return dict(self._shown)


class LineProgress(ProgressBar):
    """One plain line now and then, for logs and pipes."""

    def __init__(self) -> None:
        super().__init__()
        self._due = False

    def disable(self) -> None:
        """Lightning turns bars off on all ranks but the first; lines are printed there only anyway."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print a line a few times per epoch, after an optimizer step."""
        batches = trainer.num_training_batches
        total = int(batches) if batches != float("inf") else 0
        lines = min(total, _LINES_PER_EPOCH) or 1
        due = (batch_idx + 1) * lines // total > batch_idx * lines // total if total else (batch_idx + 1) % 100 == 0
        self._due = self._due or due
        if not self._due or not at_step_boundary(trainer):
            return
        self._due = False
        numbers = "  ".join(f"{name} {value}" for name, value in _training_numbers(trainer).items())
        _say(
            f"epoch {trainer.current_epoch + 1}  batch {batch_idx + 1}/{total or '?'}  "
            f"step {trainer.global_step}  {numbers}"
        )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the validation's main numbers."""
        if trainer.sanity_checking:
            return
        logged = trainer.callback_metrics
        values = {f"val/{name}": float(logged[f"val/{name}"]) for name in HEADLINES if f"val/{name}" in logged}
        _say(f"epoch {trainer.current_epoch + 1}  " + "  ".join(f"{k} {v:.4f}" for k, v in values.items()))


@rank_zero_only
def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201  the one place whose purpose is to print
