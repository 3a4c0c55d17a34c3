"""Pad rows to the longest of their batch.

Letters: ``B`` rows in the batch, ``T`` tokens after padding, ``C`` labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from transformers import PreTrainedTokenizerBase

from peftlit.batch import IGNORE_INDEX, Batch

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


class LabelledCollator:
    """Turn rows that have a label for each token into one padded batch.

    Args:
        tokenizer: Pads on its own side with its own token; packed rows are always padded behind.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    def __call__(self, columns: dict[str, list[Any]]) -> Batch:
        """Pad.

        Args:
            columns: ``input_ids``, ``labels``, ``row`` and, where a row packs several sequences, ``position_ids``.

        Returns:
            ``input_ids`` and ``labels`` (B, T), ``row`` (B,); ``attention_mask`` (B, T), or for packed rows
            ``position_ids`` (B, T), by which models keep sequences apart. Padding is then a sequence of its own.
        """
        tokens = {"input_ids": columns["input_ids"]}
        if "position_ids" in columns:
            batch = pad(self.tokenizer, tokens, columns["labels"], side="right")
            longest = batch["input_ids"].shape[1]
            positions = [[*row, *range(longest - len(row))] for row in columns["position_ids"]]
            batch["position_ids"] = torch.tensor(positions)
            del batch["attention_mask"]
        else:
            batch = pad(self.tokenizer, tokens, columns["labels"])
        batch["row"] = torch.tensor(columns["row"])
        return batch


def pad(
    tokenizer: PreTrainedTokenizerBase,
    tokens: dict[str, list[list[int]]],
    labels: list[list[int]],
    side: Literal["left", "right"] | None = None,
) -> Batch:
    """Pad tokens and their labels on the same side.

    Args:
        tokenizer: Pads.
        tokens: ``input_ids`` of each row.
        labels: A label for each token of each row.
        side: The side; None = the tokenizer's own.

    Returns:
        ``input_ids``, ``attention_mask`` and ``labels``, all (B, T) int64. A token is padding by its place and not by
        its id, so that an end token with the id of the padding token keeps its label.
    """
    side = side or ("left" if tokenizer.padding_side == "left" else "right")
    batch: Batch = dict(  # type: ignore[assignment]
        tokenizer.pad(tokens, return_tensors="pt", padding_side=side, return_attention_mask=True)
    )
    longest = batch["input_ids"].shape[1]
    gaps = [[IGNORE_INDEX] * (longest - len(row)) for row in labels]
    padded = [gap + row if side == "left" else row + gap for row, gap in zip(labels, gaps, strict=True)]
    batch["labels"] = torch.tensor(padded)
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
