"""What a split's evaluation adds up where rows have labels: loss, metrics, confusion matrix."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from peftlit.modules.metrics import Metrics
from peftlit.modules.scores import Scores, exact_sum


class ClassScores(Scores):
    """Loss and metrics over the rows of a split, on all ranks.

    Args:
        metrics: The metrics of the problem.
    """

    def __init__(self, metrics: Metrics) -> None:
        super().__init__()
        self.total, self.weight, self.rows = exact_sum(), exact_sum(), exact_sum()
        self.metrics = metrics

    def update(self, total: Tensor, weight: Tensor, answers: Tensor, labels: Tensor) -> None:
        """Count a batch.

        Args:
            total: The sum of its losses, scalar.
            weight: What they are divided by, scalar.
            answers: What the problem made of the logits.
            labels: The labels.
        """
        self.total.update(total.detach())
        self.weight.update(weight)
        self.rows.update(len(answers))
        self.metrics.update(answers, labels)

    def compute(self) -> tuple[dict[str, float], dict[str, Any]]:
        """Return the scalars by name, and what else there is to tell: ``rows``, and ``confusion_matrix`` if any."""
        computed = self.metrics.compute()
        told: dict[str, Any] = {"rows": int(self.rows.compute())}
        if "confusion_matrix" in computed:
            told["confusion_matrix"] = computed["confusion_matrix"].cpu().tolist()
        return {"loss": float(self.total.compute() / self.weight.compute()), **self.metrics.scalars(computed)}, told
