"""The data module that all text data sets share: read, check, split, tokenize, batch."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any, Literal

import datasets
from lightning import LightningDataModule
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from peftlit.data import checks
from peftlit.data.collate import PadCollator
from peftlit.data.encode import encode, tokenizer_state
from peftlit.data.files import text_values
from peftlit.data.manifest import build_manifest, row_hash
from peftlit.data.sampler import LengthGroupedSampler
from peftlit.data.split import stratified_split
from peftlit.data.tokenizer import load_tokenizer
from peftlit.errors import ConfigError, DataError

log = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")


@dataclass(kw_only=True, eq=False, repr=False)
class TextDataModule(LightningDataModule):
    """Texts or text pairs with one label each. A data set of your own implements :meth:`load`.

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
        text_column: Column with the text.
        text_pair_column: Column with the second text of a pair, where there is one.
        label_column: Column with the label: a name, or a class id.
        label_names: The classes' names in the order of their ids; unset = the distinct training labels, sorted.
        validation_share: Fraction of all rows to cut for validation where the set brings no such split.
        test_share: Fraction of all rows to cut for test where the set brings no such split.
        split_seed: Seed of the stratified cut. It is apart from the training seed: other seeds, same split.
        seed: Seed of the training order; unset = ``seed_everything``.
        strict: Treat empty texts and duplicates within or across splits as errors.
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
    text_column: str = "text"
    text_pair_column: str | None = None
    label_column: str = "label"
    label_names: list[str] | None = None
    validation_share: float = 0.1
    test_share: float = 0.1
    split_seed: int = 42
    seed: int | None = None
    strict: bool = False
    num_workers: int = 0
    num_proc: int = 1

    def __post_init__(self) -> None:
        """Check ranges; nothing is read yet."""
        super().__init__()
        for name in ("max_length", "batch_size", "num_proc", "eval_batch_size", "tokens_per_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"data.{name}: got {value}, needs 1 or more")
        for name in ("validation_share", "test_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"data.{name}: got {getattr(self, name)}, needs a fraction from 0 to below 1")
        if self.validation_share + self.test_share >= 1:
            raise ConfigError(
                f"data: validation_share {self.validation_share} and test_share {self.test_share} leave no train rows"
            )
        self.sources: dict[str, str] = {}
        self.reports: dict[str, checks.RowReport] = {}
        self._splits: dict[str, datasets.Dataset] = {}
        self._hashes: dict[str, list[str]] = {}
        self._cut: dict[str, float] = {}
        self._encoded: dict[str, datasets.Dataset] = {}
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._tokenizer_state = ""

    def load(self) -> dict[str, datasets.Dataset]:
        """Return the raw rows by split: ``train`` and, where the set has them, ``validation`` and ``test``.

        A split that is absent is cut from train by its share. Fill ``self.sources`` with each split's
        file for better messages.
        """
        raise NotImplementedError(f"{type(self).__name__} must say where its rows are")

    def clean(self, text: str) -> str:
        """Clean one text before anything else sees it; the base leaves it alone.

        Args:
            text: The text as read.
        """
        return text

    def read(self) -> dict[str, datasets.Dataset]:
        """Read, check and split the rows, once. No tokenizer and no weights are needed for it.

        Returns:
            Rows by split, with the columns ``row``, ``text``, ``label`` and, for pairs, ``text_pair``.

        Raises:
            DataError: The rows are not what the configuration says.
        """
        if self._splits:
            return self._splits
        raw = self.load()
        if "train" not in raw:
            raise DataError(f"{type(self).__name__}: load() gave no train split, only {', '.join(raw) or 'nothing'}")
        for split in raw:
            self.sources.setdefault(split, f"{type(self).__name__} {split}")
            wanted = [self.text_column, self.text_pair_column, self.label_column]
            checks.check_columns(raw[split], [name for name in wanted if name], self.sources[split])
        if self.label_names is None:
            feature = raw["train"].features[self.label_column]
            declared = feature.names if isinstance(feature, datasets.ClassLabel) else None
            self.label_names = declared or checks.infer_label_names(raw["train"][self.label_column])
        splits = {split: self._normalise(rows, split) for split, rows in raw.items()}
        splits = self._cut_missing(splits)
        checks.check_classes(splits["train"]["label"], self.label_names, self.sources["train"])
        self._report(splits)
        self._splits = splits
        return splits

    def _normalise(self, rows: datasets.Dataset, split: str) -> datasets.Dataset:
        source, names = self.sources[split], self.label_names or []
        columns: dict[str, Any] = {"row": list(range(1, len(rows) + 1))}
        for name, column in (("text", self.text_column), ("text_pair", self.text_pair_column)):
            if column is not None:
                values = text_values(rows, column, source)
                checks.check_texts(values, column, source)
                columns[name] = [self.clean(value) for value in values]
        columns["label"] = checks.label_ids(rows[self.label_column][:], names, self.label_column, source)
        return datasets.Dataset.from_dict(columns)

    def _cut_missing(self, splits: dict[str, datasets.Dataset]) -> dict[str, datasets.Dataset]:
        shares = {"validation": self.validation_share, "test": self.test_share}
        self._cut = {name: share for name, share in shares.items() if name not in splits and share > 0}
        if not self._cut:
            return splits
        rows = splits["train"]
        parts = stratified_split(rows["label"][:], {"train": 1 - sum(self._cut.values()), **self._cut}, self.split_seed)
        for name, indices in parts.items():
            if not indices:
                raise DataError(
                    f"{self.sources['train']}: {name}_share of {len(rows)} rows gives not one row; raise it or set 0"
                )
            splits[name] = rows.select(indices)
            self.sources[name] = self.sources["train"]
        return splits

    def _report(self, splits: dict[str, datasets.Dataset]) -> None:
        seen: dict[str, set[str]] = {}
        for split in SPLITS:
            if split not in splits:
                continue
            rows, names = splits[split], self.label_names or []
            texts = checks.joined_texts(rows)
            report = checks.report_rows(texts, rows["label"][:], rows["row"][:], names)
            for other, earlier in seen.items():
                checks.compare_splits(report, texts, rows["row"][:], other, earlier)
            seen[split] = set(texts)
            self.reports[split] = report
            self._hashes[split] = [row_hash(t, names[i]) for t, i in zip(texts, rows["label"][:], strict=True)]
            found = [f"{report.empty_texts} empty texts"] * bool(report.empty_texts)
            found += [f"{report.duplicates} repeated texts"] * bool(report.duplicates)
            found += [f"{count} texts that also stand in {other}" for other, count in report.duplicates_of.items()]
            log.info("%s: %d rows%s", split, report.rows, f" ({', '.join(found)})" if found else "")
        if self.strict:
            checks.refuse_if_strict(self.reports, self.sources)

    def manifest(self) -> dict[str, Any]:
        """Describe the splits: what was cut how, what was found, and each row's hash in order."""
        self.read()
        shares = {"train": 1 - sum(self._cut.values()), **self._cut}
        return build_manifest(
            label_names=self.label_names or [],
            cut_from_train={"shares": shares, "seed": self.split_seed} if self._cut else None,
            cleaning=self.cleaning(),
            reports={split: report.as_dict() for split, report in self.reports.items()},
            row_hashes=self._hashes,
            sources=self.sources,
        )

    def cleaning(self) -> dict[str, int]:
        """Say which cleaning steps ran and how many texts each changed; the base has none."""
        return {}

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
    def pad_token_id(self) -> int:
        """Id of the padding token, which the model has to know too."""
        return int(self.get_tokenizer().pad_token_id)

    @property
    def side_padded(self) -> Literal["left", "right"]:
        """Side that the tokenizer pads on."""
        return "left" if self.get_tokenizer().padding_side == "left" else "right"

    def prepare_data(self) -> None:
        """Read, check and tokenize once per machine; other processes find the rows in the cache."""
        for split in self.read():
            self._encode(split)

    def setup(self, stage: str) -> None:
        """Map the tokenized rows of the splits that a stage needs into memory.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``.
        """
        needed = {"fit": ("train", "validation"), "validate": ("validation",)}.get(stage, ("test",))
        for split in needed:
            if split in self.read():
                self._encoded[split] = self._encode(split)

    def _encode(self, split: str) -> datasets.Dataset:
        tokenizer = self.get_tokenizer()
        return encode(self._splits[split], tokenizer, self._tokenizer_state, self.max_length, self.num_proc, split)

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of training batches."""
        return self._loader("train", self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Return the loader of validation batches, none where there is no validation split."""
        return self._loader("validation", self._eval_rows()) if "validation" in self._encoded else []

    def test_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Return the loader of test batches, none where there is no test split."""
        return self._loader("test", self._eval_rows()) if "test" in self._encoded else []

    def predict_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Return the loader of the test rows."""
        return self.test_dataloader()

    def _eval_rows(self) -> int:
        return self.eval_batch_size or 2 * self.batch_size

    def _loader(self, split: str, batch_size: int, *, shuffle: bool = False) -> DataLoader[Any]:
        rows = self._encoded[split]
        sampler = LengthGroupedSampler(
            rows["length"][:],
            batch_size,
            shuffle=shuffle,
            seed=self.seed if self.seed is not None else int(os.environ.get("PL_GLOBAL_SEED", 0)),
            group_by_length=self.group_by_length,
            tokens_per_batch=self.tokens_per_batch if shuffle else None,
            rank=self.trainer.global_rank if self.trainer else 0,
            world_size=self.trainer.world_size if self.trainer else 1,
        )
        return DataLoader(
            rows,
            sampler=sampler,
            batch_size=None,
            collate_fn=PadCollator(self.get_tokenizer()),  # type: ignore[arg-type]  # takes columns: batch_size is None
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
        )
