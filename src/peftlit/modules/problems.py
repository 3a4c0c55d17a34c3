"""What a classifier predicts, by transformers' ``problem_type``: how logits become answers, and how these are written.

Letters: ``B`` rows in the batch, ``C`` classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from peftlit.batch import ProblemType
from peftlit.errors import ConfigError
from peftlit.modules.losses import BinaryCrossEntropy, CrossEntropy, Loss, MeanSquaredError
from peftlit.modules.metrics import Average, Metrics, MultiLabelMetrics, RegressionMetrics, SingleLabelMetrics, plain

LABEL_MAP_FILE = "label_map.json"
PROBLEM_FILE = "problem.json"

SEPARATOR = ";"
"""Stands between the labels of one row in ``predictions.csv``."""


class Problem(ABC):
    """A problem type with its labels.

    Args:
        label_names: The classes' names in the order of their ids; for regression, the name of the number.
    """

    problem_type: ClassVar[ProblemType]

    def __init__(self, label_names: Sequence[str]) -> None:
        self.label_names = list(label_names)

    @property
    def outputs(self) -> list[str]:
        """What each logit stands for."""
        return self.label_names

    def label_map(self) -> dict[str, Any]:
        """Return what the model's config needs, and anyone who loads the model with transformers."""
        return {
            "id2label": dict(enumerate(self.outputs)),
            "label2id": {name: i for i, name in enumerate(self.outputs)},
            "problem_type": self.problem_type,
        }

    def record(self) -> dict[str, Any]:
        """Return what is needed to create the problem again, as JSON."""
        return {"problem_type": self.problem_type, "label_names": self.label_names, "num_outputs": len(self.outputs)}

    @abstractmethod
    def answers(self, logits: Tensor) -> Tensor:
        """Turn logits (B, outputs) into answers: probabilities (B, C), or numbers (B,)."""

    @abstractmethod
    def metrics(self, average: Average, *, tuned: bool) -> Metrics:
        """Return the metrics to feed answers and labels to.

        Args:
            average: Which average ``f1``, ``precision`` and ``recall`` are.
            tuned: Whether to use the thresholds tuned on the validation split, if the problem has any. Not for that
                split itself: they would flatter.
        """

    def restore(self, record: dict[str, Any]) -> None:
        """Restore what training has found from what :meth:`record` returned; by default nothing."""
        return

    @abstractmethod
    def say(self, answer: Tensor) -> dict[str, Any]:
        """Return one row of :meth:`answers` as JSON."""

    @abstractmethod
    def to_csv(self, answer: Tensor, label: Tensor) -> list[object]:
        """Return one row's label, prediction and probabilities for ``predictions.csv``."""

    def columns(self) -> list[str]:
        """Name what :meth:`to_csv` returns."""
        return ["label", "prediction", *(f"prob_{name}" for name in self.label_names)]

    def _probabilities(self, answer: Tensor) -> dict[str, float]:
        return dict(zip(self.label_names, map(plain, answer.tolist()), strict=True))


class SingleLabel(Problem):
    """One class per row, by softmax."""

    problem_type = "single_label_classification"

    def answers(self, logits: Tensor) -> Tensor:
        """Return the classes' probabilities, (B, C)."""
        return logits.softmax(-1)

    def metrics(self, average: Average, *, tuned: bool) -> Metrics:
        """Return the metrics of one class per row."""
        return SingleLabelMetrics(self.label_names, average)

    def say(self, answer: Tensor) -> dict[str, Any]:
        """Return ``label`` and ``probabilities``."""
        return {"label": self.label_names[int(answer.argmax())], "probabilities": self._probabilities(answer)}

    def to_csv(self, answer: Tensor, label: Tensor) -> list[object]:
        """Return both names and the probabilities."""
        names = self.label_names
        return [names[int(label)], names[int(answer.argmax())], *map(_digits, answer.tolist())]


class Binary(SingleLabel):
    """One of two classes per row, by one logit for the second one and a sigmoid."""

    @property
    def outputs(self) -> list[str]:
        """The class that the logit stands for."""
        return self.label_names[1:]

    def answers(self, logits: Tensor) -> Tensor:
        """Return both classes' probabilities, (B, 2)."""
        return torch.cat([(-logits).sigmoid(), logits.sigmoid()], dim=-1)


class MultiLabel(Problem):
    """Any number of labels per row, each by a sigmoid and a threshold of its own."""

    problem_type = "multi_label_classification"

    def __init__(self, label_names: Sequence[str]) -> None:
        super().__init__(label_names)
        self.thresholds = torch.full((len(self.label_names),), 0.5)

    def record(self) -> dict[str, Any]:
        """Return what the others have, and the thresholds."""
        return {**super().record(), "thresholds": [*map(plain, self.thresholds.tolist())]}

    def answers(self, logits: Tensor) -> Tensor:
        """Return each label's probability, (B, C)."""
        return logits.sigmoid()

    def restore(self, record: dict[str, Any]) -> None:
        """Take the thresholds back."""
        self.thresholds.copy_(torch.tensor(record["thresholds"]))

    def metrics(self, average: Average, *, tuned: bool) -> Metrics:
        """Return the metrics of label sets."""
        thresholds = self.thresholds if tuned else torch.full_like(self.thresholds, 0.5)
        return MultiLabelMetrics(self.label_names, average, thresholds)

    def say(self, answer: Tensor) -> dict[str, Any]:
        """Return ``labels`` and ``probabilities``."""
        return {"labels": self._given(answer >= self.thresholds), "probabilities": self._probabilities(answer)}

    def to_csv(self, answer: Tensor, label: Tensor) -> list[object]:
        """Return both label sets, joined, and the probabilities."""
        sets = [SEPARATOR.join(self._given(given)) for given in (label > 0, answer >= self.thresholds)]
        return [*sets, *map(_digits, answer.tolist())]

    def _given(self, given: Tensor) -> list[str]:
        return [name for name, yes in zip(self.label_names, given.tolist(), strict=True) if yes]


class Regression(Problem):
    """One number per row."""

    problem_type = "regression"

    def answers(self, logits: Tensor) -> Tensor:
        """Return the numbers, (B,)."""
        return logits.squeeze(-1)

    def metrics(self, average: Average, *, tuned: bool) -> Metrics:
        """Return the metrics of numbers."""
        return RegressionMetrics()

    def say(self, answer: Tensor) -> dict[str, Any]:
        """Return ``value``."""
        return {"value": plain(answer)}

    def to_csv(self, answer: Tensor, label: Tensor) -> list[object]:
        """Return both numbers."""
        return [_digits(float(label)), _digits(float(answer))]

    def columns(self) -> list[str]:
        """Name the two numbers."""
        return ["label", "prediction"]


def _digits(value: float) -> str:
    return f"{plain(value):.9g}"  # no float32 needs more


_KINDS: dict[ProblemType, tuple[type[Problem], type[Loss]]] = {
    "single_label_classification": (SingleLabel, CrossEntropy),
    "multi_label_classification": (MultiLabel, BinaryCrossEntropy),
    "regression": (Regression, MeanSquaredError),
}


def make_problem(problem_type: ProblemType, label_names: Sequence[str], loss: Loss | None) -> tuple[Problem, Loss]:
    """Return the problem and its loss.

    Args:
        problem_type: What the labels are.
        label_names: Their names.
        loss: The loss; None = the usual one of the problem.

    Raises:
        ConfigError: There is no such problem, or the loss does not belong to it.
    """
    if problem_type not in _KINDS:
        raise ConfigError(f"data.problem_type: got {problem_type!r}, needs one of {', '.join(_KINDS)}")
    kind, usual = _KINDS[problem_type]
    if kind is SingleLabel and isinstance(loss, BinaryCrossEntropy):
        if len(label_names) != 2:
            raise ConfigError(
                f"model.loss: BinaryCrossEntropy tells two classes apart, the data has {len(label_names)}; "
                "use CrossEntropy, or data.problem_type: multi_label_classification"
            )
        loss.one_logit = True
        return Binary(label_names), loss
    if loss is None:
        return kind(label_names), usual()
    ours = type(loss).__module__ == Loss.__module__
    if ours and not isinstance(loss, usual):
        raise ConfigError(
            f"model.loss: {type(loss).__name__} does not fit {problem_type}; use {usual.__name__} or leave it out"
        )
    return kind(label_names), loss
