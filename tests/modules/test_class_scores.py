from __future__ import annotations

import pytest
import torch

from peftlit.metrics import SingleLabelMetrics
from peftlit.modules.class_scores import ClassScores
from tests.modules.cases import LABELS


def batch(rows: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    chance = torch.Generator().manual_seed(seed)
    losses = torch.rand(rows, generator=chance)
    return losses, torch.randn(rows, 2, generator=chance).softmax(-1), torch.arange(rows) % 2


def test_loss_and_metrics_over_unequal_batches_are_those_of_all_rows():
    parts = [batch(1, 0), batch(6, 1), batch(3, 2)]
    scores, whole = ClassScores(SingleLabelMetrics(LABELS)), ClassScores(SingleLabelMetrics(LABELS))
    for losses, answers, labels in parts:
        scores.update(losses.sum(), torch.tensor(len(losses)), answers, labels)
    losses, answers, labels = (torch.cat([part[i] for part in parts]) for i in range(3))
    whole.update(losses.sum(), torch.tensor(10), answers, labels)
    found, expected = scores.compute(), whole.compute()
    assert found[0] == pytest.approx(expected[0], abs=1e-6)
    assert found[0]["loss"] == pytest.approx(float(losses.mean()), abs=1e-6)
    assert found[1] == expected[1]
    assert found[1]["rows"] == 10
    assert sum(map(sum, found[1]["confusion_matrix"])) == 10


def test_an_epoch_starts_anew():
    scores = ClassScores(SingleLabelMetrics(LABELS))
    for seed in (0, 1):
        losses, answers, labels = batch(4, seed)
        scores.reset()
        scores.update(losses.sum(), torch.tensor(4), answers, labels)
    assert scores.compute()[0]["loss"] == pytest.approx(float(losses.mean()), abs=1e-6)
    assert scores.compute()[1]["rows"] == 4


def test_scores_keep_no_graph():
    scores = ClassScores(SingleLabelMetrics(LABELS))
    losses, answers, labels = batch(4, 0)
    scores.update(losses.requires_grad_().sum(), torch.tensor(4), answers, labels)
    assert not any(isinstance(v, torch.Tensor) and v.requires_grad for v in scores.loss.metric_state.values())
