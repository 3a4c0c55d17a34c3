from __future__ import annotations

import math
import random

import pytest
import torch
from torch.utils.data import DataLoader

from peftlit.batch import IGNORE_INDEX
from peftlit.data.masking import Masking, MaskingCollator
from peftlit.errors import ConfigError
from tests import tiny
from tests.data.helpers import refusal
from tests.data.language_data import documents, epoch_of, masks_of, text_lines

VOCABULARY, OUTSIDE = 50, 99


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def words(*pieces: int) -> torch.Tensor:
    """Words of so many pieces each, between two special tokens."""
    return torch.tensor([-1, *(word for word, count in enumerate(pieces) for _ in range(count)), -1])


def test_exactly_the_share_of_tokens_is_selected_and_at_least_one():
    for ratio, whole_words in ((0.01, False), (0.15, False), (0.4, False), (0.99, False), (0.15, True)):
        for count in range(1, 120):
            selected = Masking(ratio, whole_words=whole_words).select(words(*[1] * count), chance(count))
            assert int(selected.sum()) == max(1, round(ratio * count))


def test_special_tokens_are_never_selected():
    given = torch.tensor([-1, -1, 0, 1, -1, 2, -1])
    for whole_words in (False, True):
        for seed in range(100):
            assert torch.equal(Masking(0.99, whole_words=whole_words).select(given, chance(seed)), given >= 0)


def test_every_token_is_chosen_as_often_as_any_other():
    drawn = 4000
    times = sum(Masking(0.25).select(words(*[1] * 20), chance(seed)).float() for seed in range(drawn))
    bound = 5 * math.sqrt(drawn * 0.25 * 0.75)
    assert (times[1:-1] - drawn * 0.25).abs().max() < bound


def test_selected_tokens_become_the_mask_any_token_or_stay():
    for mask_share, random_share in ((0.8, 0.1), (0.5, 0.3), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0)):
        masking, generator = Masking(0.5, mask_share=mask_share, random_share=random_share), chance()
        ids = torch.full((100_002,), OUTSIDE)
        selected = masking.select(words(*[1] * 100_000), generator)
        masked = masking.mask_tokens(ids, selected, OUTSIDE + 1, VOCABULARY, generator)
        assert (masked[~selected] == OUTSIDE).all(), "other tokens stay"
        masked, total = masked[selected], int(selected.sum())
        counts = [int((masked == OUTSIDE + 1).sum()), int((masked < VOCABULARY).sum()), int((masked == OUTSIDE).sum())]
        assert sum(counts) == total == 50_000
        for count, share in zip(counts, (mask_share, random_share, 1 - mask_share - random_share), strict=True):
            assert abs(count - share * total) <= 5 * math.sqrt(max(total * share * (1 - share), 0)) + 1e-6
        if random_share:
            assert set(masked[masked < VOCABULARY].tolist()) == set(range(VOCABULARY))


def test_whole_words_are_hidden_with_all_pieces_or_none():
    draw = random.Random(0)
    for seed in range(300):
        given = words(*(draw.randint(1, 4) for _ in range(draw.randint(1, 30))))
        ratio = draw.choice([0.15, 0.3, 0.6])
        chosen = Masking(ratio, whole_words=True).select(given, chance(seed))
        found = set(given[chosen].tolist())
        assert all(bool(chosen[given == word].all()) for word in found)
        free = int((given >= 0).sum())
        wanted = max(1, round(ratio * free))
        assert int(chosen.sum()) >= 1
        assert int(chosen.sum()) <= wanted or len(found) == 1, "only a first word may be longer than the share"
        if len(found) > 1:
            left = [int((given == word).sum()) for word in set(given[given >= 0].tolist()) - found]
            assert not left or int(chosen.sum()) + min(left) > wanted, "a word that fits is taken"


def test_whole_words_are_those_of_the_tokenizer(tmp_path, pieces):
    lines, masking = ["films worked , plots broken ."] * 60, Masking(0.5, whole_words=True)
    data = text_lines(tmp_path, lines, objective="masked", tokenizer=pieces, masking=masking)
    data.setup("fit")
    split = 0
    for (_, whole), (_, labels) in masks_of(data.train_dataloader()).items():
        spelt = data.get_tokenizer().convert_ids_to_tokens(list(whole))
        for i, piece in enumerate(spelt):
            if piece.startswith("##"):
                assert (labels[i] == IGNORE_INDEX) == (labels[i - 1] == IGNORE_INDEX), spelt
                split += 1
    assert split > 20


def test_shares_out_of_range_are_refused():
    for settings, said in (
        ({"ratio": 0.0}, ".ratio: got 0.0, needs a share over 0 and below 1"),
        ({"ratio": 1}, ".ratio: got 1, needs a share over 0 and below 1"),
        ({"mask_share": -0.1}, ": mask_share -0.1 and random_share 0.1 need to be shares of 1"),
        ({"random_share": 0.3}, ": mask_share 0.8 and random_share 0.3 need to be shares of 1"),
    ):
        assert refusal(lambda given=settings: Masking(**given), ConfigError) == f"data.masking{said}"


COLUMNS = {
    "input_ids": [[2, 10, 11, 12, 3], [2, 13, 3]],
    "word_ids": [[-1, 0, 1, 2, -1], [-1, 0, -1]],
    "row": [3, 8],
    "block": [0, 1],
}


def test_a_batch_has_the_hidden_tokens_as_labels_and_no_others(tmp_path):
    tokenizer = tiny.write_tokenizer(tmp_path)
    batch = MaskingCollator(tokenizer, Masking(0.5, mask_share=1.0, random_share=0.0), 1)(COLUMNS)
    assert {name: tensor.dtype for name, tensor in batch.items()} == dict.fromkeys(
        ["input_ids", "attention_mask", "labels", "row"], torch.int64
    )
    assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
    asked = batch["labels"] != IGNORE_INDEX
    assert asked.sum(1).tolist() == [2, 1]
    assert (batch["input_ids"][asked] == tokenizer.mask_token_id).all()
    whole = torch.where(asked, batch["labels"], batch["input_ids"])
    assert [row[:length] for row, length in zip(whole.tolist(), (5, 3), strict=True)] == COLUMNS["input_ids"]


def test_masks_follow_from_seed_epoch_row_and_block_alone(tmp_path):
    tokenizer = tiny.write_tokenizer(tmp_path)

    def mask(seed=1, epoch=0, row=3, block=0):
        columns = {"input_ids": [list(range(5, 45))], "word_ids": [list(range(40))], "row": [row], "block": [block]}
        return MaskingCollator(tokenizer, Masking(), seed)({**columns, "epoch": [epoch]})["labels"].tolist()

    before = torch.get_rng_state()
    assert mask() == mask()
    assert torch.equal(torch.get_rng_state(), before), "no other random number is drawn"
    others = [mask(seed=2), mask(epoch=1), mask(row=4), mask(block=1), mask(row=30, block=0), mask(row=3, block=10)]
    assert all(other != mask() for other in others)


def _training(folder, pieces, **settings) -> DataLoader:
    data = text_lines(folder, documents(40), objective="masked", tokenizer=pieces, **{"seed": 1, **settings})
    data.setup("fit")
    return data.train_dataloader()


def test_every_epoch_of_training_has_masks_of_its_own_and_each_again_the_same(tmp_path, pieces):
    first, again = _training(tmp_path, pieces), _training(tmp_path, pieces)
    epochs = [masks_of(epoch_of(first, epoch)) for epoch in range(3)]
    assert [set(epoch) for epoch in epochs] == [set(epochs[0])] * 3, "always all blocks"
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert [masks_of(epoch_of(again, epoch)) for epoch in (2, 0, 1)] == [epochs[2], epochs[0], epochs[1]]
    assert masks_of(epoch_of(_training(tmp_path, pieces, seed=2), 0)) != epochs[0]


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 1},
        {"batch_size": 7, "group_by_length": False},
        {"tokens_per_batch": 40},
        {"num_workers": 2},
        {"padding_side": "left"},
    ],
    ids=str,
)
def test_training_masks_do_not_depend_on_who_asks(tmp_path, pieces, settings):
    plain, other = _training(tmp_path, pieces), _training(tmp_path, pieces, **settings)
    for epoch in range(2):
        assert masks_of(epoch_of(other, epoch)) == masks_of(epoch_of(plain, epoch))
