"""Metrics by problem type, computed over a whole epoch, never as a mean of batches.

Letters: ``B`` rows in the batch, ``C`` classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassCalibrationError,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassMatthewsCorrCoef,
    MulticlassPrecision,
    MulticlassRecall,
)

Direction = Literal["min", "max"]

CALIBRATION_BINS = 15
"""Equal-width confidence bins of the expected calibration error (Guo et al., ICML 2017)."""

_AVERAGED = {"precision": MulticlassPrecision, "recall": MulticlassRecall, "f1": MulticlassF1Score}


class SingleLabelMetrics(MetricCollection):
    """Metrics of single-label classification: feed class probabilities (B, C) and labels (B,).

    ``f1``, ``precision`` and ``recall`` are macro averages; the weighted ones and the ones of each
    class carry a suffix. A class that occurs neither among labels nor among predictions is left
    out of the macro average, as in scikit-learn.

    Args:
        label_names: The classes' names in the order of their ids.
    """

    def __init__(self, label_names: Sequence[str]) -> None:
        n = len(label_names)
        members: dict[str, Any] = {
            "accuracy": MulticlassAccuracy(n, average="micro"),
            "mcc": MulticlassMatthewsCorrCoef(n),
            "calibration_error": MulticlassCalibrationError(n, n_bins=CALIBRATION_BINS, norm="l1"),
            "confusion_matrix": MulticlassConfusionMatrix(n),
        }
        for name, metric in _AVERAGED.items():
            members[name] = metric(n, average="macro")
            members[f"{name}_weighted"] = metric(n, average="weighted")
            members[f"{name}_per_class"] = metric(n, average=None)
        super().__init__(members)
        self.label_names = list(label_names)

    def scalars(self, computed: dict[str, Tensor]) -> dict[str, float]:
        """Flatten what ``compute()`` returned into named numbers, per-class ones as ``f1_<label>``.

        Args:
            computed: The result of ``compute()``.
        """
        flat: dict[str, float] = {}
        for name, value in computed.items():
            if name.endswith("_per_class"):
                stem = name.removesuffix("_per_class")
                flat |= {f"{stem}_{label}": float(v) for label, v in zip(self.label_names, value, strict=True)}
            elif name != "confusion_matrix":
                flat[name] = float(value)
        return flat

    def directions(self) -> dict[str, Direction]:
        """Name every scalar and say whether a lower or a higher value is better."""
        names: dict[str, Direction] = {"accuracy": "max", "mcc": "max", "calibration_error": "min"}
        for stem in _AVERAGED:
            for suffix in ("", "_weighted", *(f"_{label}" for label in self.label_names)):
                names[f"{stem}{suffix}"] = "max"
        return names
