from __future__ import annotations

import pickle
import random
from collections import Counter
from itertools import chain, product

import pytest

from peftlit.data.sampler import LengthGroupedSampler, RowNumbers

MODES = {
    "grouped": {"shuffle": True},
    "plain": {"shuffle": True, "group_by_length": False},
    "budget": {"shuffle": True, "tokens_per_batch": 64},
    "evaluation": {"shuffle": False},
    "evaluation in file order": {"shuffle": False, "group_by_length": False},
}


def _lengths(count: int, seed: int = 0) -> list[int]:
    chance = random.Random(seed)
    return [chance.randint(1, 40) for _ in range(count)]


def _ranks(count: int, batch_size: int, world_size: int, *, epoch: int = 0, **mode) -> list[list[list[int]]]:
    """Return the batches of every rank: equally many, none empty, and together every row once."""
    ranks = []
    for rank in range(world_size):
        sampler = LengthGroupedSampler(_lengths(count), batch_size, rank=rank, world_size=world_size, **mode)
        sampler.set_epoch(epoch)
        ranks.append(list(sampler))
        assert len(ranks[-1]) == len(sampler) == len(ranks[0])
    assert Counter(chain(*chain(*ranks))) == Counter(range(count)), f"{count} rows"
    assert all(rows for batches in ranks for rows in batches), "an empty batch cannot be padded"
    return ranks


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_every_row_comes_once_an_epoch_and_ranks_get_equal_numbers_of_batches(mode):
    for world_size, batch_size, epoch in product([1, 2, 3, 4, 8], [1, 2, 7, 16], [0, 3]):
        for count in (world_size, world_size + 1, 17, 64, 97, 1000):
            _ranks(count, batch_size, world_size, epoch=epoch, **mode)


@pytest.mark.parametrize("mode", ["grouped", "plain", "evaluation"])
def test_no_batch_has_more_rows_than_asked_for(mode):
    for world_size in (1, 2, 3, 8):
        for count in range(2 * world_size, 20 * world_size):
            for batches in _ranks(count, 16, world_size, **MODES[mode]):
                assert max(len(rows) for rows in batches) <= 16, f"{count} rows"


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_the_order_is_a_function_of_seed_and_epoch_and_iterating_moves_no_state(mode):
    sampler = LengthGroupedSampler(_lengths(200), 4, seed=1, **mode)
    first = list(sampler)
    next(iter(sampler))
    assert list(sampler) == first
    sampler.set_epoch(5)
    assert {rows.epoch for rows in sampler} == {5}
    shuffled = [list(sampler) != first, list(LengthGroupedSampler(_lengths(200), 4, seed=2, **mode)) != first]
    assert shuffled == [mode["shuffle"]] * 2
    sampler.set_epoch(0)
    assert list(sampler) == first
    assert {rows.epoch for rows in first} == {0}


def test_grouping_by_length_saves_most_padding_in_mixed_order():
    for seed in range(5):
        lengths, padded = _lengths(2000, seed), {}
        for mode in ("plain", "grouped"):
            batches = list(LengthGroupedSampler(lengths, 16, seed=seed, **MODES[mode]))
            longest = [max(lengths[i] for i in rows) for rows in batches]
            padded[mode] = sum(len(rows) * most for rows, most in zip(batches, longest, strict=True))
        assert padded["grouped"] < sum(lengths) / 0.9
        assert padded["plain"] > sum(lengths) / 0.7
        assert longest not in (sorted(longest), sorted(longest, reverse=True))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_a_token_budget_holds_in_every_batch_and_gives_every_epoch_the_same_number(world_size):
    for budget, count in product([48, 96, 200], range(30, 100)):  # enough short rows to deal the last ones evenly
        lengths = _lengths(count)
        for rows in chain(*_ranks(count, 16, world_size, shuffle=True, tokens_per_batch=budget)):
            assert len(rows) <= 16
            assert len(rows) * max(lengths[i] for i in rows) <= budget or len(rows) == 1, f"{count} rows"
    assert len({len(_ranks(333, 16, world_size, epoch=epoch, **MODES["budget"])[0]) for epoch in range(20)}) == 1


def test_the_batches_of_small_sets():
    budget, file_order = MODES["budget"], MODES["evaluation in file order"]
    for lengths, batch_size, mode, expected in (
        ([], 4, {"shuffle": False}, []),
        ([100, 3, 3], 16, {**budget, "tokens_per_batch": 16}, [[0], [1, 2]]),
        ([0, 0, 5], 16, {**budget, "tokens_per_batch": 8}, [[0, 1], [2]]),
        (_lengths(10), 4, file_order, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]),
    ):
        sampler = LengthGroupedSampler(lengths, batch_size, **mode)
        assert sorted(map(sorted, sampler)) == expected
        assert len(sampler) == len(expected)
    sizes = [len(rows) for rows in LengthGroupedSampler(_lengths(65), 16, **MODES["plain"])]
    assert sizes == [16, 16, 16, 9, 8], "no training step on a row or two"
    lengths = _lengths(100)
    read = [lengths[i] for rows in LengthGroupedSampler(lengths, 8, shuffle=False) for i in rows]
    assert read == sorted(lengths, reverse=True), "an evaluation reads the longest rows first"


@pytest.mark.parametrize("limit", [1, 3, 0.3, 0.99])
@pytest.mark.parametrize("group_by_length", [True, False])
def test_a_limited_evaluation_begins_with_a_sample_of_the_rows(limit, group_by_length):
    lengths = _lengths(100)
    mode = {"shuffle": False, "group_by_length": group_by_length, "limit": limit}
    sampler = LengthGroupedSampler(lengths, 8, seed=3, **mode)
    batches, number = list(sampler), limit if isinstance(limit, int) else int(13 * limit)
    assert len(sampler) == 13, "a fraction is taken of the batches of the whole split"
    sample = list(chain(*batches[:number]))
    assert sampler.taken_rows() == sample
    assert len(sample) == min(8 * number, 99)
    assert sorted(chain(*batches)) == list(range(100)), "whoever reads on gets every row"
    in_order = sorted(sample, key=lambda row: (-lengths[row], row)) if group_by_length else sorted(sample)
    assert sample == in_order, "the longest first, or as in the file"
    sampler.set_epoch(7)
    assert list(sampler) == batches, "every validation scores the same rows"
    assert LengthGroupedSampler(lengths, 8, seed=4, **mode).taken_rows() != sample


def test_a_limited_evaluation_is_as_long_as_the_split_on_average():
    lengths, mode = _lengths(1000), {"shuffle": False, "limit": 4}
    taken = [row for seed in range(200) for row in LengthGroupedSampler(lengths, 16, seed=seed, **mode).taken_rows()]
    assert sum(lengths[row] for row in taken) / len(taken) == pytest.approx(sum(lengths) / 1000, rel=0.02)


@pytest.mark.parametrize("limit", [1.0, 13, 40, 0, 0.0])
def test_an_evaluation_of_all_or_nothing_keeps_its_order(limit):
    whole = LengthGroupedSampler(_lengths(100), 8, shuffle=False)
    assert list(LengthGroupedSampler(_lengths(100), 8, shuffle=False, limit=limit)) == list(whole)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_the_sample_of_one_process(world_size):
    for count, limit in product(range(world_size, 70), (1, 2, 0.5)):
        mode = {"shuffle": False, "limit": limit}
        (alone,) = _ranks(count, 2 * world_size, 1, **mode)
        ranks = _ranks(count, 2, world_size, **mode)
        one = LengthGroupedSampler(_lengths(count), 2 * world_size, **mode)
        all_ranks = LengthGroupedSampler(_lengths(count), 2, rank=1, world_size=world_size, **mode)
        if len(alone) == len(ranks[0]) and count - len(one.taken_rows()) >= world_size:
            assert all_ranks.taken_rows() == one.taken_rows(), f"{count} rows"
        shared = chain(*(chain(*batches[: all_ranks._taken(len(ranks[0]))]) for batches in ranks))
        assert sorted(shared) == sorted(all_ranks.taken_rows()), f"{count} rows"


@pytest.mark.parametrize("mode", ["grouped", "plain"])
@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_ranks_train_on_the_batches_of_one_process_with_the_same_global_batch(mode, world_size):
    for count in range(world_size, 100):
        (alone,) = _ranks(count, 16, 1, epoch=1, **MODES[mode])
        ranks = _ranks(count, 16 // world_size, world_size, epoch=1, **MODES[mode])
        assert [list(chain(*shares)) for shares in zip(*ranks, strict=True)] == alone, f"{count} rows"


def test_a_batch_asked_for_before_lightning_tells_the_epoch_is_of_the_one_that_is_resumed():
    rest = list(LengthGroupedSampler(_lengths(40), 4, shuffle=True, resume_at=(2, 5)))
    assert {rows.epoch for rows in rest} == {2}
    whole = LengthGroupedSampler(_lengths(40), 4, shuffle=True)
    whole.set_epoch(2)
    assert rest == list(whole)[5:]


def test_row_numbers_are_a_list_that_keeps_its_epoch_on_the_way_to_a_worker():
    rows = RowNumbers([3, 1], 7)
    again = pickle.loads(pickle.dumps(rows))
    assert rows == again == [3, 1]
    assert (rows.epoch, again.epoch) == (7, 7)
