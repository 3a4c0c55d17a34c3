"""Mask tokens for a masked language model to predict (BERT: Devlin et al., NAACL 2019).

transformers' collators draw masks from one stream of random numbers; these depend on seed, epoch and block alone.
Letters: ``B`` blocks in the batch, ``T`` tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import datasets
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from peftlit.batch import IGNORE_INDEX, Batch
from peftlit.data.collate import pad
from peftlit.data.sampler import RowNumbers
from peftlit.errors import ConfigError


class Masking:
    """How many tokens are selected for prediction, and what replaces them.

    Args:
        ratio: Share of a block's tokens to predict; at least one token.
        whole_words: Select all pieces of a word or none.
        mask_share: Share of the selected tokens that become the mask token.
        random_share: Share of the selected tokens that become a random token; the rest stays as it is.

    Raises:
        ConfigError: A share is out of range.
    """

    def __init__(
        self, ratio: float = 0.15, *, whole_words: bool = False, mask_share: float = 0.8, random_share: float = 0.1
    ) -> None:
        if not 0 < ratio < 1:
            raise ConfigError(f"data.masking.ratio: got {ratio}, needs a share over 0 and below 1")
        if min(mask_share, random_share) < 0 or mask_share + random_share > 1:
            raise ConfigError(
                f"data.masking: mask_share {mask_share} and random_share {random_share} need to be shares of 1"
            )
        self.ratio = ratio
        self.whole_words = whole_words
        self.mask_share = mask_share
        self.random_share = random_share

    def select(self, word_ids: Tensor, generator: torch.Generator) -> Tensor:
        """Return which tokens to predict, (T,) bool, by each token's word, (T,), -1 for special tokens."""
        candidates = (word_ids >= 0).nonzero().squeeze(-1)
        wanted = max(1, round(self.ratio * len(candidates)))
        selected = torch.zeros_like(word_ids, dtype=torch.bool)
        if not self.whole_words:
            selected[candidates[torch.randperm(len(candidates), generator=generator)[:wanted]]] = True
            return selected
        words = word_ids[candidates].unique()
        for word in words[torch.randperm(len(words), generator=generator)].tolist():
            pieces = word_ids == word
            if int(selected.sum()) + int(pieces.sum()) <= wanted or not selected.any():
                selected |= pieces
        return selected

    def mask_tokens(
        self, ids: Tensor, selected: Tensor, mask_token_id: int, vocab_size: int, generator: torch.Generator
    ) -> Tensor:
        """Replace the selected tokens by the mask token or a random one; ``ids`` and ``selected`` are (T,)."""
        draw = torch.rand(len(ids), generator=generator)
        other = torch.randint(vocab_size, (len(ids),), generator=generator)
        masked = torch.where(selected & (draw < self.mask_share), mask_token_id, ids)
        random = (draw >= self.mask_share) & (draw < self.mask_share + self.random_share)
        return torch.where(selected & random, other, masked)


@dataclass
class MaskingCollator:
    """Mask tokens of blocks, and pad them. Masks depend on seed, epoch, row and block alone, not on the batch."""

    tokenizer: PreTrainedTokenizerBase
    masking: Masking
    seed: int

    def __call__(self, columns: dict[str, list[Any]]) -> Batch:
        """Return tokens (B, T), ``labels`` (B, T) where tokens are selected, and ``row`` (B,).

        Args:
            columns: ``input_ids``, ``word_ids``, ``row``, ``block`` and, where masks change with it, ``epoch``.
        """
        inputs, labels = [], []
        epochs = columns.get("epoch", ["evaluation"] * len(columns["row"]))
        for ids, word_ids, *place in zip(
            columns["input_ids"], columns["word_ids"], epochs, columns["row"], columns["block"], strict=True
        ):
            tokens, generator = torch.tensor(ids), _generator(self.seed, *place)
            selected = self.masking.select(torch.tensor(word_ids), generator)
            mask, vocab_size = self.tokenizer.mask_token_id, len(self.tokenizer)
            inputs.append(self.masking.mask_tokens(tokens, selected, mask, vocab_size, generator).tolist())
            labels.append(torch.where(selected, tokens, IGNORE_INDEX).tolist())
        batch = pad(self.tokenizer, inputs, labels)
        batch["row"] = torch.tensor(columns["row"])
        return batch


def _generator(*place: object) -> torch.Generator:
    digest = blake2b("/".join(map(str, place)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


class EpochRows(Dataset[dict[str, list[Any]]]):
    """Training rows that get the sampler's epoch as a column, so that masks change with it."""

    def __init__(self, rows: datasets.Dataset) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, numbers: RowNumbers) -> dict[str, list[Any]]:
        """Return the columns of some rows, with ``epoch``."""
        return {**self.rows[numbers], "epoch": [numbers.epoch] * len(numbers)}
