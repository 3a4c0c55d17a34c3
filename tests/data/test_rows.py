from __future__ import annotations

import pytest

from peftlit.data.cleaning import Cleaner
from peftlit.data.labels import ClassLabels
from peftlit.data.rows import TextReader
from tests.data.helpers import refusal


def _read_row(values: dict[str, object], *, strict: bool = False) -> dict[str, object]:
    labels, cleaner = ClassLabels(["neg", "pos"], "label"), Cleaner(["tags", "whitespace"])
    return TextReader({"text": "body"}, labels, cleaner, strict=strict).read_row(values, "rows.jsonl", 12345)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"bdy": "x", "label": 0}, "no column 'body'; did you mean 'bdy'? its columns are bdy, label"),
        ({"body": "x"}, "no column 'label'; its columns are body"),
        ({"body": None, "label": 0}, "body is None, needs a text"),
        ({"body": "x", "label": None}, "no label in column 'label'; every row needs one"),
        ({"body": "x", "label": "po"}, "unknown label 'po'; did you mean 'pos'? known are neg, pos"),
    ],
)
def test_a_wrong_row_is_refused_with_its_source_and_number(values, says):
    assert refusal(lambda: _read_row(values)) == f"rows.jsonl, row 12345: {says}"


def test_empty_texts_are_kept_unless_strict():
    row = {"body": "<br>", "label": "neg"}
    assert _read_row(row) == {"row": 12345, "text": "", "label": 0}
    assert refusal(lambda: _read_row(row, strict=True)) == "rows.jsonl, row 12345: empty text (strict)"
