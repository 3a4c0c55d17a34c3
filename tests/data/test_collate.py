from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from peftlit.batch import IGNORE_INDEX
from peftlit.data.collate import PadCollator, TokenLabelCollator, pad, tokenize
from tests import tiny

COLUMNS = {
    "input_ids": [[5, 6], [7, 8, 9, 5]],
    "attention_mask": [[1, 1], [1, 1, 1, 1]],
    "label": [1, 0],
    "row": [3, 8],
}


@pytest.fixture
def tokenizer(tmp_path) -> PreTrainedTokenizerBase:
    return tiny.write_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("side", "ids", "mask"),
    [("right", [5, 6, 1, 1], [1, 1, 0, 0]), ("left", [1, 1, 5, 6], [0, 0, 1, 1])],
)
def test_rows_are_padded_to_the_longest_of_the_batch_on_the_tokenizers_side(tokenizer, side, ids, mask):
    tokenizer.padding_side = side
    batch = PadCollator(tokenizer)(COLUMNS)
    assert batch["input_ids"].tolist() == [ids, [7, 8, 9, 5]]
    assert batch["attention_mask"].tolist() == [mask, [1, 1, 1, 1]]


def test_labels_and_rows_come_along_and_all_is_int64(tokenizer):
    batch = PadCollator(tokenizer)(COLUMNS)
    assert set(batch) == {"input_ids", "attention_mask", "labels", "row"}
    assert batch["labels"].tolist() == [1, 0]
    assert batch["row"].tolist() == [3, 8]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_only_inputs_that_the_model_takes_are_handed_over(tokenizer):
    columns = {**COLUMNS, "token_type_ids": [[0, 0], [0, 0, 1, 1]], "length": [2, 4]}
    assert "token_type_ids" not in PadCollator(tokenizer)(columns)
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    batch = PadCollator(tokenizer)(columns)
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 0], [0, 0, 1, 1]]
    assert "length" not in batch


def test_rows_without_tokens_stay_int64(tokenizer):
    columns = {"input_ids": [[], []], "attention_mask": [[], []], "label": [0, 1], "row": [1, 2]}
    batch = PadCollator(tokenizer)(columns)
    assert batch["input_ids"].shape == (2, 0)
    assert batch["input_ids"].dtype == torch.int64


@pytest.mark.parametrize(
    ("labels", "dtype"),
    [([1, 0], torch.int64), ([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]], torch.float32), ([4.0, 2.5], torch.float32)],
    ids=["classes", "label sets", "values"],
)
def test_labels_have_the_type_that_their_loss_takes(tokenizer, labels, dtype):
    batch = PadCollator(tokenizer)({**COLUMNS, "label": labels})
    assert batch["labels"].dtype == dtype
    assert batch["labels"].tolist() == labels


LABELLED = {"input_ids": [[5, 6], [7, 8, 9, 1]], "labels": [[-100, 6], [-100, 8, 9, 1]], "row": [3, 8]}
GAP = [IGNORE_INDEX, IGNORE_INDEX]


@pytest.mark.parametrize(
    ("side", "ids", "labels", "mask"),
    [
        ("right", [5, 6, 1, 1], [-100, 6, *GAP], [1, 1, 0, 0]),
        ("left", [1, 1, 5, 6], [*GAP, -100, 6], [0, 0, 1, 1]),
    ],
)
def test_tokens_and_their_labels_are_padded_on_the_same_side(tokenizer, side, ids, labels, mask):
    tokenizer.padding_side = side
    batch = TokenLabelCollator(tokenizer)(LABELLED)
    assert set(batch) == {"input_ids", "attention_mask", "labels", "row"}
    assert batch["input_ids"].tolist() == [ids, LABELLED["input_ids"][1]]
    assert batch["labels"].tolist() == [labels, LABELLED["labels"][1]]
    assert batch["attention_mask"].tolist() == [mask, [1, 1, 1, 1]]
    assert batch["row"].tolist() == [3, 8]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
    given = pad(tokenizer, LABELLED["input_ids"], LABELLED["labels"], side="right")
    assert given["input_ids"][0].tolist() == [5, 6, 1, 1]
    assert tokenizer.padding_side == side


def test_a_last_token_with_the_id_of_the_padding_keeps_its_label_and_is_seen(tokenizer):
    assert tokenizer.pad_token_id == LABELLED["input_ids"][1][-1] == 1
    batch = TokenLabelCollator(tokenizer)(LABELLED)
    assert batch["labels"][1, -1] == 1
    assert batch["attention_mask"][1, -1] == 1


def test_columns_that_models_do_not_take_stay_behind(tokenizer):
    columns = {**LABELLED, "length": [2, 4], "tokens": [2, 4], "block": [0, 0], "token_type_ids": [[0] * 2, [0] * 4]}
    assert set(TokenLabelCollator(tokenizer)(columns)) == {"input_ids", "attention_mask", "labels", "row"}


@pytest.mark.parametrize("side", ["left", "right"])
def test_packed_rows_are_padded_behind_by_a_sequence_of_its_own_and_have_no_mask(tokenizer, side):
    tokenizer.padding_side = side
    batch = TokenLabelCollator(tokenizer)({**LABELLED, "position_ids": [[0, 0], [0, 1, 0, 1]]})
    assert set(batch) == {"input_ids", "labels", "position_ids", "row"}
    assert batch["input_ids"].tolist() == [[5, 6, 1, 1], [7, 8, 9, 1]]
    assert batch["labels"].tolist() == [[-100, 6, *GAP], [-100, 8, 9, 1]]
    assert batch["position_ids"].tolist() == [[0, 0, 0, 1], [0, 1, 0, 1]]


def test_a_tokenizer_that_asks_for_no_mask_gets_one(tokenizer):
    tokenizer.model_input_names = ["input_ids"]
    assert TokenLabelCollator(tokenizer)(LABELLED)["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    packed = TokenLabelCollator(tokenizer)({**LABELLED, "position_ids": [[0, 0], [0, 1, 0, 1]]})
    assert "attention_mask" not in packed


def test_texts_are_cut_to_the_length_that_the_tokenizer_was_saved_with(tokenizer):
    tokenizer.model_max_length = 4
    batch = tokenize(tokenizer, ["good film bad plot", "sad"])
    assert batch["input_ids"].shape == (2, 4)
    assert "labels" not in batch
    tokenizer.model_max_length = 8
    pair = tokenize(tokenizer, [("good", "sad")])
    assert tokenizer.decode(pair["input_ids"][0]) == "[CLS] good [SEP] sad [SEP]"
