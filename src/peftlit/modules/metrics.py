"""Metrics by problem type, computed over a whole epoch, never as a mean of batches.

Letters: ``B`` rows in the batch, ``C`` classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy
import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection, regression
from torchmetrics import classification as tm

from peftlit.backbone.hardware import widest_float
from peftlit.errors import ConfigError

Direction = Literal["min", "max"]
Average = Literal["macro", "micro", "weighted"]

CALIBRATION_BINS = 15
"""Equal-width confidence bins of the expected calibration error (Guo et al., ICML 2017)."""

_UNIT = 2.0**30
"""Confidences are added up as whole numbers of 1 / _UNIT, exactly, and so in any order."""

HEADLINES = ("loss", "perplexity", "accuracy", "f1", "mcc", "mse", "pearson", "spearman")
"""What a line of progress has room for, where it is measured."""

_AVERAGED = ("precision", "recall", "f1")
_PER_CLASS = "_per_class"
_CONFUSION = "confusion_matrix"


def plain(value: Tensor | float) -> float:
    """Return the shortest decimal that is the same number in float32: 0.85, not 0.8500000238418579."""
    return float(str(numpy.float32(float(value))))


class Metrics(MetricCollection, ABC):
    """The metrics of one problem type. Feed it the problem's answers and the labels."""

    def scalars(self, computed: dict[str, Tensor]) -> dict[str, float]:
        """Turn the result of ``compute()`` into named numbers."""
        return {name: float(value) for name, value in computed.items() if name != _CONFUSION}

    @abstractmethod
    def directions(self) -> dict[str, Direction]:
        """Name every scalar and say whether a lower or a higher value is better."""


class ClassMetrics(Metrics):
    """What the metrics of classification have in common: precision, recall and F1, averaged and of each class.

    ``f1``, ``precision`` and ``recall`` are the average that the configuration names; ``f1_macro`` and so on are
    logged beside them, and those of each class as ``f1_<label>``. Subclasses say which averages there are, and which
    torchmetrics are precision, recall and F1.

    Args:
        label_names: The classes' names in the order of their ids.
        average: Which average has the bare name.
        others: The remaining scalars, each with its direction.
        confusion_matrix: The confusion matrix.

    Raises:
        ConfigError: A label has the name of an average, or there is no such average.
    """

    averages: ClassVar[Sequence[Average]]
    averaged: ClassVar[Sequence[Any]]

    def __init__(
        self,
        label_names: Sequence[str],
        average: Average,
        others: dict[str, tuple[Metric, Direction]],
        confusion_matrix: Metric,
    ) -> None:
        if average not in self.averages:
            choices = ", ".join(self.averages)
            raise ConfigError(f"model.average: {average!r} is the accuracy here; choose from {choices}")
        if taken := [label for label in label_names if label in self.averages]:
            raise ConfigError(
                f"data.label_names: a label called {taken[0]!r} would be taken for the average f1_{taken[0]}"
            )
        members: dict[str, Any] = {name: metric for name, (metric, _) in others.items()}
        members[_CONFUSION] = confusion_matrix
        for name, kind in zip(_AVERAGED, self.averaged, strict=True):
            members |= {f"{name}_{which}": kind(len(label_names), average=which) for which in self.averages}
            members[f"{name}{_PER_CLASS}"] = kind(len(label_names), average=None)
        super().__init__(members)
        self.label_names = list(label_names)
        self.average = average
        self._others = {name: direction for name, (_, direction) in others.items()}

    def scalars(self, computed: dict[str, Tensor]) -> dict[str, float]:
        """Flatten the result of ``compute()``, per-class values as ``f1_<label>``."""
        flat: dict[str, float] = {}
        for name, value in computed.items():
            if name.endswith(_PER_CLASS):
                stem = name.removesuffix(_PER_CLASS)
                flat |= {f"{stem}_{label}": float(v) for label, v in zip(self.label_names, value, strict=True)}
            elif name != _CONFUSION:
                flat[name] = float(value)
        return flat | {stem: flat[f"{stem}_{self.average}"] for stem in _AVERAGED}

    def directions(self) -> dict[str, Direction]:
        """Name every scalar; of the averaged ones a higher value is better."""
        suffixes = ["", *(f"_{average}" for average in self.averages), *(f"_{label}" for label in self.label_names)]
        averaged: dict[str, Direction] = {f"{stem}{suffix}": "max" for stem in _AVERAGED for suffix in suffixes}
        return self._others | averaged


class CalibrationError(Metric):
    """Expected calibration error of one class per row: how far confidence is from accuracy, by bins of confidence.

    torchmetrics' own keeps the confidence of every row; this one keeps three numbers a bin.
    """

    full_state_update = False
    rows: Tensor
    hits: Tensor
    confidence: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("rows", "hits", "confidence"):
            self.add_state(name, torch.zeros(CALIBRATION_BINS, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        """Count a batch of probabilities (B, C) and class ids (B,)."""
        confidence, predicted = probabilities.float().max(-1)
        edges = torch.linspace(0, 1, CALIBRATION_BINS + 1, device=confidence.device)[1:-1]
        bins = torch.bucketize(confidence, edges, right=True)
        self.rows.index_add_(0, bins, torch.ones_like(bins))
        self.hits.index_add_(0, bins, (predicted == labels).to(torch.int64))
        self.confidence.index_add_(0, bins, (confidence * _UNIT).round().to(torch.int64))

    def compute(self) -> Tensor:
        """Return the gap between confidence and accuracy, weighted by rows, scalar."""
        gaps = (self.confidence - self.hits * int(_UNIT)).abs()
        return gaps.sum() / _UNIT / self.rows.sum()


class SingleLabelMetrics(ClassMetrics):
    """Metrics of one class per row: feed probabilities (B, C) and class ids (B,).

    A class that occurs neither among labels nor among predictions is left out of the macro average, as in scikit-learn.
    """

    averages = ("macro", "weighted")
    averaged = (tm.MulticlassPrecision, tm.MulticlassRecall, tm.MulticlassF1Score)

    def __init__(self, label_names: Sequence[str], average: Average = "macro") -> None:
        n = len(label_names)
        super().__init__(
            label_names,
            average,
            {
                "accuracy": (tm.MulticlassAccuracy(n, average="micro"), "max"),
                "mcc": (tm.MulticlassMatthewsCorrCoef(n), "max"),
                "calibration_error": (CalibrationError(), "min"),
            },
            tm.MulticlassConfusionMatrix(n),
        )


class MultiLabelMetrics(ClassMetrics):
    """Metrics of any number of labels per row: feed probabilities (B, C) and labels (B, C) of 0 and 1.

    ``accuracy`` is the share of rows with every label right; ``hamming_loss`` the share of wrong cells. A label that is
    never given nor predicted counts as 0 in the macro average, as in scikit-learn.

    Args:
        label_names: The labels' names in the order of their ids.
        average: Which average ``f1``, ``precision`` and ``recall`` are.
        thresholds: From which probability on each label is given, (C,); shared with the problem.
    """

    averages = ("macro", "micro", "weighted")
    averaged = (tm.MultilabelPrecision, tm.MultilabelRecall, tm.MultilabelF1Score)
    thresholds: Tensor

    def __init__(self, label_names: Sequence[str], average: Average, thresholds: Tensor) -> None:
        n = len(label_names)
        super().__init__(
            label_names,
            average,
            {
                "accuracy": (tm.MultilabelExactMatch(n), "max"),
                "hamming_loss": (tm.MultilabelHammingDistance(n, average="micro"), "min"),
            },
            tm.MultilabelConfusionMatrix(n),
        )
        self.thresholds = thresholds

    def update(self, probabilities: Tensor, labels: Tensor) -> None:  # type: ignore[override]  # of a dict
        """Count a batch of probabilities (B, C) and labels (B, C) of 0 and 1."""
        given = probabilities >= self.thresholds.to(probabilities.device)
        super().update(given.int(), labels.int())


class RegressionMetrics(Metrics):
    """Metrics of one number per row: feed values (B,) and labels (B,)."""

    def __init__(self) -> None:
        members: dict[str, Any] = {"mse": regression.MeanSquaredError(), "mae": regression.MeanAbsoluteError()}
        members |= {"pearson": regression.PearsonCorrCoef(), "spearman": regression.SpearmanCorrCoef()}
        super().__init__(members)
        self.set_dtype(widest_float())

    def directions(self) -> dict[str, Direction]:
        """Errors fall, correlations rise."""
        return {"mse": "min", "mae": "min", "pearson": "max", "spearman": "max"}
