"""Labelled texts as prompts with the tokens of every label, for causal language models.

Letters: ``B`` rows in the batch, ``T`` tokens after padding, ``C`` labels, ``L`` tokens of the longest label.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from peftlit.batch import IGNORE_INDEX, Batch
from peftlit.data.encode import map_once
from peftlit.data.prompt import Candidates, LabelPrompts, Text
from peftlit.data.table import column_values


def encode_prompted(
    rows: datasets.Dataset, prompts: LabelPrompts, key: str, num_proc: int, source: str, split: str
) -> datasets.Dataset:
    """Tokenize rows with every label, or take them from the cache, memory-mapped.

    Args:
        rows: Rows with ``row``, ``text``, ``label`` and, for pairs, ``text_pair``.
        prompts: Puts a text to the model.
        key: Names the rows, and all that the tokenizer's answers depend on.
        num_proc: Processes.
        source: Where the rows are from.
        split: What to call the rows while it lasts.

    Returns:
        ``input_ids`` (the prompt), ``label_ids`` (of each label), ``length``, ``tokens`` (before cutting), ``row`` and
        ``label``.
    """
    texts = [name for name in ("text", "text_pair") if name in rows.column_names]

    def tokenize(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        columns = [batch[name] for name in texts]
        asked: list[Text] = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
        found = prompts.encode(asked, source, batch["row"])
        return {
            "input_ids": [one.input_ids for one in found],
            "label_ids": [one.label_ids for one in found],
            "length": [len(one.input_ids) + max(map(len, one.label_ids)) for one in found],
            "tokens": [one.tokens for one in found],
        }

    whole_key = [key, prompts.prompt.settings(), prompts.words, prompts.max_length]
    return map_once(rows, tokenize, whole_key, num_proc=num_proc, desc=f"tokenizing {split}", remove=texts)


def first_tokens_differ(encoded: datasets.Dataset) -> bool:
    """Tell whether in every row the first tokens tell the labels apart.

    Args:
        encoded: What :func:`encode_prompted` returned.
    """
    rows = column_values(encoded, "label_ids", "")
    return all(len({ids[0] for ids in labels}) == len(labels) for labels in rows)


class PromptCollator:
    """Turn prompts with their labels' tokens into one padded batch.

    Args:
        tokenizer: Pads on its own side with its own token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    def __call__(self, columns: dict[str, list[Any]]) -> Batch:
        """Pad.

        Args:
            columns: ``input_ids``, ``label_ids``, ``row`` and ``label``.

        Returns:
            Prompts (B, T), ``label_ids`` (B, C, L), ``labels`` and ``row`` (B,), all int64.
        """
        batch = collate_prompts(self.tokenizer, columns["input_ids"], columns["label_ids"])
        batch["labels"] = torch.tensor(columns["label"])
        batch["row"] = torch.tensor(columns["row"])
        return batch


def collate_prompts(
    tokenizer: PreTrainedTokenizerBase, input_ids: list[list[int]], label_ids: list[list[list[int]]]
) -> Batch:
    """Pad prompts, and fill their labels' tokens up.

    Args:
        tokenizer: Pads on its own side with its own token.
        input_ids: Tokens of each prompt.
        label_ids: Tokens of each label of each row.

    Returns:
        Prompts (B, T) and ``label_ids`` (B, C, L), filled up with ``IGNORE_INDEX``.
    """
    batch: Batch = dict(  # type: ignore[assignment]
        tokenizer.pad({"input_ids": input_ids}, return_tensors="pt", return_attention_mask=True)
    )
    labels = [torch.tensor(ids) for row in label_ids for ids in row]
    filled = pad_sequence(labels, batch_first=True, padding_value=IGNORE_INDEX)
    batch["label_ids"] = filled.view(len(input_ids), -1, filled.shape[1])
    return batch


def ask(prompts: LabelPrompts, tokenizer: PreTrainedTokenizerBase, texts: list[Text], rows: Sequence[int]) -> Batch:
    """Make a batch of texts to be answered.

    Args:
        prompts: Puts a text to the model.
        tokenizer: The tokenizer.
        texts: The texts.
        rows: Their numbers.

    Returns:
        As :func:`collate_prompts`, with ``row`` (B,).
    """
    found: list[Candidates] = prompts.encode(texts, "predict", rows)
    batch = collate_prompts(tokenizer, [one.input_ids for one in found], [one.label_ids for one in found])
    batch["row"] = torch.tensor(rows)
    return batch
