"""Hide tokens for a masked language model to find (BERT: Devlin et al., NAACL 2019).

Letters: ``B`` blocks in the batch, ``T`` tokens.
"""

from __future__ import annotations

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
    """How many tokens are hidden, and behind what.

    Args:
        ratio: Share of a block's tokens to find; at least one.
        whole_words: Hide all pieces of a word or none.
        mask_share: Share of them that become the mask token.
        random_share: Share of them that become any token; the rest stays as it is.

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

    def choose(self, words: Tensor, generator: torch.Generator) -> Tensor:
        """Choose the tokens to find.

        Args:
            words: Number of the word that each token is a piece of, -1 for special tokens, (T,).
            generator: What chance is drawn from.

        Returns:
            True where a token is to be found, (T,).
        """
        free = (words >= 0).nonzero().squeeze(-1)
        wanted = max(1, round(self.ratio * len(free)))
        if not self.whole_words:
            chosen = free[torch.randperm(len(free), generator=generator)[:wanted]]
            return torch.zeros_like(words, dtype=torch.bool).index_fill_(0, chosen, value=True)
        names = words[free].unique()
        found = torch.zeros_like(words, dtype=torch.bool)
        for word in names[torch.randperm(len(names), generator=generator)].tolist():
            pieces = words == word
            if int(found.sum()) + int(pieces.sum()) <= wanted or not found.any():
                found |= pieces
        return found

    def hide(self, ids: Tensor, chosen: Tensor, mask: int, vocabulary: int, generator: torch.Generator) -> Tensor:
        """Put the mask token, or any token, where tokens are to be found.

        Args:
            ids: Token ids, (T,).
            chosen: What :meth:`choose` gave, (T,).
            mask: The mask token's id.
            vocabulary: Number of tokens to draw any from.
            generator: What chance is drawn from.
        """
        draw = torch.rand(len(ids), generator=generator)
        other = torch.randint(vocabulary, (len(ids),), generator=generator)
        hidden = torch.where(chosen & (draw < self.mask_share), mask, ids)
        random = (draw >= self.mask_share) & (draw < self.mask_share + self.random_share)
        return torch.where(chosen & random, other, hidden)


class MaskingCollator:
    """Hide tokens of blocks and pad them. What is hidden depends on seed, epoch and block alone, not on who asks when.

    Args:
        tokenizer: Knows the mask token, and pads.
        masking: How much is hidden.
        seed: Seed of the masks.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, masking: Masking, seed: int) -> None:
        self.tokenizer = tokenizer
        self.masking = masking
        self.seed = seed

    def __call__(self, columns: dict[str, list[Any]]) -> Batch:
        """Hide and pad.

        Args:
            columns: ``input_ids``, ``words``, ``row``, ``block`` and, where masks change with it, ``epoch``.

        Returns:
            Tokens (B, T); ``labels`` (B, T), the token where one is hidden; ``row`` (B,).
        """
        inputs, labels = [], []
        epochs = columns.get("epoch", ["evaluation"] * len(columns["row"]))
        for ids, words, *place in zip(
            columns["input_ids"], columns["words"], epochs, columns["row"], columns["block"], strict=True
        ):
            tokens, generator = torch.tensor(ids), _generator(self.seed, *place)
            chosen = self.masking.choose(torch.tensor(words), generator)
            mask = self.tokenizer.mask_token_id
            inputs.append(self.masking.hide(tokens, chosen, mask, len(self.tokenizer), generator).tolist())
            labels.append(torch.where(chosen, tokens, IGNORE_INDEX).tolist())
        batch = pad(self.tokenizer, {"input_ids": inputs}, labels)
        batch["row"] = torch.tensor(columns["row"])
        return batch


def _generator(*place: object) -> torch.Generator:
    digest = blake2b("/".join(map(str, place)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


class EpochRows(Dataset[dict[str, list[Any]]]):
    """Rows that know the epoch they are asked for in.

    Args:
        rows: The rows.
    """

    def __init__(self, rows: datasets.Dataset) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, numbers: RowNumbers) -> dict[str, list[Any]]:
        """Return the columns of some rows, with ``epoch``.

        Args:
            numbers: What the sampler gave.
        """
        return {**self.rows[numbers], "epoch": [numbers.epoch] * len(numbers)}
