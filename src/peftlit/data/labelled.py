"""Texts or text pairs with labels: one class a row, a set of labels, or a value."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, ClassVar

import datasets

from peftlit.batch import DataSpec, ProblemType
from peftlit.data.base import TokenDataModule
from peftlit.data.checks import check_columns
from peftlit.data.cleaning import Cleaner
from peftlit.data.collate import Collator, PadCollator, PromptCollator
from peftlit.data.encode import encode
from peftlit.data.label_prompts import LabelPrompts, first_tokens_differ
from peftlit.data.labels import make_labels
from peftlit.data.prompt import Prompt
from peftlit.data.rows import TextReader
from peftlit.errors import ConfigError

log = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False, repr=False)
class TextDataModule(TokenDataModule):
    """Texts or text pairs with their labels. A data set of your own implements :meth:`load`.

    Args:
        text_column: Column with the text.
        text_pair_column: Column with the second text of a pair, where there is one.
        problem_type: What a label is: one class, a set of labels, or a value.
        label_column: Column with the label. One class: a name or a class id. A set: a list of these, or a text of
            names with ``label_separator`` between them; empty = none. A value: a number, or a text that is one.
        label_names: The labels' names in the order of their ids; unset = the distinct training labels, sorted. For
            values it becomes the label column's name.
        label_separator: What stands between the names of a label set that is written as a text.
        prompt: How a row is put to a causal language model, and what it would say for each label; unset = asking for
            the label, as a chat where the tokenizer has a template.
    """

    question: ClassVar[str] = "Label"
    """What a label is called where a language model is asked for it."""

    text_column: str = "text"
    text_pair_column: str | None = None
    problem_type: ProblemType = "single_label_classification"
    label_column: str = "label"
    label_names: list[str] | None = None
    label_separator: str = ";"
    prompt: Prompt | None = None

    def __post_init__(self) -> None:
        """Check what was set; nothing is read yet."""
        super().__post_init__()
        names = self.label_names or []
        if len(set(names)) < len(names):
            raise ConfigError(f"data.label_names: a name stands there twice: {', '.join(names)}")
        if self.problem_type == "regression" and names not in ([], [self.label_column]):
            raise ConfigError(
                f"data.label_names: regression has no classes, but got {', '.join(names)}; set it to null"
            )
        if not self.label_separator:
            raise ConfigError(
                "data.label_separator: got an empty text, needs what stands between two names, such as ';'"
            )
        if self.objective == "causal" and self.problem_type != "single_label_classification":
            raise ConfigError(
                f"data.problem_type: {self.problem_type} cannot be told by a label's likelihood; use "
                "SequenceClassification"
            )
        if self.objective == "masked":
            raise ConfigError(
                f"data: {type(self).__name__} has labels, and MaskedLM learns running text; use TextLines, or "
                "SequenceClassification"
            )
        if self.prompt is not None and self.objective is None:
            raise ConfigError("data.prompt: only a causal language model is asked by a prompt; leave it out")

    def _reader(self, raw: Mapping[str, datasets.Dataset]) -> TextReader:
        for split, rows in raw.items():
            check_columns(rows.column_names, [*self._text_columns.values(), self.label_column], self.sources[split])
        train, source = raw.get("train"), self.sources.get("train", "")
        self._labels = make_labels(
            self.problem_type, self.label_column, self.label_names, self.label_separator, train, source
        )
        self.label_names = self._labels.names
        return self._text_reader(self._cleaner)

    def _text_reader(self, cleaner: Cleaner) -> TextReader:
        return TextReader(self._text_columns, self._labels, cleaner, strict=self.strict)

    @property
    def _text_columns(self) -> dict[str, str]:
        columns = {"text": self.text_column, "text_pair": self.text_pair_column}
        return {name: column for name, column in columns.items() if column is not None}

    @property
    def class_counts(self) -> list[int] | None:
        """Training rows of each class, or that carry each label, in the order of ``label_names``; None for values."""
        train = self.read().get("train")
        return None if train is None else self._labels.counts(train["label"][:])

    @cached_property
    def label_prompts(self) -> LabelPrompts:
        """Puts texts to a causal language model."""
        self.read()
        prompt, tokenizer = self.prompt or self._default_prompt(), self.get_tokenizer()
        how = "a user's message in the chat template" if prompt.is_chat(tokenizer) else "plain text"
        log.info("prompt: each text is put as %s (data.prompt.chat)", how)
        return LabelPrompts(prompt, tokenizer, self.label_names or [], self.max_length)

    def _default_prompt(self) -> Prompt:
        names, pair = self.label_names or [], "\n{text_pair}" if self.text_pair_column else ""
        if self.get_tokenizer().chat_template is not None:
            system = f"{self.question} of the text? Answer with one of: {', '.join(names)}."
            return Prompt("{text}" + pair, system=system, label_words=names)
        return Prompt("{text}" + pair + f"\n{self.question}:", label_words=[f" {name}" for name in names])

    @property
    def prompt_record(self) -> dict[str, Any] | None:
        """How rows are put to a causal language model, for whoever asks it later; None with other models."""
        if self.objective is None:
            return None
        prompts = self.label_prompts
        chat = prompts.prompt.is_chat(self.get_tokenizer())
        # the template is saved with the tokenizer
        return {**prompts.prompt.settings(), "label_words": prompts.words, "chat": chat, "chat_template": None}

    @property
    def first_tokens_differ(self) -> bool | None:
        """Whether labels are told apart by their first tokens, in every row of every split; None with other models."""
        if self.objective is None:
            return None
        return all(first_tokens_differ(self._encode(split)) for split in self.read())

    def data_spec(self) -> DataSpec:
        """Return what a task has to know of the rows, labels among it."""
        return replace(
            super().data_spec(),
            problem_type=self.problem_type,
            label_names=self.label_names,
            class_counts=self.class_counts,
            text_columns=list(self._text_columns.values()),
            prompt=self.prompt_record,
            first_tokens_differ=self.first_tokens_differ,
        )

    def _encode(self, split: str) -> datasets.Dataset:
        if self.objective is None:
            tokenize = partial(encode, tokenizer=self.get_tokenizer(), max_length=self.max_length)
            encoded = self._map_once(split, tokenize, self.max_length)
        else:
            prompts = self.label_prompts
            ask = partial(prompts.encode_columns, source=self.sources[split])
            encoded = self._map_once(split, ask, prompts.prompt.settings(), prompts.words, self.max_length)
        self._note_lengths(split, encoded["tokens"][:])
        return encoded

    def _collator(self, split: str) -> Collator:
        tokenizer = self.get_tokenizer()
        return PadCollator(tokenizer) if self.objective is None else PromptCollator(tokenizer)
