from __future__ import annotations

import datasets
import pytest

from peftlit.data import WikiText2
from peftlit.data.datasets.wikitext import articles
from tests.data.helpers import refusal, write_jsonl

RIVER = ["", " = River = \n", "", " It is long . \n", "", " = = References = = \n", "", " A book . \n", ""]
SHIP = ["", " = Ship = \n", "", " It is fast . \n", " = = References = = \n", " A book . \n", ""]
TOWN = ["", " = Town = \n", "", " It is = old = . \n", " = = = Notes = = = \n", ""]
LINES = {"train": RIVER + SHIP + TOWN + RIVER, "validation": SHIP, "test": TOWN + RIVER}
HUB = "Salesforce/wikitext wikitext-2-raw-v1"


def on(hub, **changes: list[str | None]) -> list[tuple[object, ...]]:
    """A line a row with its line feed, blank rows between them."""
    return hub(**{split: datasets.Dataset.from_dict({"text": rows}) for split, rows in {**LINES, **changes}.items()})


def test_lines_become_articles_that_begin_with_their_heading():
    for lines, expected in (
        (
            RIVER + SHIP + TOWN,
            [
                " = River = \n It is long . \n = = References = = \n A book . ",
                " = Ship = \n It is fast . \n = = References = = \n A book . ",
                " = Town = \n It is = old = . \n = = = Notes = = = ",
            ],
        ),
        ([" a line \n", "", " = Ship = \n", " fast "], [" a line ", " = Ship = \n fast "]),
        (["", " \n"], []),
    ):
        assert list(articles(lines)) == expected
        assert list(articles(line.rstrip("\n") for line in lines)) == expected


def test_the_hubs_configuration_is_named_and_its_splits_are_taken(hub):
    asked = on(hub)
    data = WikiText2(revision="abc")
    splits = data.read()
    assert asked == [("Salesforce/wikitext", "wikitext-2-raw-v1", "abc")]
    assert {split: part["row"][:] for split, part in splits.items()} == {
        "train": [1, 2, 3, 4], "validation": [1], "test": [1, 2]
    }  # fmt: skip
    manifest = data.manifest()
    assert (manifest["cut_from_train"], manifest["problem_type"]) == (None, "language_modeling")
    assert manifest["sources"]["test"] == f"{HUB} test"


def test_articles_are_checked_and_not_headings_or_blank_rows(hub):
    on(hub)
    reports = WikiText2().manifest()["splits"]
    assert {split: report["empty_texts"] for split, report in reports.items()} == dict.fromkeys(reports, 0)
    assert reports["train"]["duplicate_rows"] == [4], "the river again, and no line of references"
    assert reports["validation"]["duplicates_of"] == {"train": 1}
    assert reports["test"]["duplicate_rows_of"] == {"train": [1, 2]}
    assert refusal(WikiText2(strict=True).read) == f"{HUB} train, row 4: repeats an earlier text (1 do; strict)"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"validation": ["", None]}, "validation, row 2: text is None, needs a text"),
        ({"test": ["", " \n"]}, "test: no documents"),
    ],
)
def test_a_split_without_texts_is_refused(hub, changes, said):
    on(hub, **changes)
    assert refusal(WikiText2().read) == f"{HUB} {said}"


def test_local_files_are_lines_as_well_and_validation_is_cut_by_article(tmp_path):
    lines = [line for i in range(30) for line in (f" = Ship {i} = ", f" number {i} ", " = = References = = ")]
    for split, part in (("train", lines), ("test", TOWN)):
        write_jsonl(tmp_path / f"{split}.jsonl", [{"text": line} for line in part])
    data = WikiText2(data_dir=str(tmp_path), validation_share=0.2)
    splits = {split: part["text"][:] for split, part in data.read().items()}
    assert {split: len(texts) for split, texts in splits.items()} == {"train": 24, "validation": 6, "test": 1}
    assert sorted(splits["train"] + splits["validation"]) == sorted(articles(lines))
    assert splits["test"] == list(articles(TOWN))
    assert data.sources["validation"] == data.sources["train"] == str(tmp_path / "train.jsonl")


def test_real_wikitext_is_read_by_article(shared):
    splits = WikiText2(data_dir=str(shared / "data" / "wikitext2_raw")).read()
    assert {split: len(part) for split, part in splits.items()} == {"train": 59, "validation": 60, "test": 47}
    assert all(text.startswith(" = ") and text[3] != "=" for part in splits.values() for text in part["text"])
