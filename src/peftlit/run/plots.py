"""Pictures of a run: the confusion matrix and the learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

_NAME_LENGTH = 24


def confusion_matrix(counts: Sequence[Sequence[int]], label_names: Sequence[str], path: Path, title: str) -> None:
    """Draw counts and row rates; readable from 2 to about 20 classes.

    Args:
        counts: Rows are true labels, columns predictions, (C, C).
        label_names: The classes' names.
        path: The PNG file.
        title: What stands above it.
    """
    names = _short(label_names)
    figure = _grid(counts, [_shares(row) for row in counts], names, names)
    axes = figure.axes[0]
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title, fontsize=11)
    figure.savefig(path, dpi=150)


def label_counts(counts: Sequence[Any], label_names: Sequence[str], path: Path, title: str) -> None:
    """Draw, for each of the labels that a row may have several of, how often it was found, missed, and made up.

    Args:
        counts: For each label a matrix of (not given, given) x (not predicted, predicted), (C, 2, 2).
        label_names: The labels' names.
        path: The PNG file.
        title: What stands above it.
    """
    cells = [[tp, fn, fp, tn] for (tn, fp), (fn, tp) in counts]
    rates = [_shares(row[:2]) + _shares(row[2:]) for row in cells]
    figure = _grid(cells, rates, ["found (TP)", "missed (FN)", "false (FP)", "rest (TN)"], _short(label_names))
    figure.axes[0].set_xlabel("of the rows with the label (left half), without it (right half)")
    figure.axes[0].set_title(title, fontsize=11)
    figure.savefig(path, dpi=150)


def predicted_values(labels: Sequence[float], predictions: Sequence[float], path: Path, title: str) -> None:
    """Draw predicted over true numbers.

    Args:
        labels: The true numbers.
        predictions: The predicted ones.
        path: The PNG file.
        title: What stands above it.
    """
    figure = Figure(figsize=(5.2, 5.0), layout="constrained")
    axes = figure.add_subplot()
    ends = [min(*labels, *predictions), max(*labels, *predictions)]
    axes.plot(ends, ends, color="#d95f0e", linestyle="--", linewidth=1, label="predicted = true")
    axes.scatter(labels, predictions, s=16, alpha=0.45, color="#08519c", edgecolors="none")
    axes.set_xlabel("true")
    axes.set_ylabel("predicted")
    axes.grid(alpha=0.25)
    axes.legend(loc="upper left", fontsize=9)
    axes.set_title(title, fontsize=11)
    figure.savefig(path, dpi=150)


def _short(names: Sequence[str]) -> list[str]:
    return [name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 1] + "…" for name in names]


def _shares(counts: Sequence[int]) -> list[float]:
    return [count / sum(counts) if sum(counts) else 0.0 for count in counts]


def _grid(
    counts: Sequence[Sequence[int]], rates: Sequence[Sequence[float]], columns: Sequence[str], rows: Sequence[str]
) -> Figure:
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
    return figure


def learning_curves(log_history: Sequence[dict[str, Any]], path: Path, best_step: int, metric: str = "f1") -> None:
    """Draw training and validation loss, one validation metric, and the learning rate over optimizer steps.

    Args:
        log_history: What :class:`~peftlit.run.history.History` collected.
        path: The PNG file.
        best_step: Optimizer step of the exported weights, marked.
        metric: Which metric to draw.
    """
    trained = [entry for entry in log_history if "loss" in entry]
    evaluated = [entry for entry in log_history if "eval_loss" in entry]
    figure = Figure(figsize=(7.5, 6.0), layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=[3, 2, 1])
    top.plot(
        [e["step"] for e in trained],
        [e["loss"] for e in trained],
        color="#9ecae1",
        linewidth=1.2,
        label="train",
    )
    top.plot(
        [e["step"] for e in evaluated],
        [e["eval_loss"] for e in evaluated],
        "o-",
        color="#08519c",
        label="validation",
    )
    top.set_ylabel("loss")
    top.set_ylim(bottom=0)
    if evaluated and f"eval_{metric}" in evaluated[0]:
        steps = [e["step"] for e in evaluated]
        middle.plot(
            steps,
            [e[f"eval_{metric}"] for e in evaluated],
            "o-",
            color="#006d2c",
            label=f"validation {metric}",
        )
        middle.set_ylabel(metric)
    bottom.plot([e["step"] for e in trained], [e["learning_rate"] for e in trained], color="#636363")
    bottom.set_ylabel("learning rate")
    bottom.set_xlabel("optimizer step")
    bottom.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    for axes in (top, middle, bottom):
        axes.axvline(best_step, color="#d95f0e", linestyle="--", linewidth=1, label=f"exported: step {best_step}")
        axes.grid(alpha=0.25)
    top.legend(loc="best", fontsize=9)
    figure.savefig(path, dpi=150)
