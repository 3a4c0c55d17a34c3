"""What a user would notice of another way to run the same model."""

from __future__ import annotations

import math

import pytest
import torch

from peftlit.export.drift import Drift, measure_drift, real
from peftlit.modules.problems import Binary, MultiLabel, Regression, SingleLabel


def test_tokens_and_classes_that_change_are_counted() -> None:
    ours = torch.zeros(200, 3).index_fill_(1, torch.tensor([0]), 2.0)
    others = ours.clone()
    others[:3] = others[:3].flip(1)  # another one is the likeliest
    p = ours[0].double().softmax(0)
    kl = float((p * (p / p.flip(0)).log()).sum()) * 3 / 200
    for problem in (None, SingleLabel(["a", "b", "c"])):
        drift = measure_drift(problem, ours, others)
        assert (drift.compared, drift.changed, drift.largest) == (200, 0.015, 2.0)
        assert drift.kl == pytest.approx(kl, rel=1e-6)


def test_labels_apart_are_counted_by_their_thresholds() -> None:
    problem = MultiLabel(["a", "b"])
    problem.thresholds = torch.tensor([0.5, 0.9])
    drift = measure_drift(problem, torch.tensor([[0.1, 3.0]]), torch.tensor([[-0.1, 1.0]]))
    assert (drift.compared, drift.changed) == (2, 1.0)
    one = measure_drift(Binary(["no", "yes"]), torch.tensor([[0.1], [2.0]]), torch.tensor([[-0.1], [2.0]]))
    assert (one.compared, one.changed) == (2, 0.5)


def test_numbers_have_a_difference_only() -> None:
    assert measure_drift(Regression(["stars"]), torch.tensor([[1.0]]), torch.tensor([[1.5]])) == Drift(1, 0.0, 0.0, 0.5)


def test_equal_answers_do_not_drift_and_padding_is_left_out() -> None:
    logits = torch.randn(2, 3, 5)
    batch = {"attention_mask": torch.tensor([[1, 1, 0], [1, 0, 0]])}
    kept = real(logits, batch)
    assert kept.shape == (3, 5)
    drift = measure_drift(None, kept, kept)
    assert (drift.compared, drift.changed, drift.largest) == (3, 0.0, 0.0)
    assert math.isclose(drift.kl, 0, abs_tol=1e-12)
