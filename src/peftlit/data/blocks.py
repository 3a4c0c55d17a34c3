"""Cut documents into blocks of tokens that fit the window, and pack short ones into one row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import datasets
from transformers import PreTrainedTokenizerBase

from peftlit.batch import IGNORE_INDEX, Objective
from peftlit.data.encode import map_once
from peftlit.data.table import make_rows

Long = Literal["split", "cut"]
"""What becomes of a document that is longer than the window: several blocks, or the first one alone."""


class BlockEncoder:
    """Cut documents into blocks that never span two of them.

    Causal: a document is followed by its end token, and a block begins with the last token of the one before it, so
    that every token but a document's first is predicted exactly once. Masked: every block stands between the special
    tokens that the tokenizer puts around a text.

    Args:
        tokenizer: The tokenizer.
        objective: What the blocks are for.
        max_length: Tokens of a block at most.
        long: What becomes of documents with more.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, objective: Objective, max_length: int, long: Long) -> None:
        self.tokenizer = tokenizer
        self.objective = objective
        self.max_length = max_length
        self.long = long
        self.front, self.back = special_tokens(tokenizer)
        if objective == "causal" and tokenizer.eos_token_id is not None:
            self.back = [t for t in self.back if t != tokenizer.eos_token_id] + [tokenizer.eos_token_id]

    def encode(self, rows: datasets.Dataset, key: str, num_proc: int, split: str) -> datasets.Dataset:
        """Tokenize and cut documents, or take their blocks from the cache, memory-mapped.

        Args:
            rows: Documents: ``row`` and ``text``.
            key: Names the rows, and all that the tokenizer's answers depend on.
            num_proc: Processes.
            split: What to call the rows while it lasts.

        Returns:
            A row per block: ``input_ids``; ``labels`` (causal) or ``words`` (masked: the number of the word that each
            token is a piece of, -1 for special tokens); ``length``, ``row``, ``block`` (its number in the document)
            and ``tokens`` (of the whole document, in its first block; else 0).
        """
        whole_key = [key, self.objective, self.max_length, self.long, self.back]
        return map_once(
            rows, self._encode, whole_key, num_proc=num_proc, desc=f"tokenizing {split}", remove=rows.column_names
        )

    def _encode(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        encoded = self.tokenizer(batch["text"], add_special_tokens=False, return_attention_mask=False, verbose=False)
        pieces = "labels" if self.objective == "causal" else "words"
        columns: dict[str, list[Any]] = {name: [] for name in ("input_ids", pieces, "length", "row", "block", "tokens")}
        for i, (row, ids) in enumerate(zip(batch["row"], encoded["input_ids"], strict=True)):
            if not ids:
                continue  # an empty text, counted when the rows were checked
            words = encoded.word_ids(i) if encoded.is_fast else range(len(ids))
            blocks = self._causal(ids) if self.objective == "causal" else self._masked(ids, words)
            for number, (block, beside) in enumerate(blocks):
                if number and self.long == "cut":
                    break
                columns["input_ids"].append(block)
                columns[pieces].append(beside)
                columns["length"].append(len(block))
                columns["row"].append(row)
                columns["block"].append(number)
                columns["tokens"].append(0 if number else len(self.front) + len(ids) + len(self.back))
        return columns

    def _causal(self, ids: list[int]) -> Iterator[tuple[list[int], list[int]]]:
        whole = [*self.front, *ids, *self.back]
        for start in range(0, max(1, len(whole) - 1), self.max_length - 1):
            block = whole[start : start + self.max_length]
            yield block, [IGNORE_INDEX, *block[1:]]

    def _masked(self, ids: list[int], words: Sequence[int | None]) -> Iterator[tuple[list[int], list[int]]]:
        room = self.max_length - len(self.front) - len(self.back)
        for start in range(0, len(ids), room):
            inside = [i if word is None else word for i, word in enumerate(words[start : start + room])]
            numbers = [*[-1] * len(self.front), *inside, *[-1] * len(self.back)]
            yield [*self.front, *ids[start : start + room], *self.back], numbers


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Return the special tokens that a tokenizer puts before a text, and behind it.

    Args:
        tokenizer: The tokenizer.
    """
    bare: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole: list[int] = tokenizer("a")["input_ids"]
    start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return whole[:start], whole[start + len(bare) :]


def pack(blocks: datasets.Dataset, max_length: int) -> datasets.Dataset:
    """Put short blocks together into rows: the longest first, each into the row that it fills best.

    Positions start anew with each block. transformers reads that, where no attention mask is given, as sequences that
    do not see one another.

    Args:
        blocks: Rows with ``input_ids``, ``labels`` and ``row``.
        max_length: Tokens of a row at most.

    Returns:
        ``input_ids``, ``labels``, ``position_ids``, ``length``, ``row``, that of the first block, and ``rows``, those
        of all of them.
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
    """Deal items to bins by best fit decreasing.

    Args:
        lengths: How much room each item takes, none over ``capacity``.
        capacity: The room of a bin.

    Returns:
        The items of each bin.
    """
    bins: list[list[int]] = []
    with_room: dict[int, list[int]] = {}  # open bins by the room they have left
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
