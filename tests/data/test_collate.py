from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from peftlit.batch import Batch
from peftlit.data.collate import PadCollator, TokenLabelCollator, pad, tokenize
from tests import tiny

COLUMNS = {
    "input_ids": [[5, 6], [7, 8, 9, 5]],
    "attention_mask": [[1, 1], [1, 1, 1, 1]],
    "label": [1, 0],
    "row": [3, 8],
}
LABELLED = {"input_ids": [[5, 6], [7, 8, 9, 1]], "labels": [[-100, 6], [-100, 8, 9, 1]], "row": [3, 8]}
PACKED = {**LABELLED, "position_ids": [[0, 0], [0, 1, 0, 1]]}


@pytest.fixture
def tokenizer(tmp_path) -> PreTrainedTokenizerBase:
    return tiny.write_tokenizer(tmp_path)


def _lists(batch: Batch) -> dict[str, Any]:
    """Return a batch, all of int64, as lists."""
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
    return {name: tensor.tolist() for name, tensor in batch.items()}


@pytest.mark.parametrize(
    ("side", "ids", "mask"),
    [("right", [5, 6, 1, 1], [1, 1, 0, 0]), ("left", [1, 1, 5, 6], [0, 0, 1, 1])],
)
def test_rows_are_padded_to_the_longest_of_the_batch_on_the_tokenizers_side(tokenizer, side, ids, mask):
    tokenizer.padding_side = side
    assert _lists(PadCollator(tokenizer)(COLUMNS)) == {
        "input_ids": [ids, [7, 8, 9, 5]],
        "attention_mask": [mask, [1, 1, 1, 1]],
        "labels": [1, 0],
        "row": [3, 8],
    }


def test_only_inputs_that_the_model_takes_are_handed_over(tokenizer):
    columns = {**COLUMNS, "token_type_ids": [[0, 0], [0, 0, 1, 1]], "length": [2, 4]}
    assert "token_type_ids" not in PadCollator(tokenizer)(columns)
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    batch = PadCollator(tokenizer)(columns)
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 0], [0, 0, 1, 1]]
    assert "length" not in batch


def test_rows_without_tokens_stay_int64(tokenizer):
    batch = PadCollator(tokenizer)({**COLUMNS, "input_ids": [[], []], "attention_mask": [[], []]})
    assert (batch["input_ids"].shape, batch["input_ids"].dtype) == ((2, 0), torch.int64)


@pytest.mark.parametrize("labels", [[[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]], [4.0, 2.5]], ids=["label sets", "values"])
def test_labels_have_the_type_that_their_loss_takes(tokenizer, labels):
    found = PadCollator(tokenizer)({**COLUMNS, "label": labels})["labels"]
    assert (found.dtype, found.tolist()) == (torch.float32, labels)


@pytest.mark.parametrize(
    ("side", "ids", "labels", "mask"),
    [
        ("right", [5, 6, 1, 1], [-100, 6, -100, -100], [1, 1, 0, 0]),
        ("left", [1, 1, 5, 6], [-100, -100, -100, 6], [0, 0, 1, 1]),
    ],
)
def test_tokens_and_their_labels_are_padded_on_the_same_side(tokenizer, side, ids, labels, mask):
    """A last token with the id of the padding keeps its label and is seen; other columns stay behind."""
    tokenizer.padding_side = side
    assert tokenizer.pad_token_id == LABELLED["input_ids"][1][-1]
    others = {"length": [2, 4], "tokens": [2, 4], "block": [0, 0], "token_type_ids": [[0] * 2, [0] * 4]}
    assert _lists(TokenLabelCollator(tokenizer)({**LABELLED, **others})) == {
        "input_ids": [ids, [7, 8, 9, 1]],
        "labels": [labels, [-100, 8, 9, 1]],
        "attention_mask": [mask, [1, 1, 1, 1]],
        "row": [3, 8],
    }
    given = pad(tokenizer, LABELLED["input_ids"], LABELLED["labels"], side="right")
    assert given["input_ids"][0].tolist() == [5, 6, 1, 1]
    assert tokenizer.padding_side == side


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("inputs", [["input_ids"], ["input_ids", "attention_mask"]], ids=len)
def test_packed_rows_are_padded_behind_by_a_sequence_of_its_own_and_have_no_mask(tokenizer, side, inputs):
    tokenizer.padding_side, tokenizer.model_input_names = side, inputs
    assert _lists(TokenLabelCollator(tokenizer)(PACKED)) == {
        "input_ids": [[5, 6, 1, 1], [7, 8, 9, 1]],
        "labels": [[-100, 6, -100, -100], [-100, 8, 9, 1]],
        "position_ids": [[0, 0, 0, 1], [0, 1, 0, 1]],
        "row": [3, 8],
    }


def test_a_tokenizer_that_asks_for_no_mask_gets_one(tokenizer):
    tokenizer.model_input_names = ["input_ids"]
    assert TokenLabelCollator(tokenizer)(LABELLED)["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]


def test_texts_are_cut_to_the_length_that_the_tokenizer_was_saved_with(tokenizer):
    tokenizer.model_max_length = 4
    batch = tokenize(tokenizer, ["good film bad plot", "sad"])
    assert batch["input_ids"].shape == (2, 4)
    assert "labels" not in batch
    tokenizer.model_max_length = 8
    pair = tokenize(tokenizer, [("good", "sad")])
    assert tokenizer.decode(pair["input_ids"][0]) == "[CLS] good [SEP] sad [SEP]"
