"""How far answers drift between two ways of running the same model, in what a user would notice."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from peftlit.batch import Batch
from peftlit.modules.metrics import plain
from peftlit.modules.problems import MultiLabel, Problem, Regression

_AT_A_TIME = 64
"""Positions that are compared at a time: a vocabulary makes probabilities large."""


@dataclass(frozen=True)
class Drift:
    """What changes between two ways of running a model.

    Attributes:
        compared: Number of answers: labels of a classifier, tokens of a language model (padding left out), or numbers.
        changed: Share of them with another label or another likeliest token; 0 for numbers.
        kl: Mean Kullback-Leibler divergence of an answer's distribution, in nats; 0 for numbers.
        largest: The largest absolute difference of a logit, or of a number.
    """

    compared: int
    changed: float
    kl: float
    largest: float


def real(logits: Tensor, batch: Batch) -> Tensor:
    """Return the logits (N, V) of the real tokens of (B, T, V); logits of whole rows (B, C) stay as they are."""
    return logits[batch["attention_mask"].bool()] if logits.ndim == 3 else logits


def measure_drift(problem: Problem | None, ours: Tensor, others: Tensor) -> Drift:
    """Compare two ways of running a model.

    Args:
        problem: What a classifier predicts; None for tokens.
        ours: Logits (N, V), real tokens or rows only.
        others: The same of the other way.
    """
    largest = plain((ours - others).abs().max())
    if isinstance(problem, Regression):
        return Drift(len(ours), 0.0, 0.0, largest)
    compared = changed = 0
    divergence = 0.0
    for some, rest in zip(ours.split(_AT_A_TIME), others.split(_AT_A_TIME), strict=True):
        p, q = _distributions(problem, some), _distributions(problem, rest)
        compared += p.shape[:-1].numel()
        changed += int((_choices(problem, p) != _choices(problem, q)).sum())
        divergence += float(torch.nn.functional.kl_div(q, p, reduction="sum", log_target=True))
    return Drift(compared, plain(changed / compared), plain(divergence / compared), largest)


def _distributions(problem: Problem | None, logits: Tensor) -> Tensor:
    """Return log-probabilities: (N, V), or (N, C, 2) where each label is there or not."""
    if isinstance(problem, MultiLabel) or (problem is not None and len(problem.outputs) == 1):
        return torch.stack([(-logits).sigmoid(), logits.sigmoid()], -1).double().log()
    return logits.double().log_softmax(-1)


def _choices(problem: Problem | None, distributions: Tensor) -> Tensor:
    if isinstance(problem, MultiLabel):
        return distributions[..., 1].exp() >= problem.thresholds
    return distributions.argmax(-1)
