"""What an export says of texts, and how it is taken back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import peftlit
from peftlit.errors import RunFolderError
from peftlit.export.load import text_columns
from peftlit.export.write import export
from peftlit.modules.heads import PooledHead
from tests.modules.cases import Case, make_module, tokenizer
from tests.modules.language_cases import lora, make_language_module, shake

TEXTS = {"cleaning_steps": ["tags", "whitespace"], "text_columns": ["question", "review"]}


def exported(base: Path, folder: Path, changes: dict[str, Any]) -> Path:
    """An export whose record of texts is changed; a change to None takes an entry out."""
    export(shake(make_language_module("text", base, lora("llama"), data=TEXTS)), tokenizer(base), folder, {})
    file = folder / "problem.json"
    record = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({name: value for name, value in record.items() if value is not None}))
    return folder


def test_the_export_says_how_texts_are_cleaned_and_where_they_stood(language_folder, tmp_path, caplog):
    with caplog.at_level("INFO", "peftlit"):
        folder = exported(language_folder("llama"), tmp_path / "adapter", {})
    assert [line for line in caplog.messages if "cleaned" in line] == [
        "texts are cleaned before the tokenizer (tags, whitespace): predict and peftlit.load do it; with plain "
        "transformers, clean them first (peftlit.data.cleaning.Cleaner)"
    ]
    assert text_columns(folder) == ["question", "review"]
    assert peftlit.load(folder, device="cpu").cleaner.steps == ["tags", "whitespace"]


def test_an_earlier_export_cleans_nothing(language_folder, tmp_path):
    folder = exported(language_folder("llama"), tmp_path / "adapter", dict.fromkeys(TEXTS))
    assert text_columns(folder) == ["text"]
    assert peftlit.load(folder, device="cpu").cleaner.steps == []


def test_a_head_of_an_earlier_release_is_found_by_its_old_path(model_folder, tmp_path):
    module = shake(make_module(Case("bert", "lora"), model_folder("bert"), head=PooledHead()))
    export(module, tokenizer(model_folder("bert")), tmp_path / "adapter", {})
    file = tmp_path / "adapter/head.json"
    file.write_text(file.read_text().replace("peftlit.modules.heads.PooledHead", "peftlit.modules.heads.PooledHead"))
    assert "peftlit.modules.heads" in file.read_text()
    assert isinstance(peftlit.load(tmp_path / "adapter", device="cpu").module.head, PooledHead)


NO_STEPS = ["tags", ["lower"], [["tags"]], 3, {"tags": 1}]
NO_COLUMNS = ["text", [], [1], ["a", "b", "c"], {"a": "b"}]


def test_steps_and_columns_that_are_none_are_refused(language_folder, tmp_path):
    folder = exported(language_folder("llama"), tmp_path / "adapter", {})
    record = json.loads((folder / "problem.json").read_text())
    for name, read, needs, values in (
        ("cleaning_steps", peftlit.load, "a list of html, tags, white", NO_STEPS),
        ("text_columns", text_columns, "one or two names", NO_COLUMNS),
    ):
        for value in values:
            (folder / "problem.json").write_text(json.dumps({**record, name: value}))
            with pytest.raises(RunFolderError, match=rf"problem.json: {name} is .*, needs {needs}"):
                read(folder)
