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
    n = len(label_names)
    names = [name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 1] + "…" for name in label_names]
    rates = [[c / sum(row) if sum(row) else 0.0 for c in row] for row in counts]
    cell = 1.3 if n <= 4 else 0.9 if n <= 8 else 0.62
    margin = 0.09 * max(map(len, names))
    figure = Figure(
        figsize=(max(4.6, n * cell + margin + 2.0), max(3.9, n * cell + margin + 1.3)), layout="constrained"
    )
    axes = figure.add_subplot()
    image = axes.imshow(rates, cmap="Blues", vmin=0, vmax=1)
    size = 12 if n <= 4 else 9 if n <= 8 else 7.5
    for i, row in enumerate(counts):
        for j, count in enumerate(row):
            if count or n <= 8:
                rate = f"{rates[i][j]:.1%}" if n <= 8 else f"{rates[i][j]:.0%}"
                color = "white" if rates[i][j] > 0.55 else "#222222"
                axes.text(j, i, f"{count:,}\n{rate}", ha="center", va="center", fontsize=size, color=color)
    axes.set_xticks(range(n), names, rotation=0 if n <= 4 and max(map(len, names)) <= 10 else 45,
                    ha="center" if n <= 4 and max(map(len, names)) <= 10 else "right")  # fmt: skip
    axes.set_yticks(range(n), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title, fontsize=11)
    figure.colorbar(image, ax=axes, label="share of the true label", shrink=0.85)
    figure.savefig(path, dpi=150)


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
    top.legend(loc="upper right", fontsize=9)
    figure.savefig(path, dpi=150)
