from __future__ import annotations

import math

import pytest
import torch
from peftlit.modules.class_scores import ClassScores

from peftlit.modules.metrics import SingleLabelMetrics
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
    assert not any(isinstance(v, torch.Tensor) and v.requires_grad for v in scores.total.metric_state.values())


def test_rows_and_weights_are_counted_beyond_two_to_the_24():
    scores = ClassScores(SingleLabelMetrics(LABELS))
    losses, answers, labels = batch(1, 0)
    scores.rows.update(2.0**24)
    scores.weight.update(torch.tensor(2.0**24))
    for _ in range(3):
        scores.update(torch.ones(()), torch.ones(()), answers, labels)
    scalars, told = scores.compute()
    assert told["rows"] == 2**24 + 3
    assert scalars["loss"] == 3 / (2**24 + 3)


def test_a_loss_that_is_not_a_number_stays_in_the_mean():
    scores = ClassScores(SingleLabelMetrics(LABELS))
    losses, answers, labels = batch(4, 0)
    for total in (losses.sum(), torch.tensor(math.nan)):
        scores.update(total, torch.tensor(4.0), answers, labels)
    assert math.isnan(scores.compute()[0]["loss"])
