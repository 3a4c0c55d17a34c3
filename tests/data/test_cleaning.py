from __future__ import annotations

import pytest

from peftlit.data import TextFiles
from peftlit.data.cleaning import Cleaner
from peftlit.errors import ConfigError
from tests.data.helpers import labelled, text_files


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("Tom &amp; Jerry", "Tom & Jerry"),
        ("good<br /><br/>film", "good film"),
        ("&lt;b&gt;good&lt;/b&gt;", "good"),
        (" two\n\tlines\u00a0here ", "two lines here"),
        ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
        ("<3 this <not closed", "<3 this <not closed"),
        ("clean", "clean"),
    ],
)
def test_cleaning_takes_out_markup_and_nothing_else(raw, clean):
    assert Cleaner(["html", "tags", "whitespace"])(raw) == clean


def test_steps_run_in_their_order_and_count_what_they_change():
    cleaner = Cleaner(["whitespace", "tags"])
    assert [cleaner(text) for text in (" a<br>b", "c  d", "e")] == ["a b", "c d", "e"]
    assert cleaner.changed == {"whitespace": 2, "tags": 1}


def test_an_unknown_step_is_refused_before_anything_is_read():
    with pytest.raises(ConfigError, match="data.cleaning_steps: no step 'lower'; there are html, tags, whitespace"):
        TextFiles(train_file="-", cleaning_steps=["lower"])


@pytest.mark.parametrize(("steps", "text"), [([], "a &amp; <b> "), (["tags", "html"], "a &   ")])
def test_any_set_can_be_cleaned_by_declared_steps_which_the_manifest_counts(tmp_path, steps, text):
    rows = [{"text": "a &amp; <b> ", "label": "x"}, *labelled(["y"])]
    data = text_files(tmp_path, rows, cleaning_steps=steps)
    assert data.read()["train"]["text"][0] == text
    assert data.manifest()["cleaning"] == dict.fromkeys(steps, 1)


def test_both_texts_of_a_pair_are_cleaned(tmp_path):
    rows = [{"text": "a  b", "other": "c  d", "label": "x"}, {"text": "e", "other": "f", "label": "y"}]
    data = text_files(tmp_path, rows, text_pair_column="other", cleaning_steps=["whitespace"])
    assert data.read()["train"][0]["text_pair"] == "c d"
    assert data.manifest()["cleaning"] == {"whitespace": 2}
