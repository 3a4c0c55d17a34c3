"""How a task is evaluated: batches go into the scores of a split, and the scores of the whole split are logged."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal

from lightning import LightningModule
from torch import Tensor

from peftlit.batch import Batch
from peftlit.modules.scores import Scores

Stage = Literal["val", "test"]
"""The split that is evaluated, as it stands before a metric's name."""


class EvaluationModule(LightningModule):
    """A module that counts over a whole split, never over batches, and says so once at its end.

    Attributes:
        told: What the last evaluation gave beside numbers to log: a confusion matrix, a count of tokens.
    """

    val_scores: Scores
    test_scores: Scores

    def __init__(self) -> None:
        super().__init__()
        self.evaluation_extras: dict[str, Any] = {}

    @abstractmethod
    def evaluation_step(self, batch: Batch, stage: Stage) -> dict[str, Tensor] | None:
        """Feed a batch to the scores of a split.

        Args:
            batch: The batch.
            stage: The split.

        Returns:
            What becomes a line of ``predictions.csv`` for each row, where rows are classified.
        """

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Feed a validation batch to the scores.

        Args:
            batch: The batch.
            batch_idx: Its number.
        """
        self.evaluation_step(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor] | None:
        """Feed a test batch to the scores.

        Args:
            batch: The batch.
            batch_idx: Its number.
        """
        return self.evaluation_step(batch, "test")

    def on_validation_epoch_start(self) -> None:
        """Start counting anew. Not at the end: what is made there under inference mode could not be updated later."""
        self.val_scores.reset()

    def on_test_epoch_start(self) -> None:
        """Start counting anew."""
        self.test_scores.reset()

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the whole validation split."""
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        """Log the scores of the whole test split."""
        self._log_scores("test")

    def _log_scores(self, stage: Stage) -> None:
        scalars, self.evaluation_extras = (self.val_scores if stage == "val" else self.test_scores).compute()
        self.log_dict({f"{stage}/{name}": value for name, value in scalars.items()})
