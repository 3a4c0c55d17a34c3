"""P9: stratified splits are off by one row per class at most; the manifest names the split, and its hash is stable.

Where rows carry several labels, "class" is a common label set, or all rare ones together; of values, a tenth of them.
"""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from peftlit.data import TextDataModule, TextFiles, checks, split
from peftlit.data.labels import Labels, LabelSets, Values
from peftlit.files import write_json
from tests.data.helpers import labelled, text_files

SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}


def contract_shares(labels: list[int], shares: Mapping[str, float], seed: int) -> None:
    """Each row lands in one split, and each class keeps its share everywhere to within one row."""
    parts = split.stratified_split(labels, shares, seed)
    dealt = [index for members in parts.values() for index in members]
    assert sorted(dealt) == list(range(len(labels))), "rows were lost or dealt twice"
    for name, members in parts.items():
        present = Counter(labels[index] for index in members)
        for label, total in Counter(labels).items():
            apart = abs(present[label] - shares[name] * total)
            assert apart <= 1, f"class {label} in {name} is off by {apart} rows with seed {seed}"


ROWS = labelled(["neg", "pos", "pos"] * 20)


def make(folder: Path, rows: list[dict[str, Any]] = ROWS, **settings: Any) -> TextFiles:
    return text_files(folder, rows, **{"validation_share": 0.1, "test_share": 0.2, **settings})


def contract_manifest(folder: Path, rows: list[dict[str, Any]] = ROWS) -> None:
    """The saved manifest holds hashes, seed and shares; its hash moves with rows and seed and with nothing else."""
    manifest = make(folder).manifest()
    write_json(folder / "split_manifest.json", manifest)
    saved = json.loads((folder / "split_manifest.json").read_text(encoding="utf-8"))
    assert saved == manifest
    assert saved["cut_from_train"]["seed"] == 42
    assert saved["cut_from_train"]["shares"] == pytest.approx(SHARES)
    assert sum(len(entry["row_hashes"]) for entry in saved["splits"].values()) == len(rows)
    assert len({row for entry in saved["splits"].values() for row in entry["row_hashes"]}) == len(rows)
    for entry in saved["splits"].values():
        assert entry["sha256"] == sha256("\n".join(sorted(entry["row_hashes"])).encode()).hexdigest()
    assert make(folder).manifest()["sha256"] == manifest["sha256"], "same data, same seed"
    changes: dict[str, dict[str, Any]] = {
        "split_seed": {"split_seed": 43},
        "share": {"test_share": 0.3},
        "text": {"rows": [{**rows[0], "text": "another"}, *rows[1:]]},
        "label": {"rows": [{**rows[0], "label": rows[1]["label"]}, *rows[1:]]},
        "fewer rows": {"rows": rows[:-1]},
        "order": {"rows": rows[::-1]},
    }
    for change, settings in changes.items():
        assert make(folder, **settings).manifest()["sha256"] != manifest["sha256"], f"another {change}, same hash"


def test_p09_shares_are_off_by_one_row_per_class_at_most():
    for number in range(500):
        chance = random.Random(number)
        labels = [min(int(chance.expovariate(0.7)), 5) for _ in range(chance.randint(1, 300))]
        held_out = chance.choice([(0.1, 0.2), (0.08, 0.2), (0.02, 0.0), (1 / 3, 1 / 3), (chance.random() / 2,) * 2])
        contract_shares(labels, {"train": 1 - sum(held_out), "validation": held_out[0], "test": held_out[1]}, number)


@pytest.mark.parametrize("rounded", [math.floor, math.ceil, round])
def test_p09_breaker_apportioning_that_rounds_each_share_by_itself(monkeypatch, rounded):
    monkeypatch.setattr(split, "_apportion", lambda total, shares: {n: rounded(s * total) for n, s in shares.items()})
    with pytest.raises(AssertionError, match=r"lost or dealt twice|class \d in"):
        contract_shares([0] * 33 + [1] * 33 + [2] * 34, {"train": 0.5, "validation": 0.25, "test": 0.25}, 0)


def test_p09_breaker_a_cut_that_ignores_classes(monkeypatch):
    def plain(ids, shares, seed):
        order = random.Random(seed).sample(range(len(ids)), len(ids))
        first, second = int(0.7 * len(ids)), int(0.8 * len(ids))
        return {"train": order[:first], "validation": order[first:second], "test": order[second:]}

    monkeypatch.setattr(split, "stratified_split", plain)
    with pytest.raises(AssertionError, match=r"class \d in"):
        contract_shares([0] * 50 + [1] * 50, SHARES, 0)


def contract_shares_of_strata(labels: list[Any], kind: Labels, seed: int) -> None:
    """Each stratum keeps its share to within one row, and alike labels are in one stratum."""
    strata = kind.strata(labels, min(SHARES.values()))
    assert len({(str(label), s) for label, s in zip(labels, strata, strict=True)}) == len(set(map(str, labels)))
    contract_shares(strata, SHARES, seed)


def test_p09_label_sets_and_bins_of_values_keep_their_shares():
    for number in range(100):
        chance = random.Random(number)
        sets = [[float(chance.random() < p) for p in (0.7, 0.3, 0.02)] for _ in range(chance.randint(1, 300))]
        contract_shares_of_strata(sets, LabelSets(["a", "b", "c"], "label", ";"), number)
        values = [round(chance.gauss(0, 1), chance.choice([0, 9])) for _ in range(chance.randint(1, 300))]
        contract_shares_of_strata(values, Values("label"), number)


def test_p09_breaker_strata_that_tear_alike_labels_apart(monkeypatch):
    monkeypatch.setattr(Values, "strata", lambda self, labels, smallest_share: [i % 10 for i in range(len(labels))])
    with pytest.raises(AssertionError):
        contract_shares_of_strata([1.0, 2.0] * 50, Values("label"), 0)


def test_p09_manifest_hash_is_stable(tmp_path):
    contract_manifest(tmp_path)


def test_p09_manifest_hash_depends_neither_on_training_settings_nor_on_where_the_file_is(tmp_path):
    same = make(tmp_path).manifest()["sha256"]
    (tmp_path / "there").mkdir()
    other = make(tmp_path / "there", seed=1, max_length=7, batch_size=3, tokenizer="any")
    assert other.manifest()["sha256"] == same


def test_p09_breaker_row_hash_of_the_label_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "row_hash", lambda text, label: sha256(label.encode()).hexdigest()[:16])
    with pytest.raises(AssertionError):
        contract_manifest(tmp_path)


def break_manifest(monkeypatch: pytest.MonkeyPatch, change: Callable[[], dict[str, Any]]) -> None:
    kept = TextDataModule.manifest
    monkeypatch.setattr(TextDataModule, "manifest", lambda self: {**kept(self), **change()})


def test_p09_breaker_seed_and_shares_left_out(tmp_path, monkeypatch):
    break_manifest(monkeypatch, lambda: {"cut_from_train": None})
    with pytest.raises((AssertionError, TypeError)):
        contract_manifest(tmp_path)


def test_p09_breaker_hash_that_changes_by_itself(tmp_path, monkeypatch):
    calls = iter(range(100))
    break_manifest(monkeypatch, lambda: {"sha256": str(next(calls))})
    with pytest.raises(AssertionError, match="same data, same seed"):
        contract_manifest(tmp_path)


def test_p09_breaker_hash_of_a_constant(tmp_path, monkeypatch):
    break_manifest(monkeypatch, lambda: {"sha256": "0"})
    with pytest.raises(AssertionError, match="same hash"):
        contract_manifest(tmp_path)
