"""Tokenize rows once; whoever asks again, in this process or another, finds them in the cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import datasets
from transformers import PreTrainedTokenizerBase

from peftlit.data.cache import cache_file, clean_cache

Columns = dict[str, list[Any]]
"""Columns of some rows by name."""


def tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return all that the answers of a tokenizer depend on, as text, before its first use."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state = backend.to_str() if backend is not None else repr(tokenizer)
    # which token ends a text, and how a conversation is spelt, the backend does not know
    own = [tokenizer.special_tokens_map, tokenizer.chat_template, tokenizer.model_input_names]
    return f"{state}{tokenizer.truncation_side}{own}"


def encode(columns: Columns, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Columns:
    """Tokenize ``text`` and, for pairs, ``text_pair``, and cut them to ``max_length`` tokens.

    Returns:
        The token columns, ``length`` in tokens, ``tokens`` (their number before cutting), ``row`` and ``label``.
    """
    texts = [columns[name] for name in ("text", "text_pair") if name in columns]
    encoded = dict(tokenizer(*texts, verbose=False))
    tokens = [len(ids) for ids in encoded["input_ids"]]
    too_long = [i for i, length in enumerate(tokens) if length > max_length]
    if too_long:
        again = [[column[i] for i in too_long] for column in texts]
        for name, values in tokenizer(*again, truncation=True, max_length=max_length).items():
            for i, value in zip(too_long, values, strict=True):
                encoded[name][i] = value
    lengths = [len(ids) for ids in encoded["input_ids"]]
    return {**encoded, "length": lengths, "tokens": tokens, "row": columns["row"], "label": columns["label"]}


def map_once(
    rows: datasets.Dataset,
    function: Callable[[Columns], Columns],
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
        key: All that the result depends on, as JSON; the versions of the code are added.
        num_proc: Processes.
        desc: The progress bar's text.
        remove: Columns to leave out.
    """
    file = cache_file(["tokens", *key])
    is_new = not any(file.parent.iterdir())
    mapped = rows.map(
        function,
        batched=True,
        num_proc=num_proc if num_proc > 1 else None,
        remove_columns=remove,
        cache_file_name=str(file),
        new_fingerprint=file.parent.name[:32],
        desc=desc,
    )
    if is_new:
        clean_cache()
    return mapped
