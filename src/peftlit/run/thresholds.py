"""The probability from which a label is predicted, tuned on the validation split."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from peftlit import distributed
from peftlit.data import TokenDataModule
from peftlit.modules.base import PeftModule
from peftlit.modules.metrics import plain
from peftlit.modules.problems import MultiLabel

log = logging.getLogger(__name__)


def tune_thresholds(module: PeftModule, data: TokenDataModule) -> dict[str, float] | None:
    """Set every label's threshold to the one with the best F1 on the validation split.

    The scores of the validation split itself stay those at 0.5: tuned on it, they would flatter.

    Returns:
        The thresholds by label; None where the problem has none.
    """
    if not isinstance(module.problem, MultiLabel):
        return None
    problem, parts = module.problem, []
    if "validation" not in data.read():
        log.info("thresholds: 0.5 for every label, as there is no validation split to tune them on")
    else:
        data.setup("validate")
        for batch in data.val_dataloader():
            parts.append((problem.answers(module.evaluate_batch(batch)), batch["labels"]))
        columns = zip(*distributed.gather(parts), strict=True)
        probabilities, labels = (torch.cat(column) for column in columns)
        for i in range(len(problem.label_names)):
            problem.thresholds[i] = best_threshold(probabilities[:, i], labels[:, i])
    tuned = dict(zip(problem.label_names, map(plain, problem.thresholds.tolist()), strict=True))
    log.info("thresholds: %s", ", ".join(f"{name} {value:.3f}" for name, value in tuned.items()))
    return tuned


def best_threshold(probabilities: Tensor, labels: Tensor) -> float:
    """Return the threshold with the highest F1, halfway between two probabilities; 0.5 where no row has the label.

    Args:
        probabilities: One label's probability for each row, (B,).
        labels: 1 where the row has the label, (B,).
    """
    labels = labels.double()  # float32 counts to 2**24 only
    positives = float(labels.sum())
    if positives == 0:
        return 0.5
    values, order = probabilities.sort(descending=True, stable=True)
    hits = labels[order].cumsum(0)
    f1 = 2 * hits / (torch.arange(1, len(values) + 1, dtype=torch.float64) + positives)
    below = torch.cat([values[1:], values.new_zeros(1)])
    f1[:-1][values[:-1] == values[1:]] = -1  # equal probabilities cannot be told apart
    best = int(f1.argmax())
    return float((values[best] + below[best]) / 2)
