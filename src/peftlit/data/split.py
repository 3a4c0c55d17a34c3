"""Cut splits from one set of rows, stratified by label."""

from __future__ import annotations

import random
import uuid
from collections.abc import Mapping, Sequence

import datasets

from peftlit.data.labels import Labels
from peftlit.errors import DataError


def cut(
    rows: datasets.Dataset, held_out: Mapping[str, float], labels: Labels, seed: int, source: str
) -> dict[str, datasets.Dataset]:
    """Cut splits from the training rows, stratified by label.

    Args:
        rows: The training rows, normalised.
        held_out: Share of the rows for each split to cut.
        labels: Says which rows are alike.
        seed: Seed of the cut.
        source: Where the rows are from.

    Returns:
        ``train``, and the splits that were cut.

    Raises:
        DataError: A share gives not one row.
    """
    shares = {"train": 1 - sum(held_out.values()), **held_out}
    strata = labels.strata(rows["label"][:], min(shares.values()))
    splits = {}
    for name, indices in stratified_split(strata, shares, seed).items():
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

    Returns:
        Row indices of each split, ascending.
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
