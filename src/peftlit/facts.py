"""What a task has to know of the data: typed once, on the data's side, and handed over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from peftlit.batch import ProblemType


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """What the data module knows, and the model must not be told otherwise; None where it does not apply.

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
