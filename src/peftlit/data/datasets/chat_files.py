"""Conversations, or prompts with their completions, from files of one's own or from any hub set."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import datasets

from peftlit.batch import DataSpec
from peftlit.data.base import TokenDataModule
from peftlit.data.blocks import pack
from peftlit.data.chat import Renderer
from peftlit.data.collate import Collator, TokenLabelCollator
from peftlit.data.files_or_hub import FilesOrHub
from peftlit.data.messages import Question
from peftlit.data.samples import LongPrompts, SampleReader, encode_samples
from peftlit.data.split import SPLITS
from peftlit.errors import ConfigError, DataError

log = logging.getLogger(__name__)

_PROBE_CHARACTERS = 200


@dataclass(kw_only=True, eq=False, repr=False)
class ChatFiles(FilesOrHub, TokenDataModule):
    """Rows with ``messages``, or with ``prompt`` and ``completion``; trl's formats.

    Files are ``.jsonl`` or ``.parquet``, and for prompts that are texts ``.csv`` or ``.tsv`` too.
    Only what the assistant says, or the completion, is learned. Rows of more than ``max_length`` tokens are cut behind
    and counted.

    Args:
        messages_column: Column with a conversation: a list of ``role`` and ``content``. Where rows have it, it counts.
        prompt_column: Column with a prompt: a text, or a list of messages.
        completion_column: Column with what follows it, a text or a list of messages as the prompt is.
        completion_only: Learn the assistant's turns or the completion alone; false = every token.
        chat_template: Jinja template of a conversation; unset = the tokenizer's own. It is saved with the tokenizer.
        long: What becomes of a row whose prompt alone fills ``max_length``: ``error``, or ``drop``, which is counted.
        packing: Put short rows together into one, without attention across them.
    """

    messages_column: str = "messages"
    prompt_column: str = "prompt"
    completion_column: str = "completion"
    completion_only: bool = True
    chat_template: str | None = None
    long: LongPrompts = "error"
    packing: bool = False

    def __post_init__(self) -> None:
        """Check what learns from the rows."""
        super().__post_init__()
        if self.objective == "masked":
            raise ConfigError("data: MaskedLM does not learn to answer; use CausalLM, or other data")
        self._renderer: Renderer | None = None
        self._dropped: dict[str, int] = {}

    def _reader(self, raw: Mapping[str, datasets.Dataset]) -> SampleReader:
        columns = (self.prompt_column, self.completion_column)
        self._samples = SampleReader(self.messages_column, columns, self._cleaner)
        return self._samples

    @property
    def prompt_record(self) -> dict[str, Any]:
        """How rows are put to the model, for whoever asks it later."""
        self.read()
        return {"chat": bool(self._samples.is_chat)}

    def data_spec(self) -> DataSpec:
        """Return what a task has to know of the rows, how they are put to the model among it."""
        return replace(super().data_spec(), prompt=self.prompt_record, packing=self.packing)

    def probe(self) -> list[Question]:
        """Return a few prompts, or conversations up to the user's last message, with the beginning of every text."""
        return [_beginnings(_question(str(text))[0]) for text in super().probe()]

    def ask(self, count: int) -> list[tuple[Question, str]]:
        """Return the first prompts of the test split, else of the validation split, with the expected answers."""
        splits = self.read()
        rows = next(splits[name] for name in reversed(SPLITS) if name in splits)[:count]
        return [_question(text) for text in rows["text"]]

    def _encode(self, split: str) -> datasets.Dataset:
        tokenizer = self.get_tokenizer()
        if self._renderer is None:
            self._renderer = Renderer(tokenizer, chat_template=self.chat_template)
        merged_before = self._renderer.merged
        encode = partial(
            encode_samples,
            renderer=self._renderer,
            max_length=self.max_length,
            completion_only=self.completion_only,
            long=self.long,
            source=self.sources[split],
        )
        key = (tokenizer.chat_template, self.max_length, self.completion_only, self.long)
        encoded = self._map_once(split, encode, *key)
        self._note_dropped(split, len(encoded))
        self._note_lengths(split, encoded["tokens"][:])
        if merged := self._renderer.merged - merged_before:
            log.info("%s: %d completions begin within a token of the whole text", split, merged)
        return pack(encoded, self.max_length) if self.packing else encoded

    def rows_scored(self, split: str) -> int:
        """Return how many rows of a split the Trainer scores: dropped ones not."""
        return min(super().rows_scored(split), self.reports[split].rows - self._dropped.get(split, 0))

    def _note_dropped(self, split: str, left: int) -> None:
        self._dropped[split] = self.reports[split].rows - left
        if not left:
            raise DataError(f"{self.sources[split]}: every prompt alone fills data.max_length; raise it")
        if self._dropped[split]:
            log.warning(
                "%s: %d of %d rows dropped, whose prompt alone fills the window of %d tokens",
                *(split, self._dropped[split], self.reports[split].rows, self.max_length),
            )

    def _collator(self, split: str) -> Collator:
        return TokenLabelCollator(self.get_tokenizer())


def _question(sample: str) -> tuple[Question, str]:
    """Return the prompt of a row, or the conversation up to the assistant's last message, and what is to follow."""
    prompt, completion = json.loads(sample)
    if isinstance(prompt, str):
        return prompt, completion
    messages = [*prompt, *(completion or [])]
    return messages[:-1], messages[-1]["content"]


def _beginnings(question: Any) -> Question:
    if isinstance(question, str):
        return _beginning(question)
    return [{"role": message["role"], "content": _beginning(message["content"])} for message in question]


def _beginning(text: str) -> str:
    return text[:_PROBE_CHARACTERS].strip() or "Hello."
