"""Losses of classification and regression: a sum and its weight, so that a mean can be taken over any window.

Letters: ``B`` rows in the batch, ``C`` classes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss, nll_loss

from peftlit.errors import ConfigError


class Loss(nn.Module, ABC):
    """A loss between logits and labels. A loss of your own implements :meth:`forward`."""

    def prepare(self, class_counts: Sequence[int] | None, rows: int | None) -> None:
        """Look at the training labels before training; the base has no need to.

        Args:
            class_counts: Training rows of each class, None if unknown.
            rows: Training rows in all, None if unknown.
        """

    @abstractmethod
    def forward(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of the losses and what it has to be divided by, both scalar."""


class _Weighted(Loss):
    """A loss in which classes may weigh differently."""

    weights: Tensor | None

    def __init__(self, weights: Literal["balanced"] | list[float] | None, setting: str) -> None:
        super().__init__()
        if isinstance(weights, list) and not all(0 < weight < math.inf for weight in weights):
            raise ConfigError(f"model.loss.{setting}: got {weights}, needs one number over 0 for each class")
        self._asked = weights
        self._setting = setting
        self.register_buffer("weights", None, persistent=False)

    def prepare(self, class_counts: Sequence[int] | None, rows: int | None) -> None:
        """Compute the weights.

        Raises:
            ConfigError: The number of weights is wrong, or ``balanced`` has nothing to count.
        """
        if self._asked is None:
            return
        if self._asked == "balanced":
            if class_counts is None or rows is None or not all(class_counts):
                said = "the data does not count its classes" if class_counts is None else "a class has no training row"
                raise ConfigError(f"model.loss.{self._setting}: balanced is not possible, {said}; give the numbers")
            self.weights = torch.tensor(self.balance(class_counts, rows))
            return
        if class_counts is not None and len(self._asked) != self.expected(len(class_counts)):
            raise ConfigError(
                f"model.loss.{self._setting}: got {len(self._asked)} numbers, needs {self.expected(len(class_counts))}"
            )
        self.weights = torch.tensor(self._asked)

    def expected(self, num_classes: int) -> int:
        """Return how many weights there are."""
        return num_classes

    @abstractmethod
    def balance(self, class_counts: Sequence[int], rows: int) -> list[float]:
        """Return the weights that make up for classes of different size."""


class CrossEntropy(_Weighted):
    """Cross-entropy over classes that exclude each other.

    Args:
        class_weights: A weight for each class, or ``balanced``: rows / (classes x rows of the class), scikit-learn's
            formula.
        label_smoothing: Share of the target that is spread over all classes (Szegedy et al., CVPR 2016).
    """

    def __init__(
        self, class_weights: Literal["balanced"] | list[float] | None = None, label_smoothing: float = 0.0
    ) -> None:
        super().__init__(class_weights, "class_weights")
        if not 0 <= label_smoothing < 1:
            raise ConfigError(f"model.loss.label_smoothing: got {label_smoothing}, needs a share from 0 to below 1")
        self.label_smoothing = label_smoothing

    def balance(self, class_counts: Sequence[int], rows: int) -> list[float]:
        """Return rows / (classes x rows of the class)."""
        return [rows / (len(class_counts) * count) for count in class_counts]

    def forward(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the summed loss of logits (B, C) and class ids (B,), and the summed weight of the rows' classes."""
        total = cross_entropy(
            logits, labels, weight=self.weights, label_smoothing=self.label_smoothing, reduction="sum"
        )
        return total, _weight_of_rows(self.weights, labels, logits)


class FocalLoss(CrossEntropy):
    """Cross-entropy that counts rows already known well for less (Lin et al., ICCV 2017).

    Args:
        gamma: How much less: each row's loss is multiplied by (1 - probability of its class) ** gamma.
        class_weights: A weight for each class, or ``balanced``.
    """

    def __init__(self, gamma: float = 2.0, class_weights: Literal["balanced"] | list[float] | None = None) -> None:
        super().__init__(class_weights)
        if not 0 <= gamma < math.inf:
            raise ConfigError(f"model.loss.gamma: got {gamma}, needs a number from 0")
        self.gamma = gamma

    def forward(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the summed loss of logits (B, C) and class ids (B,), and the summed weight of the rows' classes."""
        log_probabilities = logits.log_softmax(-1)
        missed = 1 - log_probabilities.exp()
        missed = missed.clamp(min=torch.finfo(missed.dtype).tiny)  # at 0, roots have no gradient
        total = nll_loss(missed**self.gamma * log_probabilities, labels, weight=self.weights, reduction="sum")
        return total, _weight_of_rows(self.weights, labels, logits)


class BinaryCrossEntropy(_Weighted):
    """Cross-entropy of one yes or no per logit: two classes on one logit, or each label of many by itself.

    Args:
        pos_weight: How much a yes weighs, for each logit, or ``balanced``: rows without / rows with the label.
    """

    def __init__(self, pos_weight: Literal["balanced"] | list[float] | None = None) -> None:
        super().__init__(pos_weight, "pos_weight")
        self.one_logit = False

    def expected(self, num_classes: int) -> int:
        """Return how many weights there are: one for each logit."""
        return 1 if self.one_logit else num_classes

    def balance(self, class_counts: Sequence[int], rows: int) -> list[float]:
        """Return rows without / rows with the label."""
        return [(rows - count) / count for count in (class_counts[1:] if self.one_logit else class_counts)]

    def forward(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the summed loss and the number of logits.

        Args:
            logits: (B, 1) for two classes, else (B, C).
            labels: Class ids (B,) for two classes, else 0 or 1 for each label, (B, C).
        """
        targets = labels.to(logits.dtype).view_as(logits)
        total = binary_cross_entropy_with_logits(logits, targets, pos_weight=self.weights, reduction="sum")
        return total, logits.new_full((), logits.numel())


class MeanSquaredError(Loss):
    """The squared distance of a number from the label."""

    def forward(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the summed squares of logits (B, 1) and labels (B,), and the number of rows."""
        return mse_loss(logits.squeeze(-1), labels, reduction="sum"), logits.new_full((), len(labels))


def _weight_of_rows(weights: Tensor | None, labels: Tensor, logits: Tensor) -> Tensor:
    # filled on the device: new_tensor would copy a number from the host, and wait for it
    return logits.new_full((), len(labels)) if weights is None else weights[labels].sum()
