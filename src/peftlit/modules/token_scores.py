"""The scores of a split of a language model: over tokens, never as a mean of batches."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from peftlit.modules.metrics import Direction
from peftlit.modules.scores import Scores, exact_sum

_LARGEST_LOSS = 700.0
"""exp() of more is no float64."""


class TokenScores(Scores):
    """Loss, perplexity and accuracy over all predicted tokens of a split, each token counted alike."""

    def __init__(self) -> None:
        super().__init__()
        self.total, self.tokens, self.right = exact_sum(), exact_sum(), exact_sum()

    def update(self, total: Tensor, tokens: Tensor, right: Tensor) -> None:  # type: ignore[override]
        """Count a batch: its summed loss in nats, its tokens, and how many of them were the likeliest one."""
        self.total.update(total)
        self.tokens.update(tokens)
        self.right.update(right)

    def compute(self) -> tuple[dict[str, float], dict[str, Any]]:
        """Return ``loss`` (nats a token), ``perplexity`` and ``accuracy``; extras: the number of ``tokens``."""
        tokens = int(self.tokens.compute())
        loss = float(self.total.compute()) / tokens if tokens else math.nan
        accuracy = float(self.right.compute()) / tokens if tokens else math.nan
        perplexity = math.exp(min(loss, _LARGEST_LOSS))
        return {"loss": loss, "perplexity": perplexity, "accuracy": accuracy}, {"tokens": tokens}

    def directions(self) -> dict[str, Direction]:
        """Perplexity falls, accuracy rises."""
        return {"perplexity": "min", "accuracy": "max"}
