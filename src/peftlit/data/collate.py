"""Pad rows to the longest of their batch.

Letters: ``B`` rows in the batch, ``T`` tokens after padding, ``C`` labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from peftlit.batch import Batch

Collator = Callable[[dict[str, list[Any]]], Batch]
"""Makes a batch of the columns of some rows."""


class PadCollator:
    """Turn the columns of some rows into one padded batch.

    Args:
        tokenizer: Pads on its own side with its own token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._inputs = [name for name in tokenizer.model_input_names if name != "labels"]

    def __call__(self, columns: dict[str, list[Any]]) -> Batch:
        """Pad.

        Args:
            columns: Lists by column, as a sliced ``datasets.Dataset`` gives them.

        Returns:
            Token columns (B, T) and ``row`` (B,), int64; ``labels``: class ids (B,) int64, label sets (B, C) or values
            (B,), float32.
        """
        tokens = {name: columns[name] for name in self._inputs if name in columns}
        batch: Batch = dict(self.tokenizer.pad(tokens, return_tensors="pt"))  # type: ignore[assignment]
        labels = columns["label"]
        batch["labels"] = torch.tensor(labels, dtype=torch.int64 if isinstance(labels[0], int) else torch.float32)
        batch["row"] = torch.tensor(columns["row"])
        return batch


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str | tuple[str, str]]) -> Batch:
    """Make a batch of texts, cut to the length that the tokenizer was saved with.

    Args:
        tokenizer: The tokenizer.
        texts: Texts, or pairs of texts.

    Returns:
        Token columns (B, T); there are no labels.
    """
    batch: Batch = dict(  # type: ignore[assignment]
        tokenizer(list(texts), truncation=True, padding=True, return_tensors="pt")
    )
    return batch
