from __future__ import annotations

import pytest
import torch
from sklearn.metrics import f1_score

from peftlit.run.thresholds import best_threshold


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("steps", [0, 7])
def test_no_threshold_has_a_higher_f1(seed, steps):
    generator = torch.Generator().manual_seed(seed)
    probabilities, labels = torch.rand(40, generator=generator), (torch.rand(40, generator=generator) > 0.7).float()
    if steps:
        probabilities = (probabilities * steps).round() / steps  # many rows of equal probability
    found = f1_score(labels, probabilities >= best_threshold(probabilities, labels))
    tried = [f1_score(labels, probabilities >= t, zero_division=0) for t in [0.0, *probabilities.tolist()]]
    assert found == pytest.approx(max(tried), abs=1e-6)


def test_a_label_without_rows_keeps_one_half():
    assert best_threshold(torch.rand(5), torch.zeros(5)) == 0.5


def test_it_lies_halfway_between_two_probabilities():
    assert best_threshold(torch.tensor([0.9, 0.8, 0.2]), torch.tensor([1.0, 1.0, 0.0])) == pytest.approx(0.5)
