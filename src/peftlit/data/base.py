"""The data module that all data sets share: rows, tokens, batches."""

from __future__ import annotations

import json
import logging
import os
import warnings
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

import datasets
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from peftlit.batch import DataSpec, Objective
from peftlit.data import lengths
from peftlit.data.collate import Collator
from peftlit.data.encode import tokenizer_state
from peftlit.data.rows import Rows
from peftlit.data.sampler import LengthGroupedSampler
from peftlit.data.tokenizer import load_tokenizer
from peftlit.errors import ConfigError

log = logging.getLogger(__name__)

_PROBE_ROWS = 8
_PROBE = ("A short sentence.", "And another one, a little longer than the first.")


@dataclass(kw_only=True, eq=False, repr=False)
class TokenDataModule(Rows, LightningDataModule):
    """Rows that become tokens, and batches of them. Subclasses say how a row is tokenized.

    Args:
        tokenizer: Hub id or folder of the tokenizer; unset = the backbone's.
        tokenizer_revision: Branch, tag or commit of the tokenizer; unset = the backbone's.
        trust_remote_code: Run Python code that comes with the tokenizer.
        max_length: Tokens per row at most; longer rows are cut.
        batch_size: Rows per batch and device.
        eval_batch_size: Rows per batch in validation and test; unset = twice ``batch_size``.
        tokens_per_batch: Padded tokens per training batch at most; ``batch_size`` is then the upper bound of rows.
        group_by_length: Batch rows of similar length together (less padding); False = plain shuffling.
        padding_side: Side to pad on; unset = the tokenizer's own.
        objective: What a language model learns of the rows, ``causal`` or ``masked``; linked from the model.
        seed: Seed of the training order; unset = ``seed_everything``.
        num_workers: Processes that load batches, per loader; 0 = in the main process.
        num_proc: Processes that tokenize. Tokenizers use all cores by themselves, so 1 is seldom slower.
    """

    tokenizer: str | None = None
    tokenizer_revision: str | None = None
    trust_remote_code: bool = False
    max_length: int = 128
    batch_size: int = 16
    eval_batch_size: int | None = None
    tokens_per_batch: int | None = None
    group_by_length: bool = True
    padding_side: Literal["left", "right"] | None = None
    objective: Objective | None = None
    seed: int | None = None
    num_workers: int = 0
    num_proc: int = 1

    def __post_init__(self) -> None:
        """Check ranges; nothing is read yet."""
        LightningDataModule.__init__(self)
        super().__post_init__()
        for name in ("max_length", "batch_size", "num_proc", "eval_batch_size", "tokens_per_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"data.{name}: got {value}, needs 1 or more")
        self._encoded: dict[str, datasets.Dataset] = {}
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._tokenizer_state = ""
        self._resume_at = (0, 0)
        self._rows_scored: dict[str, int] = {}

    def get_tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the tokenizer, loaded once.

        Raises:
            ConfigError: No tokenizer is named.
        """
        if self._tokenizer is None:
            if self.tokenizer is None:
                raise ConfigError("data.tokenizer: the backbone has random weights and no tokenizer; name one")
            self._tokenizer = load_tokenizer(
                self.tokenizer,
                revision=self.tokenizer_revision,
                trust_remote_code=self.trust_remote_code,
                padding_side=self.padding_side,
                max_length=self.max_length,
            )
            # taken before first use: a tokenizer stores the truncation of its last call in itself
            self._tokenizer_state = tokenizer_state(self._tokenizer)
        return self._tokenizer

    @property
    def tokenizer_sha256(self) -> str:
        """A name of what makes tokens of the rows: two that differ may give other tokens."""
        self.get_tokenizer()
        return sha256(self._tokenizer_state.encode()).hexdigest()

    def _cache_key(self, split: str) -> str:
        """Name a split's rows with their numbers and labels, and the tokenizer: what its tokens depend on."""
        rows, labels = self.read()[split], self._labels
        named = [rows["row"][:], self._row_hashes[split], labels.problem_type, labels.names, self.tokenizer_sha256]
        return sha256(json.dumps(named).encode()).hexdigest()

    def rows_scored(self, split: str) -> int:
        """Return how many rows of a split the Trainer scores: all, or as many as its limit leaves.

        Args:
            split: ``validation`` or ``test``.
        """
        return self._rows_scored.get(split, self.reports[split].rows)

    def data_spec(self) -> DataSpec:
        """Return what a task has to know of the rows, once they are read."""
        self.read()
        tokenizer, train = self.get_tokenizer(), self.reports.get("train")
        return DataSpec(
            tokenizer_size=len(tokenizer),
            pad_token_id=int(tokenizer.pad_token_id),
            padding_side="left" if tokenizer.padding_side == "left" else "right",
            max_length=self.max_length,
            num_rows=train.rows if train else None,
            cleaning_steps=self._cleaner.steps,
        )

    def prepare_data(self) -> None:
        """Read, check and tokenize once per machine; other processes find the rows in the cache."""
        for split in self.read():
            self._encode(split)

    def setup(self, stage: str) -> None:
        """Map the tokenized rows of the splits that a stage needs into memory.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``.

        Raises:
            ConfigError: A split has fewer rows than there are processes.
        """
        needed = {"fit": ("train", "validation"), "validate": ("validation",)}.get(stage, ("test",))
        for split in needed:
            if split in self.read():
                self._encoded[split] = self._encode(split)
                self._check_shares(split)

    def _check_shares(self, split: str) -> None:
        rows, processes = len(self._encoded[split]), self._place[1]
        if 0 < rows < processes:
            raise ConfigError(
                f"trainer.devices: {processes} processes cannot share the {rows} rows of {split}; set {rows} or fewer"
            )

    @abstractmethod
    def _encode(self, split: str) -> datasets.Dataset:
        """Tokenize a split, or take it from the cache.

        Args:
            split: The split.

        Returns:
            What the collator takes, ``row``, and ``length`` in tokens.
        """

    @abstractmethod
    def _collator(self, split: str) -> Collator:
        """Return what makes batches of encoded rows.

        Args:
            split: The split.
        """

    def probe(self) -> list[str | tuple[str, str]]:
        """Return a few texts, or pairs, to compare answers on: not of the training rows where there are others."""
        splits = self.read()
        found = [splits[name] for name in ("test", "validation", "train") if name in splits]
        if not found:  # a stream
            return [*_PROBE]
        rows = found[0][:_PROBE_ROWS]
        if "text_pair" in rows:
            return list(zip(rows["text"], rows["text_pair"], strict=True))
        return list(rows["text"])

    def _dataset(self, split: str) -> Any:
        """Return what is asked for the rows of a batch by their numbers.

        Args:
            split: The split.
        """
        return self._encoded[split]

    def _note_lengths(self, split: str, tokens: Sequence[int]) -> None:
        """Summarise how long a split's rows are, once.

        Args:
            split: The split.
            tokens: Tokens of each row before cutting.
        """
        if split not in self.lengths:
            self.lengths[split] = lengths.summarise(tokens, self.max_length)
            log.info("%s", lengths.line(split, self.lengths[split]))

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of training batches."""
        return self._loader("train", self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Return the loader of validation batches, none where there is no validation split."""
        return self._evaluation_loader("validation", "val")

    def test_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Return the loader of test batches, none where there is no test split."""
        return self._evaluation_loader("test", "test")

    def predict_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Return the loader of the test rows."""
        return self._evaluation_loader("test", "predict")

    def state_dict(self) -> dict[str, Any]:
        """Return where training stands: the epoch, and how many of its batches are done."""
        if self.trainer is None or self.trainer.state.fn != "fit":
            return {}
        loop = self.trainer.fit_loop
        epochs, batches = loop.epoch_progress.current, loop.epoch_loop.batch_progress.current
        epoch, done = max(epochs.started - 1, 0), batches.processed  # type: ignore[attr-defined]
        ended = done >= loop.max_batches and batches.completed == done  # else its validation is still to come
        return {"epoch": epoch + 1, "batches": 0} if ended else {"epoch": epoch, "batches": done}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where training stood.

        Args:
            state_dict: What :meth:`state_dict` returned.
        """
        self._resume_at = (state_dict["epoch"], state_dict["batches"])
        # Lightning looks for the place in the loader, and it is here
        warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")

    def _evaluation_loader(self, split: str, stage: Literal["val", "test", "predict"]) -> DataLoader[Any] | list[Any]:
        """Return a loader that begins with the batches which the Trainer takes under its limit."""
        if split not in self._encoded:
            return []
        limit = getattr(self.trainer, f"limit_{stage}_batches") if self.trainer else 1.0
        loader = self._loader(split, self.eval_batch_size or 2 * self.batch_size, limit=limit)
        self._note_sample(split, loader.sampler.taken_rows(), f"trainer.limit_{stage}_batches")  # type: ignore[attr-defined]
        return loader

    def _note_sample(self, split: str, taken: list[int], limited_by: str) -> None:
        rows = self._encoded[split]
        if not 0 < len(taken) < len(rows):
            self._rows_scored.pop(split, None)
            return
        column = "rows" if "rows" in rows.column_names else "row"  # a packed row holds several
        numbers = rows[taken][column]
        scored = len({row for packed in numbers for row in packed} if column == "rows" else set(numbers))
        if self._rows_scored.get(split) != scored:
            self._rows_scored[split] = scored
            log.info("%s: a random sample of %d rows is scored (%s)", split, scored, limited_by)

    @property
    def _training_seed(self) -> int:
        return self.seed if self.seed is not None else int(os.environ.get("PL_GLOBAL_SEED", 0))

    @property
    def _place(self) -> tuple[int, int]:
        """This process's rank, and the number of processes."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    @property
    def _pin_memory(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def _loader(self, split: str, batch_size: int, *, shuffle: bool = False, limit: float = 1.0) -> DataLoader[Any]:
        rank, world_size = self._place
        sampler = LengthGroupedSampler(
            self._encoded[split]["length"][:],
            batch_size,
            shuffle=shuffle,
            seed=self._training_seed if shuffle else self.split_seed,
            group_by_length=self.group_by_length,
            tokens_per_batch=self.tokens_per_batch if shuffle else None,
            rank=rank,
            world_size=world_size,
            resume_at=self._resume_at if shuffle else (0, 0),
            limit=limit,
        )
        return DataLoader(
            self._dataset(split),
            sampler=sampler,
            batch_size=None,
            collate_fn=self._collator(split),  # type: ignore[arg-type]  # takes columns: batch_size is None
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self._pin_memory,
            # its own, so that making an iterator draws nothing from the stream that dropout draws from
            generator=torch.Generator().manual_seed(self._training_seed),
        )
