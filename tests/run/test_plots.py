"""Pictures are drawn for 2 and for 20 classes, with or without a validation split."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.image import imread

from peftlit.run.plots import confusion_matrix, learning_curves


@pytest.mark.parametrize("classes", [2, 3, 20])
def test_confusion_matrix_grows_with_its_classes(classes: int, tmp_path: Path) -> None:
    counts = [[(7 * i + j) % 11 + 40 * (i == j) for j in range(classes)] for i in range(classes)]
    confusion_matrix(counts, [f"a rather long label {i}" for i in range(classes)], tmp_path / "matrix.png", "test")
    height, width, _ = imread(tmp_path / "matrix.png").shape
    assert min(height, width) > 500
    assert max(height, width) < 4000
    assert height > 90 * classes


def test_a_class_without_rows_is_drawn(tmp_path: Path) -> None:
    confusion_matrix([[0, 0], [3, 4]], ["none", "some"], tmp_path / "matrix.png", "test")
    assert (tmp_path / "matrix.png").stat().st_size > 1000


@pytest.mark.parametrize("evaluated", [True, False])
def test_learning_curves_are_drawn(evaluated: bool, tmp_path: Path) -> None:
    history = [{"step": s, "loss": 1 / s, "learning_rate": 0.1 / s, "epoch": s / 10} for s in range(1, 30)]
    if evaluated:
        history += [{"step": s, "eval_loss": 1.1 / s, "eval_f1": 1 - 1 / s, "epoch": s / 10} for s in (10, 20, 29)]
    learning_curves(history, tmp_path / "curves.png", best_step=20)
    assert (tmp_path / "curves.png").stat().st_size > 1000
