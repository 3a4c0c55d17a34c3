"""The batch: what a collator hands to a task, and what a task may rely on.

Letters: ``B`` rows in the batch, ``T`` tokens after padding, ``C`` labels, ``L`` tokens of a label.
"""

from __future__ import annotations

from typing import Literal, TypedDict

from torch import Tensor

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
"""What the labels of a batch are, in transformers' own names."""

Objective = Literal["causal", "masked"]
"""What a language model learns of a text: each token from those before it, or hidden ones from all others."""

IGNORE_INDEX = -100
"""Label value that no loss and no metric counts."""


class Batch(TypedDict, total=False):
    """One padded batch.

    Attributes:
        input_ids: Token ids, (B, T) int64.
        attention_mask: 1 for tokens and 0 for padding, (B, T) int64.
        token_type_ids: Segment ids of a text pair where the model has them, (B, T) int64.
        position_ids: Place of each token in its own sequence, where a row packs several, (B, T) int64.
        label_ids: Tokens of each label in a row's context, filled up with ``IGNORE_INDEX``, (B, C, L) int64.
        labels: Class ids, (B,) int64; label sets, 1 for each label that a row carries, (B, C) float32; values,
            (B,) float32; or the tokens to be found, ``IGNORE_INDEX`` elsewhere, (B, T) int64.
        row: Row number in the source, counted from 1, (B,) int64.
    """

    input_ids: Tensor
    attention_mask: Tensor
    token_type_ids: Tensor
    position_ids: Tensor
    label_ids: Tensor
    labels: Tensor
    row: Tensor
