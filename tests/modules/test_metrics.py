from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from sklearn import metrics as sk
from torchmetrics.classification import MulticlassCalibrationError

from peftlit.errors import ConfigError
from peftlit.modules.metrics import (
    CALIBRATION_BINS,
    CalibrationError,
    MultiLabelMetrics,
    RegressionMetrics,
    SingleLabelMetrics,
    plain,
)

NAMES = ["bad", "fair", "good", "great"]
EVERY = [0, 1, 2, 3]
AVERAGED = (("f1", sk.f1_score), ("precision", sk.precision_score), ("recall", sk.recall_score))


def test_a_float32_is_written_with_the_digits_that_it_has():
    assert plain(torch.tensor(0.85)) == 0.85 != float(torch.tensor(0.85))
    assert [*map(plain, [3.0, 1e-8, -0.0])] == [3.0, 1e-8, 0.0]
    assert math.isnan(plain(math.nan))
    values = torch.rand(1000, generator=torch.Generator().manual_seed(0)) * 1e-3
    assert torch.tensor([*map(plain, values.tolist())]).equal(values)


def draw(classes: list[int], answers: list[int], rows: int = 90) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities whose best class is among ``answers``, and labels among ``classes``."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, len(NAMES), generator=generator)
    logits[:, [i for i in EVERY if i not in answers]] = -20
    labels = torch.tensor(classes)[torch.randint(len(classes), (rows,), generator=generator)]
    return logits.softmax(-1), labels


def fed(metrics, answers: torch.Tensor, labels: torch.Tensor, batch: int):
    for p, y in zip(answers.split(batch), labels.split(batch), strict=True):
        metrics.update(p, y)
    return metrics


def scalars(metrics) -> dict[str, float]:
    found = metrics.scalars(metrics.compute())
    assert set(metrics.directions()) == set(found)
    return found


def averages(y, p, kinds: tuple[str, ...], bare: str) -> dict[str, float]:
    """Precision, recall and F1 by scikit-learn, averaged and of each class."""
    expected = {}
    for stem, score in AVERAGED:
        expected |= {f"{stem}_{kind}": score(y, p, average=kind, zero_division=0) for kind in kinds}
        expected[stem] = expected[f"{stem}_{bare}"]
        each = score(y, p, labels=EVERY, average=None, zero_division=0)
        expected |= {f"{stem}_{name}": value for name, value in zip(NAMES, each, strict=True)}
    return expected


@pytest.mark.parametrize(
    ("classes", "answers"),
    [(EVERY, EVERY), ([0, 2], EVERY), (EVERY, [1, 3]), ([0, 1], [0, 1]), ([0, 1], [2, 3]), ([2], [2])],
    ids=["all", "absent labels", "absent answers", "absent in both", "all wrong", "one class"],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_number_equals_scikit_learns(classes, answers):
    probabilities, labels = draw(classes, answers)
    y, p = labels.numpy(), probabilities.argmax(-1).numpy()
    expected = averages(y, p, ("macro", "weighted"), "macro")
    expected |= {"accuracy": sk.accuracy_score(y, p), "mcc": sk.matthews_corrcoef(y, p)}
    theirs = MulticlassCalibrationError(4, n_bins=CALIBRATION_BINS, norm="l1")
    expected["calibration_error"] = float(theirs(probabilities, labels))
    metrics = fed(SingleLabelMetrics(NAMES), probabilities, labels, 7)
    assert scalars(metrics) == pytest.approx(expected, abs=1e-6)
    assert (metrics.compute()["confusion_matrix"].numpy() == sk.confusion_matrix(y, p, labels=EVERY)).all()
    assert [name for name, way in metrics.directions().items() if way == "min"] == ["calibration_error"]


@pytest.mark.parametrize(
    ("names", "average", "said"),
    [
        (["macro", "weighted"], "macro", "a label called 'macro' would be taken for the average f1_macro"),
        (["weighted", "a"], "macro", "a label called 'weighted' would be taken for the average f1_weighted"),
        (NAMES, "micro", "'micro' is the accuracy here; choose from macro, weighted"),
    ],
)
def test_names_that_mean_two_things_are_refused(names, average, said):
    with pytest.raises(ConfigError, match=said):
        SingleLabelMetrics(names, average)


def test_the_average_that_goes_by_the_bare_name_is_the_one_asked_for():
    found = scalars(fed(SingleLabelMetrics(NAMES, "weighted"), *draw(EVERY, EVERY), 90))
    assert found["f1"] == found["f1_weighted"] != found["f1_macro"]


@pytest.mark.parametrize("average", ["macro", "micro", "weighted"])
@pytest.mark.parametrize("batch", [1, 9, 70])
def test_label_sets_are_scored_as_scikit_learn_does(batch, average):
    generator, thresholds = torch.Generator().manual_seed(0), torch.tensor([0.5, 0.3, 0.9, 0.7])
    labels = (torch.rand(70, 4, generator=generator) > 0.6).float()
    labels[:, 2] = 0  # never given
    probabilities = torch.rand(70, 4, generator=generator)
    y, p = labels.numpy(), (probabilities >= thresholds).numpy()
    expected = averages(y, p, ("macro", "micro", "weighted"), average)
    expected |= {"accuracy": sk.accuracy_score(y, p), "hamming_loss": sk.hamming_loss(y, p)}
    metrics = fed(MultiLabelMetrics(NAMES, average, thresholds), probabilities, labels, batch)
    assert scalars(metrics) == pytest.approx(expected, abs=1e-6)
    assert (metrics.compute()["confusion_matrix"].numpy() == sk.multilabel_confusion_matrix(y, p)).all()


@pytest.mark.parametrize("batch", [1, 9, 50])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_numbers_are_scored_as_scipy_and_scikit_learn_do(batch):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(1, 6, (50,), generator=generator).float()  # ties, as stars have them
    values = labels + torch.randn(50, generator=generator)
    expected = {
        "mse": sk.mean_squared_error(labels, values),
        "mae": sk.mean_absolute_error(labels, values),
        "pearson": stats.pearsonr(labels, values).statistic,
        "spearman": stats.spearmanr(labels, values).statistic,
    }
    assert scalars(fed(RegressionMetrics(), values, labels, batch)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("batch", [1, 7, 90])
def test_the_calibration_error_is_that_of_torchmetrics_in_any_batches(batch):
    probabilities, labels = draw([0, 1, 2], EVERY)
    probabilities[:2] = torch.eye(4)[:2]  # sure of it, and no more
    probabilities[2:4] = 0.25
    theirs = MulticlassCalibrationError(4, n_bins=CALIBRATION_BINS, norm="l1")
    found, expected = (fed(one, probabilities, labels, batch).compute() for one in (CalibrationError(), theirs))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_metrics_of_classes_keep_no_rows():
    metrics = fed(SingleLabelMetrics(NAMES), *draw([0, 1], [0, 1]), 50)
    kept = [value for metric in metrics.values() for value in metric.metric_state.values()]
    assert all(isinstance(value, torch.Tensor) and value.numel() <= 16 for value in kept)


def test_squares_are_summed_beyond_what_float32_holds():
    metrics = fed(RegressionMetrics(), torch.zeros(2), torch.tensor([4096.0, 1.0]), 1)
    assert float(metrics["mse"].compute()) == (2**24 + 1) / 2
