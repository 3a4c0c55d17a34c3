"""The batch and the data spec: what a collator and a data module give to a task.

Letters: ``B`` rows in the batch, ``T`` tokens after padding, ``C`` labels, ``L`` tokens of a label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

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


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """What the data module tells the model, which may not contradict it; None where it does not apply.

    Args:
        tokenizer_size: Number of tokens that the tokenizer knows.
        pad_token_id: Id of its padding token.
        padding_side: Side that it pads on.
        max_length: Tokens of the longest row.
        num_rows: Training rows in all.
        problem_type: What the labels are.
        label_names: The classes' names in the order of their ids; for regression, the name of the number.
        class_counts: Training rows of each class, or that carry each label.
        cleaning_steps: What is done to a text before anything else, in order.
        text_columns: Where the text stands in the rows and, for pairs, the second one.
        prompt: How a row is put to a causal language model, as JSON.
        first_tokens_differ: Whether their first tokens tell labels apart behind every prompt.
        packing: Whether a row holds several sequences.
    """

    tokenizer_size: int | None = None
    pad_token_id: int | None = None
    padding_side: Literal["left", "right"] | None = None
    max_length: int | None = None
    num_rows: int | None = None
    problem_type: ProblemType | None = None
    label_names: Sequence[str] | None = None
    class_counts: Sequence[int] | None = None
    cleaning_steps: Sequence[str] | None = None
    text_columns: Sequence[str] | None = None
    prompt: dict[str, Any] | None = None
    first_tokens_differ: bool | None = None
    packing: bool | None = None

    def text_record(self) -> dict[str, list[str]]:
        """Return how a text gets to the tokenizer, as the export keeps it."""
        known = {"cleaning_steps": self.cleaning_steps, "text_columns": self.text_columns}
        return {name: list(value) for name, value in known.items() if value is not None}
