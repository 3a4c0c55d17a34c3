from __future__ import annotations

import random
from collections import Counter

from peftlit.data.checks import row_hash
from peftlit.data.labels import LabelSets, Values
from peftlit.data.split import stratified_split
from tests.conftest import toy_rows
from tests.data.helpers import labelled, refusal, text_files

SHARES = {"train": 0.72, "validation": 0.08, "test": 0.2}


def test_a_split_is_a_function_of_labels_shares_and_seed():
    labels = [i % 3 for i in range(300)]
    random.seed(0)
    state, same = random.getstate(), stratified_split(labels, SHARES, seed=1)
    assert random.getstate() == state, "the global random state is not moved"
    random.seed(99)
    assert stratified_split(labels, SHARES, seed=1) == same, "nor used"
    assert stratified_split(labels, SHARES, seed=2) != same
    assert all(members == sorted(members) for members in same.values())


def test_a_share_of_whole_rows_is_met_exactly():
    parts = stratified_split([0] * 50 + [1] * 100, {"train": 0.7, "validation": 0.1, "test": 0.2}, seed=0)
    assert [len(members) for members in parts.values()] == [105, 15, 30]


def test_a_row_hash_names_text_and_label():
    rows = [("a", "pos"), ("a", "neg"), ("b", "pos"), ("", "apos"), ("apos", "")]
    assert len({row_hash(*row) for row in rows}) == len(rows)
    assert len(row_hash("ä", "neg")) == 16


# max_train_samples -------------------------------------------------------------------------------------------------


def test_max_train_samples_keeps_the_first_training_rows_that_the_cut_leaves(tmp_path):
    settings = {"validation_share": 0.1, "test_share": 0.2}
    whole = text_files(tmp_path, toy_rows(100), **settings).read()
    data = text_files(tmp_path, toy_rows(100), max_train_samples=20, **settings)
    kept = {split: rows["row"][:20] if split == "train" else rows["row"][:] for split, rows in whole.items()}
    assert {split: rows["row"][:] for split, rows in data.read().items()} == kept
    assert sum(data.class_counts) == data.reports["train"].rows == 20
    manifest = data.manifest()
    assert manifest["max_train_samples"] == len(manifest["splits"]["train"]["row_hashes"]) == 20


def test_only_the_rows_that_max_train_samples_leaves_are_looked_at(tmp_path):
    rows = labelled("abab")
    data = text_files(tmp_path, [*rows, rows[0]], rows[3:], max_train_samples=3, strict=True)
    assert data.manifest()["splits"]["test"]["duplicates_of"] == {}
    assert "one class only (a)" in refusal(text_files(tmp_path, labelled("aabb"), max_train_samples=2).read)


def test_a_limit_above_the_number_of_rows_changes_nothing(tmp_path):
    limited = text_files(tmp_path, labelled("abab"), max_train_samples=4).manifest()
    assert limited["max_train_samples"] is None
    assert limited["sha256"] == text_files(tmp_path, labelled("abab")).manifest()["sha256"]


# Label sets and values ---------------------------------------------------------------------------------------------


def test_label_sets_too_rare_for_the_smallest_share_are_dealt_as_one_group():
    sets = [(1.0, 0.0)] * 13 + [(0.0, 0.0)] * 12 + [(0.0, 1.0)] * 1 + [(1.0, 1.0)] * 12
    strata = LabelSets(["a", "b"], "label", ";").strata(sets, min(SHARES.values()))
    assert strata == [0] * 13 + [-1] * 25, "0.08 of 13 rows is one row, of 12 it is not"


def test_values_are_dealt_by_ten_bins_that_follow_them():
    values = [random.Random(0).gauss(0, 1) for _ in range(1000)]
    bins = Values("label").strata(values, 0.1)
    in_order = [b for _, b in sorted(zip(values, bins, strict=True))]
    assert in_order == sorted(in_order)
    assert set(Counter(Values("label").strata(range(1000), 0.1)).values()) == {100}
