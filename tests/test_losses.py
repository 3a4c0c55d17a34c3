from __future__ import annotations

import numpy
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from peftlit.errors import ConfigError
from peftlit.losses import BinaryCrossEntropy, CrossEntropy, FocalLoss, MeanSquaredError

LOGITS = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2])
COUNTS = [6, 4, 2]


def mean(loss, logits=LOGITS, labels=LABELS) -> float:
    total, weight = loss(logits, labels)
    return float(total / weight)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5]])
def test_cross_entropy_is_torchs(weights, smoothing):
    loss = CrossEntropy(weights, smoothing)
    loss.prepare(COUNTS, 12)
    theirs = nn.CrossEntropyLoss(torch.tensor(weights) if weights else None, label_smoothing=smoothing)
    assert mean(loss) == pytest.approx(float(theirs(LOGITS, LABELS)), abs=1e-6)


def test_sum_and_weight_of_parts_add_up_to_the_whole():
    loss = CrossEntropy([1.0, 2.0, 0.5], 0.1)
    loss.prepare(COUNTS, 12)
    parts = [loss(x, y) for x, y in zip(LOGITS.split(5), LABELS.split(5), strict=True)]
    assert float(sum(p[0] for p in parts) / sum(p[1] for p in parts)) == pytest.approx(mean(loss), abs=1e-6)


def test_balanced_class_weights_are_scikit_learns():
    loss = CrossEntropy("balanced")
    loss.prepare(COUNTS, 12)
    expected = compute_class_weight("balanced", classes=numpy.arange(3), y=LABELS.numpy())
    assert loss.weights.tolist() == pytest.approx(expected.tolist())


def test_focal_loss_is_the_papers():
    p = LOGITS.softmax(-1)[torch.arange(12), LABELS]
    assert mean(FocalLoss(2.0)) == pytest.approx(float((-((1 - p) ** 2) * p.log()).mean()), abs=1e-6)
    assert mean(FocalLoss(0.0)) == pytest.approx(mean(CrossEntropy()), abs=1e-6)


def test_binary_cross_entropy_of_one_logit_weighs_the_second_class():
    labels = torch.tensor([0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1])
    loss = BinaryCrossEntropy("balanced")
    loss.one_logit = True
    loss.prepare([9, 3], 12)
    assert loss.weights.tolist() == [3.0]
    theirs = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([3.0]))(LOGITS[:, :1], labels[:, None].float())
    assert mean(loss, LOGITS[:, :1], labels) == pytest.approx(float(theirs), abs=1e-6)


def test_binary_cross_entropy_of_many_labels_is_torchs():
    labels = (torch.rand(12, 3, generator=torch.Generator().manual_seed(1)) > 0.6).float()
    loss = BinaryCrossEntropy([1.0, 2.0, 3.0])
    loss.prepare(COUNTS, 12)
    theirs = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 2.0, 3.0]))(LOGITS, labels)
    assert mean(loss, LOGITS, labels) == pytest.approx(float(theirs), abs=1e-6)
    balanced = BinaryCrossEntropy("balanced")
    balanced.prepare([6, 4, 2], 12)
    assert balanced.weights.tolist() == [1.0, 2.0, 5.0]


def test_mean_squared_error_is_torchs():
    labels = torch.arange(12.0)
    theirs = nn.MSELoss()(LOGITS[:, 0], labels)
    assert mean(MeanSquaredError(), LOGITS[:, :1], labels) == pytest.approx(float(theirs), rel=1e-6)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: CrossEntropy([1.0, 2.0]), "class_weights: got 2 numbers, needs 3"),
        (lambda: CrossEntropy([1.0, 0.0, 1.0]), "class_weights: got .*, needs one number over 0 for each class"),
        (lambda: CrossEntropy(label_smoothing=1.0), "label_smoothing: got 1.0"),
        (lambda: FocalLoss(-1.0), "gamma: got -1.0"),
        (lambda: BinaryCrossEntropy([1.0]), "pos_weight: got 1 numbers, needs 3"),
    ],
)
def test_wrong_settings_are_refused(make, said):
    with pytest.raises(ConfigError, match=said):
        make().prepare(COUNTS, 12)


@pytest.mark.parametrize(("counts", "said"), [(None, "does not count its classes"), ([6, 6, 0], "no training row")])
def test_balanced_needs_rows_of_every_class(counts, said):
    with pytest.raises(ConfigError, match=said):
        CrossEntropy("balanced").prepare(counts, 12)
