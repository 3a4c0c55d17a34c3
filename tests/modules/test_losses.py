from __future__ import annotations

import math

import numpy
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from peftlit.errors import ConfigError
from peftlit.modules.losses import BinaryCrossEntropy, CrossEntropy, FocalLoss, MeanSquaredError

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
        (lambda: FocalLoss(math.nan), "gamma: got nan"),
        (lambda: CrossEntropy([1.0, math.inf, 1.0]), "class_weights: got .*, needs one number over 0 for each class"),
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


EXTREMES = {
    "sure and right": [[1000.0, -1000.0, -1000.0]],
    "sure and wrong": [[-1000.0, 1000.0, -1000.0]],
    "right to the last bit": [[20.0, 0.0, 0.0]],
    "alike": [[0.0, 0.0, 0.0]],
    "no row": torch.empty(0, 3).tolist(),
}
ALL_LOSSES = {
    "cross entropy": CrossEntropy(),
    "smoothed": CrossEntropy([1e-30, 1.0, 1e30], 0.1),
    **{f"focal {gamma}": FocalLoss(gamma) for gamma in (0.0, 0.01, 0.5, 1.0, 1.5, 2.0)},
    "weighted focal": FocalLoss(0.5, [1e-30, 1.0, 1.0]),
}


@pytest.mark.parametrize("loss", ALL_LOSSES)
def test_gradients_of_class_losses_are_finite_at_the_extremes(loss):
    ALL_LOSSES[loss].prepare(COUNTS, 12)
    for name, rows in EXTREMES.items():
        logits = torch.tensor(rows).reshape(-1, 3).requires_grad_()
        total, weight = ALL_LOSSES[loss](logits, torch.zeros(len(rows), dtype=torch.int64))
        total.backward()
        assert bool(total.isfinite() & weight.isfinite() & logits.grad.isfinite().all()), name


@pytest.mark.parametrize("loss", [BinaryCrossEntropy(), BinaryCrossEntropy("balanced"), MeanSquaredError()])
def test_gradients_of_the_other_losses_are_finite_at_the_extremes(loss):
    loss.prepare([12], 12)  # balanced: every row has the label, so that it weighs nothing
    for logit in (-1000.0, 0.0, 1000.0):
        logits = torch.tensor([[logit]], requires_grad=True)
        for label in (0.0, 1.0):
            labels = torch.full((1, 1) if isinstance(loss, BinaryCrossEntropy) else (1,), label)
            total, weight = loss(logits, labels)
            total.backward()
            assert bool(total.isfinite() & weight.isfinite() & logits.grad.isfinite().all()), (logit, label)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_has_the_gradient_of_its_formula(gamma):
    logits = LOGITS.double().requires_grad_()
    FocalLoss(gamma)(logits, LABELS)[0].backward()
    wanted = LOGITS.double().requires_grad_()
    p = wanted.softmax(-1)[torch.arange(12), LABELS]
    (-((1 - p) ** gamma) * p.log()).sum().backward()
    torch.testing.assert_close(logits.grad, wanted.grad, rtol=1e-12, atol=1e-15)
