"""How a task is evaluated: batches are added to the scores of a split, which are logged once at its end."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor

from peftlit.batch import Batch
from peftlit.modules.parts import ModelParts
from peftlit.modules.scores import Scores


class EvaluationModule(ModelParts):
    """A module whose scores are computed over a whole split, never as a mean of batches.

    Attributes:
        evaluation_extras: What the last evaluation gave beside the logged scalars: a confusion matrix, a token count.
    """

    val_scores: Scores
    test_scores: Scores

    def __init__(self) -> None:
        super().__init__()
        self.evaluation_extras: dict[str, Any] = {}

    @abstractmethod
    def loss(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Run the model on a batch.

        Returns:
            The sum of the losses (scalar), their weight (scalar: rows or tokens), and what scores are computed from:
            logits, or the number of tokens found. A gradient is divided by the weight summed over one optimizer step.
        """

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a validation batch to the scores."""
        self._score(batch, self.val_scores)

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor] | None:
        """Add a test batch to the scores.

        Returns:
            The batch's part of ``predictions.csv``, where rows are classified: ``row`` (B,), ``labels`` and
            ``answers`` (probabilities or numbers).
        """
        return self._score(batch, self.test_scores)

    def on_validation_epoch_start(self) -> None:
        """Reset the scores. Not at the end: what inference mode creates there could not be updated later."""
        self.val_scores.reset()

    def on_test_epoch_start(self) -> None:
        """Reset the scores."""
        self.test_scores.reset()

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the whole validation split."""
        self._log_scores("val", self.val_scores)

    def on_test_epoch_end(self) -> None:
        """Log the scores of the whole test split."""
        self._log_scores("test", self.test_scores)

    def _score(self, batch: Batch, scores: Scores) -> dict[str, Tensor] | None:
        total, weight, output = self.loss(batch)
        if self.problem is None:
            scores.update(total, weight, output)
            return None
        answers = self.problem.answers(output)
        scores.update(total, weight, answers, batch["labels"])
        return {"row": batch["row"], "labels": batch["labels"], "answers": answers}

    def _log_scores(self, split: str, scores: Scores) -> None:
        scalars, self.evaluation_extras = scores.compute()
        self.log_dict({f"{split}/{name}": value for name, value in scalars.items()})
