"""Pad rows to the longest of their batch.

Letters: ``B`` rows in the batch, ``T`` tokens after padding, ``C`` labels, ``L`` tokens of the longest label.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from peftlit.batch import IGNORE_INDEX, Batch

Collator = Callable[[dict[str, list[Any]]], Batch]
"""Makes a batch from the columns of some rows, as a sliced ``datasets.Dataset`` gives them."""


@dataclass
class PadCollator:
    """Pad tokenized texts that have one label a row."""

    tokenizer: PreTrainedTokenizerBase

    def __call__(self, columns: dict[str, list[Any]]) -> Batch:
        """Return the tokenizer's inputs (B, T), ``row`` (B,) and ``labels``, whose shape and type depend on the task.

        Labels are class ids (B,) int64, label sets (B, C) float32 or values (B,) float32.
        """
        tokens = {name: columns[name] for name in self.tokenizer.model_input_names if name in columns}
        batch: Batch = dict(self.tokenizer.pad(tokens, return_tensors="pt"))  # type: ignore[assignment]
        labels = columns["label"]
        batch["labels"] = torch.tensor(labels, dtype=torch.int64 if isinstance(labels[0], int) else torch.float32)
        batch["row"] = torch.tensor(columns["row"])
        return batch


@dataclass
class TokenLabelCollator:
    """Pad rows that have a label for each token; packed rows are padded on the right whatever the tokenizer does."""

    tokenizer: PreTrainedTokenizerBase

    def __call__(self, columns: dict[str, list[Any]]) -> Batch:
        """Return ``input_ids`` and ``labels`` (B, T), ``row`` (B,) and ``attention_mask`` (B, T).

        Packed rows get ``position_ids`` (B, T) instead of the mask: models keep sequences apart by them, and the
        padding counts as one more sequence.
        """
        positions = columns.get("position_ids")
        batch = pad(self.tokenizer, columns["input_ids"], columns["labels"], "right" if positions else None)
        if positions:
            length = batch.pop("attention_mask").shape[1]
            batch["position_ids"] = torch.tensor([[*row, *range(length - len(row))] for row in positions])
        batch["row"] = torch.tensor(columns["row"])
        return batch


@dataclass
class PromptCollator:
    """Pad prompts, and the tokens of their labels."""

    tokenizer: PreTrainedTokenizerBase

    def __call__(self, columns: dict[str, list[Any]]) -> Batch:
        """Return prompts (B, T), ``label_ids`` (B, C, L), ``row`` (B,) and, for labelled rows, ``labels`` (B,)."""
        batch = _pad_ids(self.tokenizer, columns["input_ids"])
        labels = [torch.tensor(ids) for row in columns["label_ids"] for ids in row]
        padded = pad_sequence(labels, batch_first=True, padding_value=IGNORE_INDEX)
        batch["label_ids"] = padded.view(len(columns["row"]), -1, padded.shape[1])
        if "label" in columns:
            batch["labels"] = torch.tensor(columns["label"])
        batch["row"] = torch.tensor(columns["row"])
        return batch


def pad(
    tokenizer: PreTrainedTokenizerBase,
    input_ids: list[list[int]],
    labels: list[list[int]],
    side: Literal["left", "right"] | None = None,
) -> Batch:
    """Pad tokens and their labels on the same side; None = the tokenizer's own.

    Labels are padded by position and not by token id: an end token whose id is also the padding's keeps its label.
    """
    batch = _pad_ids(tokenizer, input_ids, side)
    batch["labels"] = pad_sequence(
        [torch.tensor(row) for row in labels],
        batch_first=True,
        padding_value=IGNORE_INDEX,
        padding_side=side or tokenizer.padding_side,
    )
    return batch


def _pad_ids(
    tokenizer: PreTrainedTokenizerBase, input_ids: list[list[int]], side: Literal["left", "right"] | None = None
) -> Batch:
    """Return ``input_ids`` and ``attention_mask``, which not every tokenizer returns by default."""
    tokens = {"input_ids": input_ids}
    padded = tokenizer.pad(tokens, return_tensors="pt", padding_side=side, return_attention_mask=True)
    return dict(padded)  # type: ignore[return-value]


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str | tuple[str, str]]) -> Batch:
    """Return texts or text pairs as one padded batch, cut to the length that the tokenizer was saved with."""
    return dict(tokenizer(list(texts), truncation=True, padding=True, return_tensors="pt"))  # type: ignore[return-value]
