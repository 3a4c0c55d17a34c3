"""How long the rows of a split are in tokens, and how many of them ``max_length`` cuts."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median


def summarise(tokens: Sequence[int], max_length: int) -> dict[str, float]:
    """Return the statistics of at least one row's tokens before cutting.

    ``percentile_95`` is the least length that at least 95 % of the rows do not exceed; ``cut`` is the number of rows
    longer than ``max_length``.
    """
    ordered = sorted(tokens)
    return {
        "rows": len(ordered),
        "mean": fmean(ordered),
        "median": median(ordered),
        "percentile_95": ordered[-(-95 * len(ordered) // 100) - 1],
        "longest": ordered[-1],
        "max_length": max_length,
        "cut": sum(length > max_length for length in ordered),
    }


def line(split: str, lengths: dict[str, float], noun: str = "rows", what: str = "cut to") -> str:
    """Return one line for the log; ``what`` becomes of the rows that are longer than ``max_length``."""
    share = 100 * lengths["cut"] / lengths["rows"]
    cut = f"{lengths['cut']:,} {noun} ({share:.1f} %) {what}" if lengths["cut"] else "none longer than"
    return (
        f"{split}: {lengths['rows']:,} {noun}, tokens a {noun[:-1]}: mean {lengths['mean']:,.0f}, "
        f"median {lengths['median']:,.0f}, 95 % {lengths['percentile_95']:,}, longest {lengths['longest']:,}; "
        f"{cut} {lengths['max_length']:,}"
    )
