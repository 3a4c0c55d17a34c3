"""Split documents into blocks of tokens that fit the window, and pack short blocks into one row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Literal

import datasets
from transformers import PreTrainedTokenizerBase

from peftlit.batch import IGNORE_INDEX, Objective
from peftlit.data.encode import Columns
from peftlit.data.table import make_rows

LongDocuments = Literal["split", "cut"]
"""What becomes of a document that is longer than the window: several blocks, or only the first."""


class BlockEncoder:
    """Split documents into blocks of at most ``max_length`` tokens; no block spans two documents.

    Causal: a document ends with the end token, and a block begins with the last token of the block before it, so that
    every token but a document's first is predicted exactly once. Masked: every block has the special tokens that the
    tokenizer adds to a text.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, objective: Objective, max_length: int, long: LongDocuments
    ) -> None:
        self.tokenizer = tokenizer
        self.objective = objective
        self.max_length = max_length
        self.long = long
        self.prefix, self.suffix = special_tokens(tokenizer)
        if objective == "causal" and tokenizer.eos_token_id is not None:
            self.suffix = [t for t in self.suffix if t != tokenizer.eos_token_id] + [tokenizer.eos_token_id]

    def encode(self, documents: Columns) -> Columns:
        """Tokenize and split documents, given as the columns ``row`` and ``text``.

        Returns:
            A row per block: ``input_ids``; ``labels`` (causal) or ``word_ids`` (masked: the index of each token's
            word, -1 for special tokens); ``length``, ``row``, ``block`` (its index in the document) and ``tokens``
            (of the whole document, in its first block; else 0).
        """
        texts = documents["text"]
        encoded = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
        is_causal = self.objective == "causal"
        names = ["input_ids", "labels" if is_causal else "word_ids", "length", "row", "block", "tokens"]
        columns: Columns = {name: [] for name in names}
        for i, (row, ids) in enumerate(zip(documents["row"], encoded["input_ids"], strict=True)):
            if not ids:
                continue  # an empty text, already counted and reported
            words = encoded.word_ids(i) if encoded.is_fast else range(len(ids))
            blocks = self._causal(ids) if is_causal else self._masked(ids, words)
            total = len(self.prefix) + len(ids) + len(self.suffix)
            for number, (block, aligned) in enumerate(islice(blocks, 1 if self.long == "cut" else None)):
                values = [block, aligned, len(block), row, number, 0 if number else total]
                for name, value in zip(names, values, strict=True):
                    columns[name].append(value)
        return columns

    def _causal(self, ids: list[int]) -> Iterator[tuple[list[int], list[int]]]:
        whole = [*self.prefix, *ids, *self.suffix]
        for start in range(0, max(1, len(whole) - 1), self.max_length - 1):
            block = whole[start : start + self.max_length]
            yield block, [IGNORE_INDEX, *block[1:]]

    def _masked(self, ids: list[int], words: Sequence[int | None]) -> Iterator[tuple[list[int], list[int]]]:
        room = self.max_length - len(self.prefix) - len(self.suffix)
        for start in range(0, len(ids), room):
            inside = [i if word is None else word for i, word in enumerate(words[start : start + room])]
            block = [*self.prefix, *ids[start : start + room], *self.suffix]
            yield block, [*[-1] * len(self.prefix), *inside, *[-1] * len(self.suffix)]


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Return the special tokens that a tokenizer adds before a text, and after it."""
    bare: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole: list[int] = tokenizer("a")["input_ids"]
    start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return whole[:start], whole[start + len(bare) :]


def pack(blocks: datasets.Dataset, max_length: int) -> datasets.Dataset:
    """Pack short blocks into rows of at most ``max_length`` tokens by best fit decreasing.

    Positions start at 0 in each block: without an attention mask, transformers takes that as sequences that do not
    attend to one another.

    Returns:
        ``input_ids``, ``labels``, ``position_ids``, ``length``, ``row`` (the first block's) and ``rows`` (all blocks').
    """
    lengths: list[int] = blocks["length"][:]
    bins = best_fit(lengths, max_length)
    ids, labels, rows = blocks["input_ids"][:], blocks["labels"][:], blocks["row"][:]
    return make_rows(
        {
            "input_ids": [[token for i in packed for token in ids[i]] for packed in bins],
            "labels": [[label for i in packed for label in labels[i]] for packed in bins],
            "position_ids": [[position for i in packed for position in range(lengths[i])] for packed in bins],
            "length": [sum(lengths[i] for i in packed) for packed in bins],
            "row": [rows[packed[0]] for packed in bins],
            "rows": [[rows[i] for i in packed] for packed in bins],
        }
    )


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Return which items go into which bin: the longest first, each into the bin that it fills best."""
    bins: list[list[int]] = []
    with_room: dict[int, list[int]] = {}  # bins by the room they have left
    for item in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        room = min((room for room, those in with_room.items() if room >= lengths[item] and those), default=None)
        if room is None:
            bins.append([])
            chosen, left = len(bins) - 1, capacity
        else:
            chosen, left = with_room[room].pop(0), room
        bins[chosen].append(item)
        with_room.setdefault(left - lengths[item], []).append(chosen)
    return bins
