from __future__ import annotations

import random
from collections import Counter
from itertools import chain, pairwise

import datasets
import pytest
from tokenizers import processors
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerBase

from peftlit.batch import IGNORE_INDEX
from peftlit.data.blocks import BlockEncoder, best_fit, pack, special_tokens
from tests import tiny
from tests.data import language_data
from tests.data.language_data import documents, ids

END = 1  # of the tiny decoder


@pytest.fixture
def encoder(pieces) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(pieces)


def blocks_of(tokenizer, texts, objective="causal", max_length=8, long="split") -> list[dict]:
    columns = {"row": [i * 10 for i in range(1, len(texts) + 1)], "text": texts}
    blocks = BlockEncoder(tokenizer, objective, max_length, long).encode(columns)
    return [dict(zip(blocks, values, strict=True)) for values in zip(*blocks.values(), strict=True)]


def learned(blocks) -> list[int]:
    return language_data.learned(block["labels"] for block in blocks)


@pytest.mark.parametrize("max_length", [8, 9, 16, 64])
def test_every_token_but_a_documents_first_is_learned_exactly_once(tokenizer, max_length):
    tokenizer.pad_token = tokenizer.eos_token  # must not hide the end
    texts = documents(60)
    blocks = blocks_of(tokenizer, texts, max_length=max_length)
    for number, text in enumerate(texts, 1):
        own = [block for block in blocks if block["row"] == 10 * number]
        whole = [*ids(tokenizer, text), END]
        assert learned(own) == whole[1:]
        assert learned(own).count(END) == 1
        assert own[0]["input_ids"][0] == whole[0]
        for before, after in pairwise(own):
            assert after["input_ids"][0] == before["input_ids"][-1], "the last token stands before the next"
    for block in blocks:
        assert 2 <= len(block["input_ids"]) == block["length"] <= max_length
        assert block["labels"] == [IGNORE_INDEX, *block["input_ids"][1:]]


@pytest.mark.parametrize("objective", ["causal", "masked"])
def test_blocks_are_numbered_in_their_document_and_hold_no_other(tokenizer, encoder, objective):
    tokenizer, around = (tokenizer, 1) if objective == "causal" else (encoder, 2)
    counts = dict(zip(tiny.WORDS, range(1, 40), strict=False))
    texts = [" ".join([word] * count) for word, count in counts.items()]
    whole = blocks_of(tokenizer, ["", *texts, " \n "], objective)
    assert [block["row"] for block in whole] == sorted(block["row"] for block in whole)
    for number, text in enumerate(texts, 2):  # the empty ones have no block
        own, inside = [block for block in whole if block["row"] == 10 * number], ids(tokenizer, text)
        assert [block["block"] for block in own] == list(range(len(own)))
        assert [block["tokens"] for block in own] == [len(inside) + around, *[0] * (len(own) - 1)]
        assert {i for block in own for i in block["input_ids"]} <= {*inside, *tokenizer.all_special_ids}
    assert {block["row"] for block in whole} == {10 * number for number in range(2, len(texts) + 2)}
    assert max(block["block"] for block in whole) > 2
    cut = blocks_of(tokenizer, ["", *texts, " \n "], objective, long="cut")
    assert cut == [block for block in whole if block["block"] == 0]


def test_a_document_that_just_fits_makes_no_block_of_a_single_token(tokenizer):
    for count in (6, 7, 8, 13, 14, 15):
        blocks = blocks_of(tokenizer, [" ".join(["film"] * count)])
        assert sum(len(block["input_ids"]) - 1 for block in blocks) == count
        assert len(blocks) == -(-count // 7)


def test_special_tokens_in_front_stand_there_once_a_document(tokenizer):
    backend = tokenizer.backend_tokenizer
    backend.post_processor = processors.TemplateProcessing(
        single="[UNK] $A </s>", special_tokens=[("[UNK]", 0), ("</s>", 1)]
    )
    assert special_tokens(tokenizer) == ([0], [END])
    blocks = blocks_of(tokenizer, ["the film " * 10])
    assert blocks[0]["input_ids"][0] == 0
    assert [block["input_ids"].count(0) for block in blocks] == [1, *[0] * (len(blocks) - 1)]
    assert learned(blocks) == [*ids(tokenizer, "the film " * 10), END], (
        "an end token of the tokenizer's is not put twice"
    )


def test_a_document_of_one_token_without_specials_has_nothing_to_learn(tokenizer):
    tokenizer.eos_token = None
    assert [block["labels"] for block in blocks_of(tokenizer, ["film"])] == [[IGNORE_INDEX]]


@pytest.mark.parametrize("max_length", [8, 16, 33])
def test_masked_blocks_stand_between_special_tokens_and_hold_the_document_in_order(encoder, max_length):
    texts = documents(40, longest=80)
    blocks = blocks_of(encoder, texts, "masked", max_length)
    for number, text in enumerate(texts, 1):
        own = [block for block in blocks if block["row"] == 10 * number]
        assert list(chain(*(block["input_ids"][1:-1] for block in own))) == ids(encoder, text)
        assert all(block["length"] == max_length for block in own[:-1])
    for block in blocks:
        assert block["input_ids"][0] == encoder.cls_token_id
        assert block["input_ids"][-1] == encoder.sep_token_id
        assert block["word_ids"][0] == block["word_ids"][-1] == -1
        assert min(block["word_ids"][1:-1]) >= 0
        assert len(block["word_ids"]) == len(block["input_ids"]) == block["length"] <= max_length


def test_word_numbers_stand_beside_the_pieces_of_the_word(encoder):
    text = "films worked , enjoyed the plots again"
    (block,) = blocks_of(encoder, [text], "masked", 64)
    pieces = encoder.convert_ids_to_tokens(block["input_ids"])[1:-1]
    inside = block["word_ids"][1:-1]
    assert len(pieces) > len(set(inside)) == 7
    for before, after, piece in zip(inside, inside[1:], pieces[1:], strict=False):
        assert (before == after) == piece.startswith("##")


def test_a_tokenizer_that_does_not_tell_words_apart_has_each_token_for_one(tmp_path):
    ByT5Tokenizer().save_pretrained(tmp_path)
    (block,) = blocks_of(AutoTokenizer.from_pretrained(tmp_path), ["film"], "masked", 16)
    assert block["word_ids"] == [0, 1, 2, 3, -1]


def test_real_blocks_begin_with_their_special_token_and_end_with_one(stories):
    (block,) = blocks_of(stories, ["a cat sat"], max_length=16)
    assert block["input_ids"] == [1, 261, 280, 294, 262, 294, 2]  # <s> ▁a ▁c at ▁s at </s>
    assert block["labels"] == [IGNORE_INDEX, 261, 280, 294, 262, 294, 2]


@pytest.mark.parametrize("capacity", [1, 5, 16])
def test_best_fit_loses_nothing_and_keeps_the_capacity(capacity):
    chance = random.Random(capacity)
    for count in (0, 1, 7, 300):
        lengths = [chance.randint(1, capacity) for _ in range(count)]
        bins = best_fit(lengths, capacity)
        assert Counter(chain(*bins)) == Counter(range(count))
        assert all(0 < sum(lengths[i] for i in items) <= capacity for items in bins)
        assert best_fit(lengths, capacity) == bins
        for one, other in pairwise(bins):
            assert sum(lengths[i] for i in one) + min(lengths[i] for i in other) > capacity, "a bin had room left"


def test_best_fit_puts_each_item_where_it_leaves_least_room():
    assert best_fit([6, 5, 3, 4, 2], 10) == [[0, 3], [1, 2, 4]]
    assert best_fit([5, 5, 5, 5], 10) == [[0, 1], [2, 3]]


def test_packed_rows_hold_every_block_once_with_its_own_positions(tokenizer):
    rows = blocks_of(tokenizer, documents(50), max_length=16)
    packed = list(pack(datasets.Dataset.from_list(rows), 16))
    assert len(packed) < len(rows)
    found = []
    for row in packed:
        assert len(row["input_ids"]) == len(row["labels"]) == len(row["position_ids"]) == row["length"] <= 16
        starts = [i for i, position in enumerate(row["position_ids"]) if position == 0]
        for start, stop in zip(starts, [*starts[1:], row["length"]], strict=True):
            assert row["position_ids"][start:stop] == list(range(stop - start))
            found.append((row["input_ids"][start:stop], row["labels"][start:stop]))
            assert row["labels"][start] == IGNORE_INDEX, "nothing of the block before it tells the first token"
        assert row["row"] in {block["row"] for block in rows if block["input_ids"] == found[-len(starts)][0]}
    given = [(block["input_ids"], block["labels"]) for block in rows]
    assert sorted(map(str, found)) == sorted(map(str, given))
