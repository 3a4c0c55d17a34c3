from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from peftlit.data.collate import PadCollator
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
