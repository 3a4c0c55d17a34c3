"""Conversations, or prompts with their completions, from files of one's own or from any hub set."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from typing import Any

import datasets

from peftlit.batch import IGNORE_INDEX, DataSpec
from peftlit.data.base import TokenDataModule
from peftlit.data.blocks import pack
from peftlit.data.chat import Renderer, Sample
from peftlit.data.checks import check_columns, check_text
from peftlit.data.cleaning import Cleaner
from peftlit.data.collate import Collator, TokenLabelCollator
from peftlit.data.encode import map_once
from peftlit.data.files_or_hub import FilesOrHub
from peftlit.data.messages import Message, check_messages
from peftlit.data.table import column_values, make_rows
from peftlit.errors import ConfigError, DataError

log = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False, repr=False)
class ChatFiles(TokenDataModule, FilesOrHub):
    """Rows with ``messages``, or with ``prompt`` and ``completion``; trl's formats.

    Files are ``.jsonl`` or ``.parquet``, and for prompts that are texts ``.csv`` or ``.tsv`` too.
    Only what the assistant says, or the completion, is learned. Rows of more than ``max_length`` tokens are cut behind
    and counted; one whose prompt alone is longer is an error.

    Args:
        messages_column: Column with a conversation: a list of ``role`` and ``content``. Where rows have it, it counts.
        prompt_column: Column with a prompt: a text, or a list of messages.
        completion_column: Column with what follows it, a text or a list of messages as the prompt is.
        completion_only: Learn the assistant's turns or the completion alone; false = every token.
        chat_template: Jinja template of a conversation; unset = the tokenizer's own. It is saved with the tokenizer.
        packing: Put short rows together into one, without attention across them.
    """

    messages_column: str = "messages"
    prompt_column: str = "prompt"
    completion_column: str = "completion"
    completion_only: bool = True
    chat_template: str | None = None
    packing: bool = False

    def __post_init__(self) -> None:
        """Check what learns from the rows."""
        super().__post_init__()
        if self.objective == "masked":
            raise ConfigError("data: MaskedLM does not learn to answer; use CausalLM, or other data")
        self._renderer: Renderer | None = None
        self._is_chat: bool | None = None

    @property
    def prompt_record(self) -> dict[str, Any]:
        """How rows are put to the model, for whoever asks it later."""
        self.read()
        return {"chat": bool(self._is_chat)}

    def data_spec(self) -> DataSpec:
        """Return what a task has to know of the rows, how they are put to the model among it."""
        return replace(super().data_spec(), prompt=self.prompt_record, packing=self.packing)

    def _normalise(self, raw: dict[str, datasets.Dataset]) -> dict[str, datasets.Dataset]:
        return {split: self._samples(rows, self.sources[split]) for split, rows in raw.items()}

    def _samples(self, rows: datasets.Dataset, source: str) -> datasets.Dataset:
        if not len(rows):
            raise DataError(f"{source}: no rows")
        columns = [self.messages_column]
        if self.messages_column not in rows.column_names:
            columns = [self.prompt_column, self.completion_column]
            check_columns(rows.column_names, columns, source)
        numbers = list(range(1, len(rows) + 1))
        values = zip(*(column_values(rows, column, source) for column in columns), strict=True)
        samples = [self._sample(list(value), source, row) for row, value in zip(numbers, values, strict=True)]
        for row, sample in zip(numbers, samples, strict=True):
            self._check_kind(sample, source, row)
        texts = [json.dumps(sample, ensure_ascii=False) for sample in samples]
        labels = self._labels.parse_column(texts, source)
        return make_rows({"row": numbers, "text": texts, "label": labels})

    def _sample(self, values: list[Any], source: str, row: int) -> Sample:
        whole = [message for value in values if isinstance(value, list) for message in value]
        if whole and all(isinstance(value, list) for value in values):
            check_messages(whole, source, row)
            return Sample(*([self._cleaned(turn) for turn in value] for value in values))
        names = (self.prompt_column, self.completion_column)
        if len(values) == 1:
            check_messages(values[0], source, row)
        for name, value in zip(names, values, strict=True):
            check_text(value, name, source, row)
        prompt, completion = map(self._cleaner, values)
        both = Cleaner(self.cleaning_steps)("".join(values))  # keeps the space between the two
        return Sample(prompt, both[len(prompt) :] if both.startswith(prompt) else completion)

    def _check_kind(self, sample: Sample, source: str, row: int) -> None:
        is_chat = not isinstance(sample.prompt, str)
        if self._is_chat is None:
            self._is_chat = is_chat
        if is_chat != self._is_chat:
            this, others = ("a conversation", "a text") if is_chat else ("a text", "a conversation")
            raise DataError(
                f"{source}, row {row}: {this}, and the first training row is {others}; use one or the other"
            )

    def _cleaned(self, turn: Message) -> Message:
        return {"role": turn["role"], "content": self._cleaner(turn["content"])}

    def probe(self) -> list[str | tuple[str, str]]:
        """Return the beginnings of what a few rows say."""
        texts: list[str | tuple[str, str]] = []
        for text in super().probe():
            prompt, _ = json.loads(str(text))
            texts.append((prompt if isinstance(prompt, str) else prompt[-1]["content"])[:200] or "Hello.")
        return texts

    def _encode(self, split: str) -> datasets.Dataset:
        rows, source, tokenizer = self.read()[split], self.sources[split], self.get_tokenizer()
        if self._renderer is None:
            self._renderer = Renderer(tokenizer, chat_template=self.chat_template)
        renderer = self._renderer
        merged_before, max_length, completion_only = renderer.merged, self.max_length, self.completion_only

        def encode(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:  # goes to other processes, without the Trainer
            samples = [Sample(*json.loads(text)) for text in batch["text"]]
            found = renderer.encode(samples, source, batch["row"], completion_only=completion_only)
            for row, (_, labels) in zip(batch["row"], found, strict=True):
                if not any(label != IGNORE_INDEX for label in labels[:max_length]):
                    raise DataError(
                        f"{source}, row {row}: the prompt alone is longer than the window of {max_length} tokens; "
                        "raise data.max_length, or shorten it"
                    )
            return {
                "input_ids": [one.input_ids[:max_length] for one in found],
                "labels": [one.labels[:max_length] for one in found],
                "length": [min(len(one.input_ids), max_length) for one in found],
                "tokens": [len(one.input_ids) for one in found],
            }

        key = [self._cache_key(split), tokenizer.chat_template, self.max_length]
        encoded = map_once(
            rows,
            encode,
            [*key, self.completion_only],
            num_proc=self.num_proc,
            desc=f"tokenizing {split}",
            remove=["text", "label"],
        )
        self._note_lengths(split, encoded["tokens"][:])
        if merged := renderer.merged - merged_before:
            log.info("%s: %d completions begin within a token of the whole text", split, merged)
        return pack(encoded, self.max_length) if self.packing else encoded

    def _collator(self, split: str) -> Collator:
        return TokenLabelCollator(self.get_tokenizer())
