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
SETS = (torch.rand(12, 3, generator=torch.Generator().manual_seed(1)) > 0.6).float()
COUNTS = [6, 4, 2]


def prepared(loss, counts=COUNTS, rows=12):
    loss.prepare(counts, rows)
    return loss


def mean(loss, logits=LOGITS, labels=LABELS) -> float:
    total, weight = loss(logits, labels)
    return float(total / weight)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5]])
def test_cross_entropy_is_torchs_whole_and_in_parts(weights, smoothing):
    loss = prepared(CrossEntropy(weights, smoothing))
    theirs = nn.CrossEntropyLoss(torch.tensor(weights) if weights else None, label_smoothing=smoothing)
    assert mean(loss) == pytest.approx(float(theirs(LOGITS, LABELS)), abs=1e-6)
    parts = [loss(x, y) for x, y in zip(LOGITS.split(5), LABELS.split(5), strict=True)]
    assert float(sum(p[0] for p in parts) / sum(p[1] for p in parts)) == pytest.approx(mean(loss), abs=1e-6)


def test_balanced_weights_are_scikit_learns_for_classes_and_rows_without_by_rows_with_for_labels():
    expected = compute_class_weight("balanced", classes=numpy.arange(3), y=LABELS.numpy())
    assert prepared(CrossEntropy("balanced")).weights.tolist() == pytest.approx(expected.tolist())
    assert prepared(BinaryCrossEntropy("balanced")).weights.tolist() == [1.0, 2.0, 5.0]


def test_binary_cross_entropy_of_one_logit_weighs_the_second_class():
    labels = torch.tensor([0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1])
    loss = BinaryCrossEntropy("balanced")
    loss.one_logit = True
    assert prepared(loss, [9, 3]).weights.tolist() == [3.0]
    theirs = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([3.0]))(LOGITS[:, :1], labels[:, None].float())
    assert mean(loss, LOGITS[:, :1], labels) == pytest.approx(float(theirs), abs=1e-6)


def test_other_losses_are_torchs():
    theirs = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 2.0, 3.0]))(LOGITS, SETS)
    assert mean(prepared(BinaryCrossEntropy([1.0, 2.0, 3.0])), LOGITS, SETS) == pytest.approx(float(theirs), abs=1e-6)
    theirs = nn.MSELoss()(LOGITS[:, 0], torch.arange(12.0))
    assert mean(MeanSquaredError(), LOGITS[:, :1], torch.arange(12.0)) == pytest.approx(float(theirs), rel=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_and_its_gradient_are_the_papers(gamma):
    logits, wanted = LOGITS.double().requires_grad_(), LOGITS.double().requires_grad_()
    total, _ = FocalLoss(gamma)(logits, LABELS)
    p = wanted.softmax(-1)[torch.arange(12), LABELS]
    expected = (-((1 - p) ** gamma) * p.log()).sum()
    total.backward()
    expected.backward()
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(logits.grad, wanted.grad, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("make", "counts", "said"),
    [
        (lambda: CrossEntropy([1.0, 2.0]), COUNTS, "class_weights: got 2 numbers, needs 3"),
        (lambda: CrossEntropy([1.0, 0.0, 1.0]), COUNTS, "class_weights: got .*, needs one number over 0 for each"),
        (lambda: CrossEntropy([1.0, math.inf, 1.0]), COUNTS, "class_weights: got .*, needs one number over 0 for each"),
        (lambda: CrossEntropy(label_smoothing=1.0), COUNTS, "label_smoothing: got 1.0"),
        (lambda: FocalLoss(-1.0), COUNTS, "gamma: got -1.0"),
        (lambda: FocalLoss(math.nan), COUNTS, "gamma: got nan"),
        (lambda: BinaryCrossEntropy([1.0]), COUNTS, "pos_weight: got 1 numbers, needs 3"),
        (lambda: CrossEntropy("balanced"), None, "does not count its classes"),
        (lambda: CrossEntropy("balanced"), [6, 6, 0], "no training row"),
    ],
)
def test_wrong_settings_are_refused(make, counts, said):
    with pytest.raises(ConfigError, match=said):
        make().prepare(counts, 12)


EXTREMES = {
    "sure and right": [[1000.0, -1000.0, -1000.0]],
    "sure and wrong": [[-1000.0, 1000.0, -1000.0]],
    "right to the last bit": [[20.0, 0.0, 0.0]],
    "alike": [[0.0, 0.0, 0.0]],
    "no row": torch.empty(0, 3),
}
CLASS_LOSSES = {
    "cross entropy": CrossEntropy(),
    "smoothed": CrossEntropy([1e-30, 1.0, 1e30], 0.1),
    **{f"focal {gamma}": FocalLoss(gamma) for gamma in (0.0, 0.01, 0.5, 1.0, 1.5, 2.0)},
    "weighted focal": FocalLoss(0.5, [1e-30, 1.0, 1.0]),
}


def assert_finite(loss, rows, labels, where) -> None:
    logits = torch.as_tensor(rows).clone().requires_grad_()
    total, weight = loss(logits, labels)
    total.backward()
    assert bool(total.isfinite() & weight.isfinite() & logits.grad.isfinite().all()), where


def test_gradients_are_finite_at_the_extremes():
    for name, loss in CLASS_LOSSES.items():
        for extreme, rows in EXTREMES.items():
            assert_finite(prepared(loss), rows, torch.zeros(len(rows), dtype=torch.int64), (name, extreme))
    for loss in (BinaryCrossEntropy(), BinaryCrossEntropy("balanced"), MeanSquaredError()):
        loss.prepare([12], 12)  # balanced: every row has the label, so that it weighs nothing
        shape = (1,) if isinstance(loss, MeanSquaredError) else (1, 1)
        for logit in (-1000.0, 0.0, 1000.0):
            for label in (0.0, 1.0):
                assert_finite(loss, [[logit]], torch.full(shape, label), (loss, logit, label))
