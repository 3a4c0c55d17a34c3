"""Cut splits from one set of rows, stratified by class."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence


def stratified_split(ids: Sequence[int], shares: Mapping[str, float], seed: int) -> dict[str, list[int]]:
    """Deal rows to splits so that each class keeps its share everywhere, off by less than one row.

    Args:
        ids: Class id of each row.
        shares: Fraction of the rows for each split; they add up to 1.
        seed: Which of the many such splits.

    Returns:
        Row indices of each split, ascending.
    """
    splits: dict[str, list[int]] = {name: [] for name in shares}
    by_class: dict[int, list[int]] = {}
    for index, label in enumerate(ids):
        by_class.setdefault(label, []).append(index)
    for label in sorted(by_class):
        members = by_class[label]
        random.Random(f"{seed}/{label}").shuffle(members)
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
