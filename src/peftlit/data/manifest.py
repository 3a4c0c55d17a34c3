"""Write down which rows are in which split, so that two runs can be known to have seen the same data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any


def row_hash(text: str, label: str) -> str:
    """Name a row by its content: the first 64 bits of SHA-256, in hex.

    Args:
        text: The row's text; a pair joined.
        label: The row's label.
    """
    return sha256(f"{label}\x1f{text}".encode()).hexdigest()[:16]


def build_manifest(
    *,
    problem_type: str,
    label_names: Sequence[str],
    cut_from_train: Mapping[str, Any] | None,
    max_train_samples: int | None,
    cleaning: Mapping[str, int],
    removed_characters: Mapping[str, int],
    reports: Mapping[str, Mapping[str, Any]],
    row_hashes: Mapping[str, Sequence[str]],
    sources: Mapping[str, str],
    lengths: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """Put the description of a data set's splits together.

    Args:
        problem_type: What the labels are.
        label_names: The labels' names in the order of their ids.
        cut_from_train: Shares and seed of a stratified cut, None where the set brought its splits.
        max_train_samples: How many training rows were kept, None where all were.
        cleaning: How many texts each cleaning step changed.
        removed_characters: By how many characters it shortened them.
        reports: What was counted in each split.
        row_hashes: The hash of each row of each split, in order.
        sources: Where each split is from; the same rows in another folder are the same data.
        lengths: Token statistics of each split that is tokenized; they depend on the tokenizer, the splits do not.

    Returns:
        The manifest; ``sha256`` names all of it but the sources, the characters removed and
        the lengths.
    """
    content = {
        "problem_type": problem_type,
        "label_names": list(label_names),
        "cut_from_train": cut_from_train,
        "max_train_samples": max_train_samples,
        "cleaning": dict(cleaning),
        "splits": {
            split: {
                **report,
                "sha256": sha256("\n".join(sorted(row_hashes[split])).encode()).hexdigest(),
                "row_hashes": list(row_hashes[split]),
            }
            for split, report in reports.items()
        },
    }
    digest = sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    described = {"sources": dict(sources), "removed_characters": dict(removed_characters), "lengths": dict(lengths)}
    return {"sha256": digest, **described, **content}
