from __future__ import annotations

import pytest

from peftlit.data.cleaning import Cleaner
from tests.data.helpers import labelled, text_files


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("Tom &amp; Jerry", "Tom & Jerry"),
        ("good<br /><br/>film", "good film"),
        ("&lt;b&gt;good&lt;/b&gt;", "<b>good</b>"),
        ("works if a <b and c> d, cost &lt;five dollars&gt; only", "works if a <b and c> d, cost <five dollars> only"),
        ("<DIV CLASS=\"a b\" hidden><a href = 'x'>good</a >", "good"),
        ('<input type=hidden value="a > b"/>good', "good"),
        (r"<a class=\"link\">good</a>", "good"),
        ("a<!-- <b>no -->b<!DOCTYPE html>", "a b"),
        ("<3 <five> </three> <mask> List<String> <a.b@c.de>", "<3 <five> </three> <mask> List<String> <a.b@c.de>"),
        ("&#39;&#x27;&nbsp;AT&T &notit; a?b=1&copy=2", "'' AT&T &notit; a?b=1&copy=2"),
        (" two\n\tlines\u00a0here ", "two lines here"),
        ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
        ("<3 this <not closed", "<3 this <not closed"),
        ("clean", "clean"),
    ],
)
def test_cleaning_takes_out_markup_and_nothing_else(raw, clean):
    assert Cleaner(["html", "tags", "whitespace"])(raw) == clean


def test_steps_run_in_one_order_however_they_are_named_and_count_what_they_remove():
    cleaner = Cleaner(["whitespace", "html", "tags"])
    assert cleaner.steps == ["tags", "html", "whitespace"]
    assert [cleaner(text) for text in (" a<br>b", "c  d", "&lt;i&gt;", "e")] == ["a b", "c d", "<i>", "e"]
    assert cleaner.changed == {"tags": 1, "html": 1, "whitespace": 2}
    assert cleaner.removed == {"tags": 3, "html": 6, "whitespace": 2}


def test_pairs_and_conversations_are_cleaned_and_what_is_no_text_is_left():
    clean = Cleaner(["tags", "whitespace"]).clean_all
    assert clean(["a<br>b", ("c<br>", "d")]) == ["a b", ("c", "d")]
    assert clean([{"role": "user", "content": " a<br>"}]) == [{"role": "user", "content": "a"}]
    assert clean([None, 3, {"role": "user"}]) == [None, 3, {"role": "user"}]


@pytest.mark.parametrize("part", ["<!--", '<a b="', "<a ", "<a b=c ", "&", "<a b= "])
def test_markup_that_never_ends_takes_time_in_proportion_to_its_length(part):
    text = part * 20_000  # a quadratic pattern would not come to an end
    assert Cleaner(["tags", "html"])(text) == text


def test_any_set_can_be_cleaned_and_what_was_removed_is_said_once_and_is_in_the_manifest(tmp_path, caplog):
    rows = [{"text": "a<br />b  c &amp;", "label": "x"}, *labelled(["y"])]
    data = text_files(tmp_path, rows, cleaning_steps=["whitespace", "tags"])
    with caplog.at_level("INFO", "peftlit"):
        manifest = data.manifest()
    said = "cleaning: tags removed 5 characters from 1 texts, whitespace removed 1 characters from 1 texts"
    assert [message for message in caplog.messages if message.startswith("cleaning")] == [said]
    assert data.read()["train"]["text"][0] == "a b c &amp;"
    assert manifest["removed_characters"] == {"tags": 5, "whitespace": 1}
    assert manifest["cleaning"] == {"tags": 1, "whitespace": 1}  # as before, so that earlier runs can be resumed


def test_both_texts_of_a_pair_are_cleaned(tmp_path):
    rows = [{"text": "a  b", "other": "c  d", "label": "x"}, {"text": "e", "other": "f", "label": "y"}]
    data = text_files(tmp_path, rows, text_pair_column="other", cleaning_steps=["whitespace"])
    assert data.read()["train"][0]["text_pair"] == "c d"
    assert data.manifest()["cleaning"] == {"whitespace": 2}
