from __future__ import annotations

import pytest

from peftlit.data import Reviews
from tests import tiny
from tests.data.helpers import WHOLE, labelled, write_jsonl


def reviews(tmp_path, texts: list[str], **settings) -> Reviews:
    rows = [{"text": text, "label": i % 2} for i, text in enumerate(texts)]
    return Reviews(file=write_jsonl(tmp_path / "reviews.jsonl", rows), **WHOLE, **settings)


def test_the_manifest_says_how_many_texts_each_step_changed_and_what_came_of_them(tmp_path):
    data = reviews(tmp_path, ["a &amp; b", "c<br>d", "e  f", "g", "&lt;i&gt; h", "<br>", "c d"])
    manifest = data.manifest()
    assert manifest["cleaning"] == {"html": 2, "tags": 2, "whitespace": 2}
    report = manifest["splits"]["train"]
    assert (report["empty_text_rows"], report["duplicate_rows"]) == ([6], [7])
    assert data.manifest() == manifest, "read once"


@pytest.mark.parametrize(
    ("steps", "text"), [([], "a &amp; <b> "), (["whitespace"], "a &amp; <b>"), (["html"], "a & <b> ")]
)
def test_only_the_declared_steps_run(tmp_path, steps, text):
    data = reviews(tmp_path, ["a &amp; <b> ", "other"], cleaning_steps=steps)
    assert data.read()["train"]["text"][0] == text
    assert list(data.manifest()["cleaning"]) == steps


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
