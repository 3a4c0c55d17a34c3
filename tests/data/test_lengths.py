from __future__ import annotations

import logging

import pytest

from peftlit.data import TextFiles
from peftlit.data.lengths import line, summarise
from tests import tiny
from tests.data.helpers import text_files

ROWS = [{"text": " ".join(tiny.WORDS[:words]), "label": words % 2} for words in (1, 2, 3, 4, 40)]
EXPECTED = {
    "rows": 5, "mean": 12.0, "median": 5, "percentile_95": 42, "longest": 42, "max_length": 8, "cut": 1
}  # fmt: skip
"""With [CLS] and [SEP] the rows have 3, 4, 5, 6 and 42 tokens."""


@pytest.mark.parametrize(("rows", "place"), [(1, 1), (19, 19), (20, 19), (21, 20), (100, 95), (1000, 950)])
def test_at_least_95_percent_of_the_rows_are_no_longer_than_the_95th_percentile(rows, place):
    assert summarise(range(1, rows + 1), 8)["percentile_95"] == place


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        (
            [10] * 2499 + [1203] * 2500,
            "train: 4,999 rows, tokens a row: mean 607, median 1,203, 95 % 1,203, longest 1,203; "
            "2,500 rows (50.0 %) cut to 256",
        ),
        ([256], "train: 1 rows, tokens a row: mean 256, median 256, 95 % 256, longest 256; none longer than 256"),
    ],
)
def test_the_line(tokens, says):
    assert line("train", summarise(tokens, 256)) == says


def _prepared(folder, encoder, **settings) -> TextFiles:
    data = text_files(folder, ROWS, **{"tokenizer": encoder, "max_length": 8, **settings})
    data.prepare_data()
    data.setup("fit")
    return data


def test_lengths_are_logged_once_and_kept_also_where_the_rows_come_from_the_cache(tmp_path, encoder, caplog):
    before = text_files(tmp_path, ROWS).manifest()
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.INFO, "peftlit"):
            data = _prepared(tmp_path, encoder)
        assert [message for message in caplog.messages if "tokens a row" in message] == [
            "train: 5 rows, tokens a row: mean 12, median 5, 95 % 42, longest 42; 1 rows (20.0 %) cut to 8"
        ]
        assert data.lengths == {"train": EXPECTED}
        manifest = data.manifest()
        assert (before["lengths"], manifest["lengths"]) == ({}, {"train": EXPECTED})
        assert manifest["sha256"] == before["sha256"]


def test_every_split_has_its_lengths_and_pairs_count_both_texts(tmp_path, encoder):
    rows = [{"text": "good film", "b": "bad plot", "label": 0}, {"text": "sad", "b": "it is", "label": 1}]
    data = text_files(tmp_path, rows, rows[:1], text_pair_column="b", tokenizer=encoder, max_length=6)
    data.prepare_data()
    assert {split: lengths["longest"] for split, lengths in data.lengths.items()} == {"train": 7, "test": 7}
    assert data.lengths["train"]["cut"] == 1


@pytest.mark.parametrize("pair", [False, True])
def test_long_rows_are_cut_as_the_tokenizer_does_and_they_alone_are_tokenized_twice(tmp_path, encoder, tokenized, pair):
    texts = [f"{row['text']} {pair}" for row in ROWS]
    rows = [{"text": text, "b": text, "label": i % 2} for i, text in enumerate(texts)]
    data = text_files(tmp_path, rows, tokenizer=encoder, max_length=20, text_pair_column="b" if pair else None)
    data.setup("fit")
    assert tokenized == dict.fromkeys(texts[:-1], 1) | {texts[-1]: 2}
    for row in data._encoded["train"]:
        given = [texts[row["row"] - 1]] * (1 + pair)
        assert row["input_ids"] == data.get_tokenizer()(*given, truncation=True, max_length=20)["input_ids"]
        assert row["length"] == len(row["input_ids"]) == min(20, row["tokens"])
        assert row["tokens"] == len(data.get_tokenizer()(*given)["input_ids"])
