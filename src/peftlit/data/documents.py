"""Running text for language models: documents, cut into blocks that fit the window."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import datasets
from transformers import PreTrainedTokenizerBase

from peftlit.batch import DataSpec, Objective
from peftlit.data.base import TokenDataModule
from peftlit.data.blocks import BlockEncoder, LongDocuments, pack
from peftlit.data.checks import check_columns
from peftlit.data.collate import Collator, TokenLabelCollator
from peftlit.data.masking import EpochRows, Masking, MaskingCollator
from peftlit.data.messages import Question
from peftlit.data.rows import TextReader
from peftlit.data.unlabelled import Unlabelled
from peftlit.errors import ConfigError, DataError

log = logging.getLogger(__name__)

_SHORTEST_BLOCK = 8
"""A window of fewer tokens would leave hardly anything to learn beside the special ones."""

_PROBE_CHARACTERS = 200


@dataclass(kw_only=True, eq=False, repr=False)
class DocumentDataModule(TokenDataModule):
    """Documents, for masked or causal language models. A data set of your own implements :meth:`load`.

    Each row is a document; checks, splits and duplicates are about documents. They are cut into blocks of
    ``max_length`` tokens, and no block holds tokens of two; the last one of a document may be shorter.

    Args:
        text_column: Column with the document.
        long: What becomes of documents longer than ``max_length``: ``split`` = all their blocks, ``cut`` = the first.
        packing: Put short blocks together into one row, without attention across documents (causal only).
        masking: How many tokens are hidden, and behind what (masked only); unset = 15 %, single tokens.
        mask_seed: Seed of the masks of validation and test, which are always the same. It is apart from the training
            seed, from which the masks of training are drawn anew in every epoch.
    """

    text_column: str = "text"
    long: LongDocuments = "split"
    packing: bool = False
    masking: Masking | None = None
    mask_seed: int = 42

    def __post_init__(self) -> None:
        """Check ranges; nothing is read yet."""
        super().__post_init__()
        if self.max_length < _SHORTEST_BLOCK:
            raise ConfigError(f"data.max_length: got {self.max_length}, needs {_SHORTEST_BLOCK} or more for blocks")

    @property
    def is_masked(self) -> bool:
        """Whether hidden tokens are to be found, rather than each from those before it."""
        return self.objective == "masked"

    @property
    def prompt_record(self) -> dict[str, Any] | None:
        """How texts are put to a causal language model, for whoever asks it later; None with other models."""
        return None if self.is_masked else {"chat": False}

    def data_spec(self) -> DataSpec:
        """Return what a task has to know of the documents, how texts are put to the model among it."""
        return replace(
            super().data_spec(), text_columns=[self.text_column], prompt=self.prompt_record, packing=self.packing
        )

    def _check_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if self.is_masked and self.packing:
            raise ConfigError("data.packing: a masked language model sees the whole row; leave packing out")
        if not self.is_masked and self.masking is not None:
            raise ConfigError("data.masking: a causal language model finds every token; leave masking out")
        if self.is_masked and tokenizer.mask_token is None:
            raise ConfigError(
                f"data.tokenizer: {self.tokenizer!r} has no mask token; use CausalLM, or another backbone"
            )
        if self.masking is not None and self.masking.whole_words and not tokenizer.is_fast:
            raise ConfigError(
                f"data.masking.whole_words: {type(tokenizer).__name__} does not tell words apart; set it to false"
            )

    def _reader(self, raw: Mapping[str, datasets.Dataset]) -> TextReader:
        for split, rows in raw.items():
            check_columns(rows.column_names, [self.text_column], self.sources[split])
        return TextReader({"text": self.text_column}, Unlabelled(), self._cleaner)

    def probe(self) -> list[Question]:
        """Return the beginnings of a few documents; of whole ones, logits over a vocabulary would take gigabytes."""
        return [text[:_PROBE_CHARACTERS].strip() or "Hello." for text in super().probe() if isinstance(text, str)]

    def _encode(self, split: str) -> datasets.Dataset:
        objective: Objective = "masked" if self.is_masked else "causal"
        encoder = BlockEncoder(self.get_tokenizer(), objective, self.max_length, self.long)
        blocks = self._map_once(split, encoder.encode, objective, self.max_length, self.long)
        if not len(blocks):
            raise DataError(f"{self.sources[split]}: its documents hold no tokens")
        if not self.is_masked and max(blocks["length"][:]) < 2:
            raise DataError(f"{self.sources[split]}: its documents hold one token each, and nothing follows to learn")
        what = "split into blocks of" if self.long == "split" else "cut to"
        self._note_lengths(split, [tokens for tokens in blocks["tokens"][:] if tokens], "documents", what)
        if not self.packing:
            return blocks
        packed = pack(blocks, self.max_length)
        log.info("%s: %s blocks packed into %s rows", split, f"{len(blocks):,}", f"{len(packed):,}")
        return packed

    def _dataset(self, split: str) -> Any:
        rows = self._encoded[split]
        return EpochRows(rows) if self.is_masked and split == "train" else rows

    def _collator(self, split: str) -> Collator:
        tokenizer = self.get_tokenizer()
        if not self.is_masked:
            return TokenLabelCollator(tokenizer)
        seed = self._training_seed if split == "train" else self.mask_seed
        return MaskingCollator(tokenizer, self.masking or Masking(), seed)
