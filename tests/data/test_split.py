from __future__ import annotations

import random
from collections import Counter

import pytest

from peftlit.data.manifest import row_hash
from peftlit.data.split import stratified_split

SHARES = {"train": 0.72, "validation": 0.08, "test": 0.2}


def _random_case(number: int) -> tuple[list[int], dict[str, float]]:
    chance = random.Random(number)
    classes = chance.randint(1, 7)
    weights = [chance.random() + 0.01 for _ in range(classes)]
    labels = chance.choices(range(classes), weights, k=chance.randint(1, 400))
    held_out = [chance.choice([0.0, 0.01, 0.1, 1 / 3, chance.random() / 2]) for _ in range(2)]
    return labels, {"train": 1 - sum(held_out), "validation": held_out[0], "test": held_out[1]}


@pytest.mark.parametrize("first", range(0, 500, 100))
def test_each_class_keeps_its_share_to_within_one_row_in_every_split(first):
    for number in range(first, first + 100):
        labels, shares = _random_case(number)
        parts = stratified_split(labels, shares, seed=number)
        assert sorted(sum(parts.values(), [])) == list(range(len(labels))), "each row once"
        for name, members in parts.items():
            dealt = Counter(labels[i] for i in members)
            for label, total in Counter(labels).items():
                assert abs(dealt[label] - shares[name] * total) < 1 + 1e-6


def test_a_split_is_a_function_of_labels_shares_and_seed():
    labels = [i % 3 for i in range(300)]
    same = stratified_split(labels, SHARES, seed=1)
    assert stratified_split(labels, SHARES, seed=1) == same
    assert stratified_split(labels, SHARES, seed=2) != same
    assert all(members == sorted(members) for members in same.values())


def test_the_global_random_state_is_neither_used_nor_moved():
    random.seed(0)
    first, state = stratified_split([0, 1] * 50, SHARES, seed=1), random.getstate()
    random.seed(99)
    assert stratified_split([0, 1] * 50, SHARES, seed=1) == first
    random.seed(0)
    assert random.getstate() == state


def test_a_share_of_whole_rows_is_met_exactly():
    parts = stratified_split([0] * 50 + [1] * 100, {"train": 0.7, "validation": 0.1, "test": 0.2}, seed=0)
    assert [len(members) for members in parts.values()] == [105, 15, 30]


def test_a_row_hash_names_text_and_label():
    rows = [("a", "pos"), ("a", "neg"), ("b", "pos"), ("", "apos"), ("apos", "")]
    assert len({row_hash(*row) for row in rows}) == len(rows)
    assert row_hash(*rows[0]) == row_hash(*rows[0])
    assert len(row_hash("ä", "neg")) == 16
