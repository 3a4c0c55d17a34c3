"""Cut splits from one set of rows, stratified by label, and describe which rows are in which split."""

from __future__ import annotations

import json
import logging
import random
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import datasets

from peftlit.data.checks import RowReport, describe_splits
from peftlit.data.cleaning import Cleaner
from peftlit.data.labels import Labels
from peftlit.data.messages import Question
from peftlit.errors import ConfigError, DataError

log = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")

_PROBE_ROWS = 8


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The rows of each split, and all that names them: two runs with the same manifest hash have seen the same data.

    Attributes:
        rows: Rows by split, in the order of ``SPLITS``.
        labels: What their labels are.
        sources: Where each split is from; the same rows in another folder are the same data.
        cut_from_train: Shares and seed of the cut, None where the set brought its splits.
        max_train_samples: How many training rows were kept, None where all were.
        reports: What was counted in each split.
        hashes: The hash of each row of each split, in order.
    """

    rows: dict[str, datasets.Dataset]
    labels: Labels
    sources: Mapping[str, str]
    cut_from_train: dict[str, Any] | None
    max_train_samples: int | None
    reports: dict[str, RowReport]
    hashes: dict[str, list[str]]

    def cache_key(self, split: str, tokenizer: str) -> str:
        """Name what a split's tokens depend on: the rows with their numbers and labels, and the tokenizer's digest."""
        numbers = self.rows[split]["row"][:]
        key = [numbers, self.hashes[split], self.labels.problem_type, self.labels.names, tokenizer]
        return sha256(json.dumps(key).encode()).hexdigest()

    def probe(self) -> list[Question]:
        """Return a few texts, or pairs, of the last split."""
        rows = list(self.rows.values())[-1][:_PROBE_ROWS]
        return list(zip(rows["text"], rows["text_pair"], strict=True)) if "text_pair" in rows else list(rows["text"])

    def manifest(self, cleaner: Cleaner, lengths: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
        """Describe the splits; ``sha256`` names all of it but the sources, the characters removed and the lengths.

        Args:
            cleaner: Has counted the texts that it changed.
            lengths: Token statistics of each split that is tokenized; they depend on the tokenizer, splits do not.
        """
        content = {
            "problem_type": self.labels.problem_type,
            "label_names": self.labels.names,
            "cut_from_train": self.cut_from_train,
            "max_train_samples": self.max_train_samples,
            "cleaning": dict(cleaner.changed),
            "splits": {
                split: {
                    **report.as_dict(),
                    "sha256": sha256("\n".join(sorted(self.hashes[split])).encode()).hexdigest(),
                    "row_hashes": self.hashes[split],
                }
                for split, report in self.reports.items()
            },
        }
        digest = sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        beside = {"sources": dict(self.sources), "removed_characters": dict(cleaner.removed), "lengths": dict(lengths)}
        return {"sha256": digest, **beside, **content}


@dataclass(frozen=True)
class Splitter:
    """Cuts the splits that a set does not bring from its training rows, limits these, and describes what there is.

    Args:
        shares: Share of the rows for each split to cut where the set does not bring it; 0 = no such split.
        seed: Seed of the cut.
        max_train_samples: Training rows at most.
        strict: Refuse empty texts and duplicates.
    """

    shares: Mapping[str, float]
    seed: int
    max_train_samples: int | None
    strict: bool

    def __post_init__(self) -> None:
        """Check ranges."""
        for split, share in self.shares.items():
            if not 0 <= share < 1:
                raise ConfigError(f"data.{split}_share: got {share}, needs a fraction from 0 to below 1")
        if sum(self.shares.values()) >= 1:
            named = " and ".join(f"{split}_share {share}" for split, share in self.shares.items())
            raise ConfigError(f"data: {named} leave no train rows")

    def split(self, rows: dict[str, datasets.Dataset], labels: Labels, sources: dict[str, str]) -> Splits:
        """Cut, limit, check and describe.

        Args:
            rows: The checked rows of each split that the set brings.
            labels: What their labels are.
            sources: Where each split is from; completed in place by those that are cut.

        Raises:
            DataError: A share gives not one row, there is nothing to learn, or, if strict, a row is odd.
        """
        held_out = {split: share for split, share in self.shares.items() if split not in rows and share > 0}
        shares = {"train": 1 - sum(held_out.values()), **held_out}
        if held_out:
            rows = {**rows, **self._cut(rows["train"], shares, labels, sources["train"])}
            sources |= dict.fromkeys(held_out, sources["train"])
        rows = {split: rows[split] for split in SPLITS if split in rows}
        limit, notes = None, []
        if "train" in rows:  # a stream's is not
            if self.max_train_samples is not None and self.max_train_samples < len(rows["train"]):
                limit = self.max_train_samples
                rows["train"] = rows["train"].select(range(limit))
            notes = labels.check(rows["train"]["label"][:], sources["train"])
        reports, hashes = describe_splits(rows, labels)
        if self.strict:
            for split, report in reports.items():
                report.refuse(split, sources[split])
        for note in notes:
            reports["train"].notes.append(note)
            log.info("train: %s", note)
        return Splits(
            rows=rows,
            labels=labels,
            sources=sources,
            cut_from_train={"shares": shares, "seed": self.seed} if held_out else None,
            max_train_samples=limit,
            reports=reports,
            hashes=hashes,
        )

    def _cut(
        self, rows: datasets.Dataset, shares: Mapping[str, float], labels: Labels, source: str
    ) -> dict[str, datasets.Dataset]:
        strata = labels.strata(rows["label"][:], min(shares.values()))
        splits = {}
        for name, indices in stratified_split(strata, shares, self.seed).items():
            if not indices:
                raise DataError(f"{source}: {name}_share of {len(rows)} rows gives not one row; raise it or set 0")
            # named at random: datasets would pickle the indices to name the rows after them
            splits[name] = rows.select(indices, new_fingerprint=uuid.uuid4().hex[:16])
        return splits


def stratified_split(strata: Sequence[int], shares: Mapping[str, float], seed: int) -> dict[str, list[int]]:
    """Deal rows to splits so that each stratum keeps its share everywhere, off by less than one row.

    Args:
        strata: Number of the stratum of each row.
        shares: Fraction of the rows for each split; they add up to 1.
        seed: Which of the many such splits.
    """
    splits: dict[str, list[int]] = {name: [] for name in shares}
    by_stratum: dict[int, list[int]] = {}
    for index, stratum in enumerate(strata):
        by_stratum.setdefault(stratum, []).append(index)
    for stratum in sorted(by_stratum):
        members = by_stratum[stratum]
        random.Random(f"{seed}/{stratum}").shuffle(members)
        start = 0
        for name, count in _apportion(len(members), shares).items():
            splits[name] += members[start : start + count]
            start += count
    return {name: sorted(members) for name, members in splits.items()}


def _apportion(total: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Round shares of a total to whole rows by largest remainder."""
    exact = {name: share * total for name, share in shares.items()}
    counts = {name: int(value + 1e-9) for name, value in exact.items()}
    left = total - sum(counts.values())
    for name in sorted(exact, key=lambda n: counts[n] - exact[n])[:left]:
        counts[name] += 1
    return counts
