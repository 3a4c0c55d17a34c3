from __future__ import annotations

import numpy
import pytest
import torch
from scipy import stats
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    hamming_loss,
    matthews_corrcoef,
    mean_absolute_error,
    mean_squared_error,
    multilabel_confusion_matrix,
    precision_score,
    recall_score,
)  # fmt: skip
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


def test_a_float32_is_written_with_the_digits_that_it_has():
    assert plain(torch.tensor(0.85)) == 0.85 != float(torch.tensor(0.85))
    assert [*map(plain, [3.0, 1e-8, -0.0])] == [3.0, 1e-8, 0.0]
    assert numpy.isnan(plain(float("nan")))
    values = torch.rand(1000, generator=torch.Generator().manual_seed(0)) * 1e-3
    assert torch.tensor([*map(plain, values.tolist())]).equal(values)


def draw(classes: list[int], answers: list[int], rows: int = 90, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities whose best class is among ``answers``, and labels among ``classes``."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, len(NAMES), generator=generator)
    logits[:, [i for i in range(len(NAMES)) if i not in answers]] = -20
    labels = torch.tensor(classes)[torch.randint(len(classes), (rows,), generator=generator)]
    return logits.softmax(-1), labels


def compute(probabilities: torch.Tensor, labels: torch.Tensor, batch: int) -> dict[str, float]:
    metrics = SingleLabelMetrics(NAMES)
    for p, y in zip(probabilities.split(batch), labels.split(batch), strict=True):
        metrics.update(p, y)
    return metrics.scalars(metrics.compute())


def calibration_error(probabilities: torch.Tensor, labels: torch.Tensor) -> float:
    """The definition of Guo et al., written out."""
    confidence, predicted = (t.numpy() for t in probabilities.max(-1))
    right = predicted == labels.numpy()
    bins = numpy.clip(numpy.ceil(confidence * CALIBRATION_BINS) - 1, 0, CALIBRATION_BINS - 1)
    gaps = [abs(right[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean() for b in set(bins)]
    return float(sum(gaps))


EVERY = [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("classes", "answers"),
    [(EVERY, EVERY), ([0, 2], EVERY), (EVERY, [1, 3]), ([0, 1], [0, 1]), ([0, 1], [2, 3]), ([2], [2])],
    ids=["all", "absent labels", "absent answers", "absent in both", "all wrong", "one class"],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_number_equals_scikit_learns(classes, answers):
    probabilities, labels = draw(classes, answers)
    found = compute(probabilities, labels, 7)
    y, p = labels.numpy(), probabilities.argmax(-1).numpy()
    expected = {"accuracy": accuracy_score(y, p), "mcc": matthews_corrcoef(y, p)}
    for stem, score in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
        expected[stem] = score(y, p, average="macro", zero_division=0)
        expected[f"{stem}_macro"] = expected[stem]
        expected[f"{stem}_weighted"] = score(y, p, average="weighted", zero_division=0)
        each = score(y, p, labels=range(4), average=None, zero_division=0)
        expected |= {f"{stem}_{name}": value for name, value in zip(NAMES, each, strict=True)}
    expected["calibration_error"] = calibration_error(probabilities, labels)
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("batch", [1, 7, 89, 90])
def test_the_batch_size_changes_nothing(batch):
    probabilities, labels = draw(EVERY, EVERY)
    assert compute(probabilities, labels, batch) == pytest.approx(compute(probabilities, labels, 30), abs=1e-6)


def test_the_confusion_matrix_has_labels_as_rows():
    probabilities, labels = draw(EVERY, [0, 1])
    metrics = SingleLabelMetrics(NAMES)
    metrics.update(probabilities, labels)
    expected = confusion_matrix(labels, probabilities.argmax(-1), labels=range(4))
    assert (metrics.compute()["confusion_matrix"].numpy() == expected).all()


def test_every_scalar_has_a_direction():
    probabilities, labels = draw(EVERY, EVERY)
    directions = SingleLabelMetrics(NAMES).directions()
    assert set(directions) == set(compute(probabilities, labels, 90))
    assert [name for name, way in directions.items() if way == "min"] == ["calibration_error"]


@pytest.mark.parametrize("names", [["macro", "weighted"], ["weighted", "a"]])
def test_a_label_named_like_an_average_is_refused(names):
    with pytest.raises(ConfigError, match=f"a label called '{names[0]}' would be taken for the average f1_{names[0]}"):
        SingleLabelMetrics(names)


def draw_sets(rows: int = 70, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities and label sets over four labels, the third of which is never given."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(rows, 4, generator=generator) > 0.6).float()
    labels[:, 2] = 0
    return torch.rand(rows, 4, generator=generator), labels


@pytest.mark.parametrize("average", ["macro", "micro", "weighted"])
@pytest.mark.parametrize("batch", [1, 9, 70])
def test_label_sets_are_scored_as_scikit_learn_does(batch, average):
    probabilities, labels = draw_sets()
    thresholds = torch.tensor([0.5, 0.3, 0.9, 0.7])
    metrics = MultiLabelMetrics(NAMES, average, thresholds)
    for p, y in zip(probabilities.split(batch), labels.split(batch), strict=True):
        metrics.update(p, y)
    computed = metrics.compute()
    y, p = labels.numpy(), (probabilities >= thresholds).numpy()
    expected = {"accuracy": accuracy_score(y, p), "hamming_loss": hamming_loss(y, p)}
    for stem, score in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
        for kind in ("macro", "micro", "weighted"):
            expected[f"{stem}_{kind}"] = score(y, p, average=kind, zero_division=0)
        expected[stem] = expected[f"{stem}_{average}"]
        each = score(y, p, average=None, zero_division=0)
        expected |= {f"{stem}_{name}": value for name, value in zip(NAMES, each, strict=True)}
    assert metrics.scalars(computed) == pytest.approx(expected, abs=1e-6)
    assert (computed["confusion_matrix"].numpy() == multilabel_confusion_matrix(y, p)).all()
    assert set(metrics.directions()) == set(expected)


@pytest.mark.parametrize("batch", [1, 9, 50])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_numbers_are_scored_as_scipy_and_scikit_learn_do(batch):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(1, 6, (50,), generator=generator).float()  # ties, as stars have them
    values = labels + torch.randn(50, generator=generator)
    metrics = RegressionMetrics()
    for v, y in zip(values.split(batch), labels.split(batch), strict=True):
        metrics.update(v, y)
    expected = {
        "mse": mean_squared_error(labels, values),
        "mae": mean_absolute_error(labels, values),
        "pearson": stats.pearsonr(labels, values).statistic,
        "spearman": stats.spearmanr(labels, values).statistic,
    }
    assert metrics.scalars(metrics.compute()) == pytest.approx(expected, abs=1e-5)
    assert set(metrics.directions()) == set(expected)


def test_the_average_that_goes_by_the_bare_name_is_the_one_asked_for():
    probabilities, labels = draw(EVERY, EVERY)
    metrics = SingleLabelMetrics(NAMES, "weighted")
    metrics.update(probabilities, labels)
    scalars = metrics.scalars(metrics.compute())
    assert scalars["f1"] == scalars["f1_weighted"] != scalars["f1_macro"]


def test_a_micro_average_of_single_labels_is_refused():
    with pytest.raises(ConfigError, match="'micro' is the accuracy here; choose from macro, weighted"):
        SingleLabelMetrics(NAMES, "micro")


@pytest.mark.parametrize("batch", [1, 7, 90])
def test_the_calibration_error_is_that_of_torchmetrics_in_any_batches(batch):
    probabilities, labels = draw([0, 1, 2], [0, 1, 2, 3])
    probabilities[:2] = torch.eye(4)[:2]  # sure of it, and no more
    probabilities[2:4] = 0.25
    own, theirs = CalibrationError(), MulticlassCalibrationError(4, n_bins=CALIBRATION_BINS, norm="l1")
    for p, y in zip(probabilities.split(batch), labels.split(batch), strict=True):
        own.update(p, y)
        theirs.update(p, y)
    torch.testing.assert_close(own.compute(), theirs.compute(), rtol=0, atol=1e-6)


def test_metrics_of_classes_keep_no_rows():
    metrics = SingleLabelMetrics(NAMES)
    metrics.update(*draw([0, 1], [0, 1], rows=50))
    kept = [value for metric in metrics.values() for value in metric.metric_state.values()]
    assert all(isinstance(value, torch.Tensor) and value.numel() <= 16 for value in kept)


def test_squares_are_summed_beyond_what_float32_holds():
    metrics = RegressionMetrics()
    for miss in (4096.0, 1.0):
        metrics.update(torch.tensor([0.0]), torch.tensor([miss]))
    assert float(metrics["mse"].compute()) == (2**24 + 1) / 2
