"""Conversations, or prompts with their completions, as rows and as tokens; a row's ``text`` is a sample as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import datasets

from peftlit.batch import IGNORE_INDEX
from peftlit.data.chat import Renderer, Sample
from peftlit.data.checks import check_columns, check_text
from peftlit.data.cleaning import Cleaner
from peftlit.data.encode import Columns
from peftlit.data.messages import Message, check_messages
from peftlit.data.rows import RowReader
from peftlit.data.table import column_values, make_rows
from peftlit.data.unlabelled import Unlabelled
from peftlit.errors import DataError

LongPrompts = Literal["error", "drop"]


class SampleReader(RowReader):
    """Reads rows with messages, or with a prompt and a completion.

    Args:
        messages_column: Column with a conversation. Where rows have it, it counts.
        prompt_columns: Columns with a prompt and its completion.
        cleaner: Cleans a text.

    Attributes:
        is_chat: Whether rows are conversations; None before the first one.
    """

    def __init__(self, messages_column: str, prompt_columns: Sequence[str], cleaner: Cleaner) -> None:
        self.messages_column = messages_column
        self.prompt_columns = list(prompt_columns)
        self.cleaner = cleaner
        self.labels = Unlabelled()
        self.is_chat: bool | None = None

    def read(self, rows: datasets.Dataset, source: str) -> datasets.Dataset:
        """Read all rows of a split."""
        if not len(rows):
            raise DataError(f"{source}: no rows")
        columns = [self.messages_column]
        if self.messages_column not in rows.column_names:
            columns = self.prompt_columns
            check_columns(rows.column_names, columns, source)
        numbers = range(1, len(rows) + 1)
        labels = self.labels.parse_column(numbers, source)
        return make_rows({"row": numbers, "text": self._texts(rows, columns, source), "label": labels})

    def _texts(self, rows: datasets.Dataset, columns: list[str], source: str) -> Iterator[str]:
        values = zip(*(column_values(rows, column, source) for column in columns), strict=True)
        for row, value in enumerate(values, 1):
            sample = self._sample(list(value), source, row)
            self._check_kind(sample, source, row)
            yield json.dumps(sample, ensure_ascii=False)

    def _sample(self, values: list[Any], source: str, row: int) -> Sample:
        whole = [message for value in values if isinstance(value, list) for message in value]
        if whole and all(isinstance(value, list) for value in values):
            check_messages(whole, source, row)
            return Sample(*([self._cleaned(turn) for turn in value] for value in values))
        if len(values) == 1:
            check_messages(values[0], source, row)
        for name, value in zip(self.prompt_columns, values, strict=True):
            check_text(value, name, source, row)
        prompt, completion = map(self.cleaner, values)
        both = Cleaner(self.cleaner.steps)("".join(values))  # keeps the space between the two
        return Sample(prompt, both[len(prompt) :] if both.startswith(prompt) else completion)

    def _cleaned(self, turn: Message) -> Message:
        return {"role": turn["role"], "content": self.cleaner(turn["content"])}

    def _check_kind(self, sample: Sample, source: str, row: int) -> None:
        is_chat = not isinstance(sample.prompt, str)
        if self.is_chat is None:
            self.is_chat = is_chat
        if is_chat != self.is_chat:
            this, others = ("a conversation", "a text") if is_chat else ("a text", "a conversation")
            raise DataError(
                f"{source}, row {row}: {this}, and the first training row is {others}; use one or the other"
            )


def encode_samples(
    columns: Columns, renderer: Renderer, max_length: int, completion_only: bool, long: LongPrompts, source: str
) -> Columns:
    """Tokenize samples, given as the columns ``row`` and ``text``, and cut them to ``max_length`` tokens.

    Returns:
        ``input_ids``, ``labels``, ``length``, ``tokens`` (before cutting) and ``row``; rows may be fewer.

    Raises:
        DataError: A prompt leaves nothing to learn in the window, and is not to be dropped.
    """
    samples = [Sample(*json.loads(text)) for text in columns["text"]]
    encoded = renderer.encode(samples, source, columns["row"], completion_only=completion_only)
    labels = [one.labels[:max_length] for one in encoded]
    kept = [i for i, cut in enumerate(labels) if any(label != IGNORE_INDEX for label in cut)]
    if long == "error" and len(kept) < len(labels):
        first = next(i for i in range(len(labels)) if i not in kept)
        raise DataError(
            f"{source}, row {columns['row'][first]}: the prompt alone is longer than the window of {max_length} "
            "tokens; raise data.max_length, shorten it, or set data.long: drop"
        )
    return {
        "input_ids": [encoded[i].input_ids[:max_length] for i in kept],
        "labels": [labels[i] for i in kept],
        "length": [len(labels[i]) for i in kept],
        "tokens": [len(encoded[i].input_ids) for i in kept],
        "row": [columns["row"][i] for i in kept],
    }
