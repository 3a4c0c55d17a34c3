"""Texts to classify as prompts, with the tokens of every label that may follow, for causal language models."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import NamedTuple

import datasets
from transformers import PreTrainedTokenizerBase

from peftlit.batch import Batch
from peftlit.data.chat import Renderer, common_length
from peftlit.data.collate import PromptCollator
from peftlit.data.encode import Columns
from peftlit.data.prompt import Prompt, Text
from peftlit.data.table import column_values
from peftlit.errors import ConfigError, DataError


class EncodedPrompt(NamedTuple):
    """One prompt with all its labels as tokens.

    Attributes:
        input_ids: The common prefix of the prompt with each of its labels.
        label_ids: The rest, for each label.
        tokens: Length of the prompt with its longest label before the text was cut.
    """

    input_ids: list[int]
    label_ids: list[list[int]]
    tokens: int


class LabelPrompts:
    """Encode texts as prompts that a label completes.

    Args:
        prompt: The question.
        tokenizer: The tokenizer.
        label_names: The labels' names in the order of their ids.
        max_length: Tokens of a prompt with its longest label at most; longer texts are cut.

    Attributes:
        words: The answer for each label.

    Raises:
        ConfigError: The words do not fit the labels, or a chat template is missing or not valid.
    """

    def __init__(
        self, prompt: Prompt, tokenizer: PreTrainedTokenizerBase, label_names: Sequence[str], max_length: int
    ) -> None:
        self.prompt = prompt
        self.label_names = list(label_names)
        self.words = prompt.words(label_names)
        self.max_length = max_length
        self._is_chat = prompt.is_chat(tokenizer)
        self._renderer = Renderer(tokenizer, chat_template=prompt.chat_template)
        self._prefix = [] if self._is_chat else self._renderer.prefix
        self._checked: set[tuple[tuple[int, ...], ...]] = set()

    def encode(self, texts: Sequence[Text], source: str, rows: Sequence[int]) -> list[EncodedPrompt]:
        """Return the tokens of every prompt with every label, tokenized together.

        A text that is too long is cut at its right end; of a pair, the longer one first. ``rows`` are the texts'
        numbers in ``source``.

        Raises:
            ConfigError: Two labels cannot be told apart, or the template alone is longer than ``max_length``.
            DataError: A row lacks a text that the template needs, or no token stands before its label.
        """
        texts = list(texts)
        for text, row in zip(texts, rows, strict=True):
            if self.prompt.takes_pairs and isinstance(text, str):
                raise DataError(
                    f"{source}, row {row}: has one text, and data.prompt.template asks for {{text_pair}}; leave it out"
                )
            if not self.prompt.takes_pairs and not isinstance(text, str):
                raise DataError(f"{source}, row {row}: has two texts; name {{text_pair}} in data.prompt.template")
        encoded = self._candidates(texts, source, rows)
        tokens = [one.tokens for one in encoded]
        while too_long := [i for i, one in enumerate(encoded) if one.tokens > self.max_length]:
            for i in too_long:
                texts[i] = self._shortened(texts[i], encoded[i].tokens)
            again = self._candidates([texts[i] for i in too_long], source, [rows[i] for i in too_long])
            for i, one in zip(too_long, again, strict=True):
                encoded[i] = one
        return [one._replace(tokens=before) for one, before in zip(encoded, tokens, strict=True)]

    def encode_columns(self, columns: Columns, source: str) -> Columns:
        """Encode the columns ``row``, ``text``, ``label`` and, for pairs, ``text_pair``.

        Returns:
            ``input_ids``, ``label_ids``, ``length``, ``tokens`` (before cutting), ``row`` and ``label``.
        """
        texts: list[Text] = columns["text"]
        if "text_pair" in columns:
            texts = list(zip(columns["text"], columns["text_pair"], strict=True))
        encoded = self.encode(texts, source, columns["row"])
        return {
            **_columns(encoded),
            "length": [len(one.input_ids) + max(map(len, one.label_ids)) for one in encoded],
            "tokens": [one.tokens for one in encoded],
            "row": columns["row"],
            "label": columns["label"],
        }

    def batch(self, texts: Sequence[Text], rows: Sequence[int]) -> Batch:
        """Return texts to classify as one padded batch, without ``labels``."""
        encoded = self.encode(texts, "predict", rows)
        columns: Columns = {**_columns(encoded), "row": list(rows)}
        return PromptCollator(self._renderer.tokenizer)(columns)

    def _candidates(self, texts: Sequence[Text], source: str, rows: Sequence[int]) -> list[EncodedPrompt]:
        prompts = [self._text(text, source, row) for text, row in zip(texts, rows, strict=True)]
        continuations = ("", *self.words)
        tokens = iter(self._renderer.tokenize([prompt + word for prompt in prompts for word in continuations]))
        encoded = []
        for row in rows:
            alone, *completed = ([*self._prefix, *next(tokens)] for _ in continuations)
            length = min(common_length(alone, ids) for ids in completed)
            if length == 0:
                raise DataError(
                    f"{source}, row {row}: no token stands before the answer; write something in front of {{text}} in "
                    "data.prompt.template"
                )
            label_ids = [ids[length:] for ids in completed]
            self._check_labels(label_ids)
            encoded.append(EncodedPrompt(alone[:length], label_ids, length + max(map(len, label_ids))))
        return encoded

    def _text(self, text: Text, source: str, row: int) -> str:
        if not self._is_chat:
            return self.prompt.fill(text)
        return self._renderer.render(self.prompt.messages(text), source, row, add_generation_prompt=True)

    def _check_labels(self, label_ids: list[list[int]]) -> None:
        key = tuple(map(tuple, label_ids))
        if key in self._checked:  # most rows have the same
            return
        labels = [
            (f"{word!r} (label {name})", ids)
            for word, name, ids in zip(self.words, self.label_names, label_ids, strict=True)
        ]
        for label, ids in labels:
            if not ids:
                raise ConfigError(
                    f"data.prompt.label_words: {label} adds no token to the question; give it another word"
                )
        for (label, ids), (other, others) in permutations(labels, 2):
            if others[: len(ids)] == ids:
                raise ConfigError(
                    f"data.prompt.label_words: the tokens of {label} begin those of {other}, so the two cannot be told "
                    "apart; give one another word"
                )
        self._checked.add(key)

    def _shortened(self, text: Text, tokens: int) -> Text:
        """Return a text without as many tokens at its right end as its prompt of ``tokens`` has too many."""
        parts = [text] if isinstance(text, str) else list(text)
        if not any(parts):
            raise ConfigError(
                f"data.prompt.template: the template alone takes {tokens} tokens of a window of {self.max_length}; "
                "shorten it or raise data.max_length"
            )
        ids = self._renderer.tokenize(parts)
        lengths = [len(one) for one in ids]
        kept = max(sum(lengths) - (tokens - self.max_length), 0)
        most = max(kept - min(lengths), kept // 2) if len(parts) == 2 else kept
        cut = [self._cut(part, one, most) for part, one in zip(parts, ids, strict=True)]
        if cut == parts:  # what is over is no token of its own
            cut = [""] * len(parts)
        return cut[0] if isinstance(text, str) else (cut[0], cut[1])

    def _cut(self, text: str, ids: list[int], most: int) -> str:
        """Return a text without its tokens after the first ``most``, and without white space at its new end."""
        if len(ids) <= most:
            return text
        # a cut inside a character's bytes decodes to replacement characters; the next boundary is at most 3 tokens on
        ends = [self._renderer.tokenizer.decode(ids[start:]) for start in range(most, most + 4)]
        end = next((end for end in ends if "\ufffd" not in end), ends[0])
        return text[: max(len(text) - max(len(end), 1), 0)].rstrip() if most else ""


def _columns(encoded: Sequence[EncodedPrompt]) -> Columns:
    return {"input_ids": [one.input_ids for one in encoded], "label_ids": [one.label_ids for one in encoded]}


def first_tokens_differ(encoded: datasets.Dataset) -> bool:
    """Say whether the labels' first tokens differ in every row that :meth:`LabelPrompts.encode_columns` returned."""
    rows = column_values(encoded, "label_ids", "")
    return all(len({ids[0] for ids in labels}) == len(labels) for labels in rows)
