from __future__ import annotations

import pytest

from peftlit.data import Reviews
from tests import tiny
from tests.data.helpers import WHOLE, labelled, write_jsonl


def _reviews(tmp_path, texts: list[str], **settings) -> Reviews:
    rows = [{"text": text, "label": i % 2} for i, text in enumerate(texts)]
    return Reviews(file=write_jsonl(tmp_path / "reviews.jsonl", rows), **WHOLE, **settings)


def test_the_manifest_says_how_many_texts_each_step_changed(tmp_path):
    data = _reviews(tmp_path, ["a &amp; b", "c<br>d", "e  f", "g", "&lt;i&gt; h"])
    data.read()
    data.read()
    assert data.manifest()["cleaning"] == {"html": 2, "tags": 1, "whitespace": 1}
    assert data.manifest() == data.manifest()


@pytest.mark.parametrize(
    ("steps", "text"), [([], "a &amp; <b> "), (["whitespace"], "a &amp; <b>"), (["html"], "a & <b> ")]
)
def test_only_the_declared_steps_run(tmp_path, steps, text):
    data = _reviews(tmp_path, ["a &amp; <b> ", "other"], cleaning_steps=steps)
    assert data.read()["train"]["text"][0] == text
    assert list(data.manifest()["cleaning"]) == steps


def test_texts_that_cleaning_empties_or_makes_equal_are_counted(tmp_path):
    report = _reviews(tmp_path, ["<br>", "good  film", "x", "good film"]).manifest()["splits"]["train"]
    assert report["empty_text_rows"] == [1]
    assert report["duplicate_rows"] == [4]


@pytest.mark.slow
def test_40432_reviews_split_72_8_20_make_1820_batches_of_16_an_epoch(tmp_path):
    folder = tmp_path / "tokenizer"
    tiny.write_tokenizer(folder)
    file = write_jsonl(tmp_path / "reviews.jsonl", labelled([int(i % 5 < 2) for i in range(40_432)]))
    data = Reviews(file=file, tokenizer=str(folder), batch_size=16)
    sizes = {name: len(rows) for name, rows in data.read().items()}
    assert sum(sizes.values()) == 40_432
    for name, share in (("train", 0.72), ("validation", 0.08), ("test", 0.2)):
        assert abs(sizes[name] - share * 40_432) < 2, "two classes, each off by less than one row"
    data.setup("fit")
    assert len(data.train_dataloader()) == 1_820
