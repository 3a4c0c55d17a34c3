"""Pictures are drawn for 2 and for 20 classes, with or without a validation split."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.image import imread

from peftlit.run import plots


@pytest.mark.parametrize("classes", [2, 3, 20])
def test_confusion_matrix_grows_with_its_classes(classes: int, tmp_path: Path) -> None:
    counts = [[(7 * i + j) % 11 + 40 * (i == j) for j in range(classes)] for i in range(classes)]
    names = [f"a rather long label {i}" for i in range(classes)]
    plots.confusion_matrix(counts, names, tmp_path / "matrix.png", "test")
    height, width, _ = imread(tmp_path / "matrix.png").shape
    assert min(height, width) > 500
    assert max(height, width) < 4000
    assert height > 90 * classes


HISTORY = [{"step": s, "loss": 1 / s, "learning_rate": 0.1 / s, "epoch": s / 10} for s in range(1, 30)]
EVALUATED = [{"step": s, "eval_loss": 1.1 / s, "eval_f1": 1 - 1 / s, "epoch": s / 10} for s in (10, 20, 29)]


@pytest.mark.parametrize(
    ("draw", "arguments"),
    [
        (plots.confusion_matrix, ([[0, 0], [3, 4]], ["a class without rows", "some"])),
        (plots.label_counts, ([[[5, 1], [0, 4]], [[10, 0], [0, 0]]], ["some", "a label without rows"])),
        (plots.predicted_values, ([1.0, 2.5], [1.5, 2.0])),
    ],
)
def test_scores_are_drawn(draw, arguments, tmp_path: Path) -> None:
    draw(*arguments, tmp_path / "picture.png", "test")
    assert (tmp_path / "picture.png").stat().st_size > 1000


@pytest.mark.parametrize("history", [HISTORY, HISTORY + EVALUATED])
def test_learning_curves_are_drawn(history, tmp_path: Path) -> None:
    plots.learning_curves(history, tmp_path / "curves.png", best_step=20)
    assert (tmp_path / "curves.png").stat().st_size > 1000
