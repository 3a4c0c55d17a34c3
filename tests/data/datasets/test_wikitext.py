from __future__ import annotations

import datasets
import pytest

from peftlit.data import WikiText2
from peftlit.data.datasets.wikitext import articles
from tests import tiny
from tests.data.helpers import refusal, write_jsonl

RIVER = ["", " = River = \n", "", " It is long . \n", "", " = = References = = \n", "", " A book . \n", ""]
SHIP = ["", " = Ship = \n", "", " It is fast . \n", " = = References = = \n", " A book . \n", ""]
TOWN = ["", " = Town = \n", "", " It is = old = . \n", " = = = Notes = = = \n", ""]


@pytest.fixture
def hub(monkeypatch) -> dict[str, datasets.Dataset]:
    """Stand in for the hub: a line a row with its line feed, blank rows between them."""
    lines = {"test": TOWN + RIVER, "train": RIVER + SHIP + TOWN + RIVER, "validation": SHIP}
    hub = {split: datasets.Dataset.from_dict({"text": rows}) for split, rows in lines.items()}
    monkeypatch.setattr("peftlit.data.datasets.wikitext.read_hub", lambda *given: hub)
    return hub


def test_lines_become_articles_that_begin_with_their_heading():
    found = list(articles(RIVER + SHIP + TOWN))
    assert found == [
        " = River = \n It is long . \n = = References = = \n A book . ",
        " = Ship = \n It is fast . \n = = References = = \n A book . ",
        " = Town = \n It is = old = . \n = = = Notes = = = ",
    ]


@pytest.mark.parametrize("lines", [RIVER + SHIP, [line.rstrip("\n") for line in RIVER + SHIP]])
def test_line_feeds_at_the_ends_make_no_difference(lines):
    assert list(articles(lines)) == list(articles(RIVER + SHIP))


def test_what_stands_before_the_first_heading_is_an_article_too():
    assert list(articles([" a line \n", "", " = Ship = \n", " fast "])) == [" a line ", " = Ship = \n fast "]
    assert list(articles(["", " \n"])) == []


def test_the_hubs_configuration_is_named_and_its_splits_are_taken(hub, monkeypatch):
    asked = []
    monkeypatch.setattr("peftlit.data.datasets.wikitext.read_hub", lambda *given: asked.append(given) or hub)
    data = WikiText2(revision="abc")
    splits = data.read()
    assert asked == [("Salesforce/wikitext", "wikitext-2-raw-v1", "abc")]
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 4, "validation": 1, "test": 2}
    assert splits["train"]["row"][:] == [1, 2, 3, 4]
    manifest = data.manifest()
    assert manifest["cut_from_train"] is None
    assert manifest["sources"]["test"] == "Salesforce/wikitext wikitext-2-raw-v1 test"
    assert manifest["problem_type"] == "language_modeling"


@pytest.mark.usefixtures("hub")
def test_articles_are_checked_and_not_headings_or_blank_rows():
    reports = WikiText2().manifest()["splits"]
    assert {split: report["empty_texts"] for split, report in reports.items()} == dict.fromkeys(reports, 0)
    assert reports["train"]["duplicate_rows"] == [4], "the river again, and no line of references"
    assert reports["validation"]["duplicates_of"] == {"train": 1}
    assert reports["test"]["duplicate_rows_of"] == {"train": [1, 2]}
    message = refusal(WikiText2(strict=True).read)
    assert message == "Salesforce/wikitext wikitext-2-raw-v1 train, row 4: repeats an earlier text (1 do; strict)"


def test_a_row_without_a_text_is_refused_by_split_and_row(hub):
    hub["validation"] = datasets.Dataset.from_dict({"text": ["", None]})
    message = refusal(WikiText2().read)
    assert message == "Salesforce/wikitext wikitext-2-raw-v1 validation, row 2: text is None, needs a text"


def test_a_split_of_blank_rows_is_refused(hub):
    hub["test"] = datasets.Dataset.from_dict({"text": ["", " \n"]})
    assert refusal(WikiText2().read) == "Salesforce/wikitext wikitext-2-raw-v1 test: no documents"


def test_local_files_are_lines_as_well(tmp_path):
    for split, lines in (("train", RIVER + SHIP), ("test", TOWN)):
        write_jsonl(tmp_path / f"{split}.jsonl", [{"text": line} for line in lines])
    data = WikiText2(data_dir=str(tmp_path), validation_share=0.0)
    assert {split: rows["text"][:] for split, rows in data.read().items()} == {
        "train": list(articles(RIVER + SHIP)),
        "test": list(articles(TOWN)),
    }
    assert data.sources["train"] == str(tmp_path / "train.jsonl")


def test_validation_is_cut_by_article_where_there_is_none(tmp_path):
    lines = [line for i in range(30) for line in (f" = Ship {i} = ", f" number {i} ", " = = References = = ")]
    write_jsonl(tmp_path / "train.jsonl", [{"text": line} for line in lines])
    splits = WikiText2(data_dir=str(tmp_path), validation_share=0.2).read()
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 24, "validation": 6}
    assert all(text.startswith(" = Ship ") for rows in splits.values() for text in rows["text"])


def test_no_block_holds_two_articles(tmp_path):
    tiny.write_tokenizer(tmp_path / "tokenizer", decoder=True)
    lines = [line for i in range(9) for line in (f" = {tiny.WORDS[i]} = ", f" {tiny.WORDS[i]} " * 15)]
    write_jsonl(tmp_path / "train.jsonl", [{"text": line} for line in lines])
    data = WikiText2(
        data_dir=str(tmp_path), validation_share=0.0, tokenizer=str(tmp_path / "tokenizer"), max_length=8, seed=1
    )
    data.setup("fit")
    rows = [row for batch in data.train_dataloader() for row in zip(batch["input_ids"], batch["row"], strict=True)]
    assert len(rows) == 9 * 3
    first = data.get_tokenizer().convert_tokens_to_ids(tiny.WORDS[0])
    for ids, number in rows:
        assert {i for i in ids.tolist() if i >= first} == {first + int(number) - 1}


def test_real_wikitext_is_read_by_article(shared):
    data = WikiText2(data_dir=str(shared / "data" / "wikitext2_raw"))
    splits = data.read()
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 59, "validation": 60, "test": 47}
    for rows in splits.values():
        assert all(text.startswith(" = ") and not text.startswith(" = = ") for text in rows["text"])
