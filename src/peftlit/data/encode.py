"""Tokenize rows once; whoever asks again, in this process or another, finds them in the cache of ``datasets``."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import datasets
from transformers import PreTrainedTokenizerBase

_HASHED = 1000
"""Rows that are hashed at once; other numbers of them would give other names."""


def tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return all that a tokenizer's answers depend on, as text.

    Args:
        tokenizer: The tokenizer, before its first use.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state = backend.to_str() if backend is not None else repr(tokenizer)
    # which token ends a text, and how a conversation is spelt, the backend does not know
    own = [tokenizer.special_tokens_map, tokenizer.chat_template, tokenizer.model_input_names]
    return f"{state}{tokenizer.truncation_side}{own}"


def encode(
    rows: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    state: str,
    max_length: int,
    num_proc: int,
    split: str,
) -> datasets.Dataset:
    """Tokenize rows, or take them from the cache, memory-mapped.

    Args:
        rows: Rows with ``row``, ``text``, ``label`` and, for pairs, ``text_pair``.
        tokenizer: The tokenizer.
        state: What :func:`tokenizer_state` gave.
        max_length: Tokens per row at most.
        num_proc: Processes.
        split: What to call the rows while it lasts.

    Returns:
        The token columns, ``length`` in tokens, ``tokens`` (their number before cutting), ``row`` and ``label``.
    """
    texts = [name for name in ("text", "text_pair") if name in rows.column_names]

    def tokenize(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        columns = [batch[name] for name in texts]
        encoded = dict(tokenizer(*columns, verbose=False))
        tokens = [len(ids) for ids in encoded["input_ids"]]
        too_long = [i for i, length in enumerate(tokens) if length > max_length]
        if too_long:
            again = [[column[i] for i in too_long] for column in columns]
            for name, values in tokenizer(*again, truncation=True, max_length=max_length).items():
                for i, value in zip(too_long, values, strict=True):
                    encoded[name][i] = value
        return {**encoded, "length": [len(ids) for ids in encoded["input_ids"]], "tokens": tokens}

    key = [state, max_length, "length", "tokens"]
    return map_once(rows, tokenize, key, num_proc=num_proc, desc=f"tokenizing {split}", remove=texts)


def map_once(
    rows: datasets.Dataset,
    function: Callable[[dict[str, list[Any]]], dict[str, list[Any]]],
    key: list[Any],
    *,
    num_proc: int,
    desc: str,
    remove: list[str],
) -> datasets.Dataset:
    """Make rows of rows, once: whoever gives the same key again gets what was made.

    Args:
        rows: The rows.
        function: From columns to columns.
        key: All that the result depends on beside the rows, as JSON; with them it names the cache file.
        num_proc: Processes.
        desc: What to call the work while it lasts.
        remove: Columns to leave out.
    """
    digest = sha256(json.dumps(key).encode())
    for batch in rows.iter(_HASHED):
        digest.update(json.dumps(batch).encode())
    name = digest.hexdigest()
    folder = Path(datasets.config.HF_DATASETS_CACHE, "peftlit")
    folder.mkdir(parents=True, exist_ok=True)
    return rows.map(
        function,
        batched=True,
        num_proc=num_proc if num_proc > 1 else None,
        remove_columns=remove,
        cache_file_name=str(folder / f"{name}.arrow"),
        new_fingerprint=name[:32],
        desc=desc,
    )
