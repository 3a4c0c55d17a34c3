"""The pictures of a run: confusion matrix, predicted values, learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

_NAME_LENGTH = 24


def confusion_matrix(counts: Sequence[Sequence[int]], label_names: Sequence[str], path: Path, title: str) -> None:
    """Draw counts, (C, C), and row rates, readable from 2 to about 20 classes; rows are true labels."""
    names = _short(label_names)
    axes = _grid(counts, [_shares(row) for row in counts], names, names)
    axes.set(xlabel="predicted", ylabel="true")
    _save(axes, path, title)


def label_counts(counts: Sequence[Any], label_names: Sequence[str], path: Path, title: str) -> None:
    """Draw true and false positives and negatives of each label, where a row may have several.

    Args:
        counts: For each label a matrix of (not given, given) x (not predicted, predicted), (C, 2, 2).
        label_names: The labels' names.
        path: The PNG file.
        title: The figure's title.
    """
    cells = [[tp, fn, fp, tn] for (tn, fp), (fn, tp) in counts]
    rates = [_shares(row[:2]) + _shares(row[2:]) for row in cells]
    axes = _grid(cells, rates, ["found (TP)", "missed (FN)", "false (FP)", "rest (TN)"], _short(label_names))
    axes.set(xlabel="of the rows with the label (left half), without it (right half)")
    _save(axes, path, title)


def predicted_values(labels: Sequence[float], predictions: Sequence[float], path: Path, title: str) -> None:
    """Draw predicted over true numbers."""
    axes = Figure(figsize=(5.2, 5.0), layout="constrained").add_subplot()
    ends = [min(*labels, *predictions), max(*labels, *predictions)]
    axes.plot(ends, ends, color="#d95f0e", linestyle="--", linewidth=1, label="predicted = true")
    axes.scatter(labels, predictions, s=16, alpha=0.45, color="#08519c", edgecolors="none")
    axes.set(xlabel="true", ylabel="predicted")
    axes.grid(alpha=0.25)
    axes.legend(loc="upper left", fontsize=9)
    _save(axes, path, title)


def learning_curves(log_history: Sequence[dict[str, Any]], path: Path, best_step: int, metric: str = "f1") -> None:
    """Draw training and validation loss, one validation metric, and the learning rate over optimizer steps.

    ``best_step``, of the exported weights, is marked.
    """
    evaluated = f"eval_{metric}"
    figure = Figure(figsize=(7.5, 6.0), layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=[3, 2, 1])
    top.plot(*_series(log_history, "loss"), color="#9ecae1", linewidth=1.2, label="train")
    top.plot(*_series(log_history, "eval_loss"), "o-", color="#08519c", label="validation")
    top.set(ylabel="loss", ylim=(0, None))
    if any(evaluated in entry for entry in log_history):
        middle.plot(*_series(log_history, evaluated), "o-", color="#006d2c", label=f"validation {metric}")
        middle.set_ylabel(metric)
    bottom.plot(*_series(log_history, "learning_rate"), color="#636363")
    bottom.set(xlabel="optimizer step", ylabel="learning rate")
    bottom.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    for axes in (top, middle, bottom):
        axes.axvline(best_step, color="#d95f0e", linestyle="--", linewidth=1, label=f"exported: step {best_step}")
        axes.grid(alpha=0.25)
    top.legend(loc="best", fontsize=9)
    figure.savefig(path, dpi=150)


def _series(log_history: Sequence[dict[str, Any]], key: str) -> tuple[list[int], list[float]]:
    entries = [entry for entry in log_history if key in entry]
    return [entry["step"] for entry in entries], [entry[key] for entry in entries]


def _short(names: Sequence[str]) -> list[str]:
    return [name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 1] + "…" for name in names]


def _shares(counts: Sequence[int]) -> list[float]:
    return [count / sum(counts) if sum(counts) else 0.0 for count in counts]


def _grid(
    counts: Sequence[Sequence[int]], rates: Sequence[Sequence[float]], columns: Sequence[str], rows: Sequence[str]
) -> Axes:
    """Draw numbers and rates in coloured cells."""
    n = max(len(rows), len(columns))
    cell = 1.3 if n <= 4 else 0.9 if n <= 8 else 0.62
    margin = 0.09 * max(map(len, rows))
    width, height = len(columns) * cell + margin + 2.0, len(rows) * cell + margin + 1.3
    figure = Figure(figsize=(max(4.6, width), max(3.9, height)), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(rates, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    size = 12 if n <= 4 else 9 if n <= 8 else 7.5
    for i, row in enumerate(counts):
        for j, count in enumerate(row):
            if count or n <= 8:
                rate = f"{rates[i][j]:.1%}" if n <= 8 else f"{rates[i][j]:.0%}"
                color = "white" if rates[i][j] > 0.55 else "#222222"
                axes.text(j, i, f"{count:,}\n{rate}", ha="center", va="center", fontsize=size, color=color)
    upright = len(columns) <= 4 and max(map(len, columns)) <= 11
    axes.set_xticks(range(len(columns)), columns, rotation=0 if upright else 45, ha="center" if upright else "right")
    axes.set_yticks(range(len(rows)), rows)
    figure.colorbar(image, ax=axes, label="share of the true label", shrink=0.85)
    return axes


def _save(axes: Axes, path: Path, title: str) -> None:
    axes.set_title(title, fontsize=11)
    figure = axes.figure
    assert isinstance(figure, Figure)
    figure.savefig(path, dpi=150)
