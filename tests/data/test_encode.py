from __future__ import annotations

from pathlib import Path

import datasets
import pytest
import tokenizers
import transformers

from peftlit.data import cache
from peftlit.data.encode import map_once, tokenizer_state
from tests import tiny


def mapped(key: list, calls: list[int], *, rows: int = 5, num_proc: int = 1) -> datasets.Dataset:
    def double(batch):
        calls.append(len(batch["row"]))
        return {"twice": [2 * row for row in batch["row"]]}

    given = datasets.Dataset.from_dict({"row": list(range(rows)), "text": ["x"] * rows})
    return map_once(given, double, key, num_proc=num_proc, desc="doubling", remove=["text"])


def test_whoever_gives_the_same_key_again_gets_what_was_made():
    calls: list[int] = []
    first = mapped(["once", {"a": 1}], calls)
    again = mapped(["once", {"a": 1}], calls)
    assert calls == [5]
    assert first.column_names == ["row", "twice"]
    assert first["twice"][:] == again["twice"][:] == [0, 2, 4, 6, 8]


def test_another_key_is_other_work_in_another_file():
    calls: list[int] = []
    made = [mapped(["other", key], calls) for key in (1, 2, "1", [1], None)]
    assert calls == [5] * 5
    files = {file["filename"] for one in made for file in one.cache_files}
    assert len(files) == 5
    assert {Path(file).parents[1] for file in files} == {Path(datasets.config.HF_DATASETS_CACHE, "peftlit")}


@pytest.mark.parametrize("module", [transformers, tokenizers])
def test_another_version_of_what_makes_tokens_is_other_work(monkeypatch, module):
    calls: list[int] = []
    mapped([module.__name__], calls)
    monkeypatch.setattr(module, "__version__", "0.0.1")
    cache._versions.cache_clear()
    mapped([module.__name__], calls)
    monkeypatch.undo()
    cache._versions.cache_clear()
    mapped([module.__name__], calls)
    assert calls == [5, 5]


def test_another_state_of_our_own_code_is_other_work(monkeypatch):
    calls: list[int] = []
    mapped(["code"], calls)
    kept = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: kept(self) + b"#" * (self.name == "blocks.py"))
    cache._versions.cache_clear()
    mapped(["code"], calls)
    monkeypatch.undo()
    cache._versions.cache_clear()
    assert calls == [5, 5]


def test_what_was_made_stays_on_disk_and_is_mapped_from_there():
    calls: list[int] = []
    (file,) = mapped(["disk"], calls).cache_files
    Path(file["filename"]).unlink()
    mapped(["disk"], calls)
    assert calls == [5, 5]


def test_a_function_that_fails_leaves_nothing_to_be_found_again():
    def fail(batch):
        raise ValueError("no")

    given = datasets.Dataset.from_dict({"row": [1]})
    with pytest.raises(ValueError, match="no"):
        map_once(given, fail, ["failed"], num_proc=1, desc="failing", remove=[])
    calls: list[int] = []
    assert mapped(["failed"], calls)["twice"][:] == [0, 2, 4, 6, 8]
    assert calls == [5]


def test_several_processes_make_the_same_rows():
    assert mapped(["two"], [], rows=40, num_proc=2)["twice"][:] == mapped(["one"], [], rows=40)["twice"][:]


@pytest.mark.parametrize("changed", ["vocabulary", "truncation_side", "inputs", "end", "template"])
def test_a_tokenizers_state_tells_whatever_changes_its_answers(tmp_path, changed):
    plain = tiny.write_tokenizer(tmp_path / "plain", decoder=True)
    other = tiny.write_tokenizer(tmp_path / "other", decoder=changed != "vocabulary")
    assert changed == "vocabulary" or tokenizer_state(other) == tokenizer_state(plain)
    if changed == "truncation_side":
        other.truncation_side = "left"
    if changed == "inputs":
        other.model_input_names = ["input_ids"]
    if changed == "end":
        other.eos_token = other.unk_token
    if changed == "template":
        other.chat_template = "{{ messages }}"
    assert tokenizer_state(other) != tokenizer_state(plain)


def test_a_tokenizer_written_in_python_has_a_state():
    from transformers import ByT5Tokenizer

    assert tokenizer_state(ByT5Tokenizer()) == tokenizer_state(ByT5Tokenizer())
    assert tokenizer_state(ByT5Tokenizer()) != tokenizer_state(ByT5Tokenizer(extra_ids=5))
