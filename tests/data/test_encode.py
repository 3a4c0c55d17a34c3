from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from peftlit.data import cache
from peftlit.data.encode import map_once, tokenizer_state
from tests import tiny


def mapped(key: list, calls: list[int]) -> datasets.Dataset:
    def double(batch):
        calls.append(len(batch["row"]))
        return {"twice": [2 * row for row in batch["row"]]}

    given = datasets.Dataset.from_dict({"row": list(range(5)), "text": ["x"] * 5})
    return map_once(given, double, key, num_proc=1, desc="doubling", remove=["text"])


def test_whoever_gives_the_same_key_again_gets_what_was_made_while_it_is_on_disk():
    calls: list[int] = []
    first, again = mapped(["once", {"a": 1}], calls), mapped(["once", {"a": 1}], calls)
    assert calls == [5]
    assert first.column_names == ["row", "twice"]
    assert first["twice"][:] == again["twice"][:] == [0, 2, 4, 6, 8]
    Path(first.cache_files[0]["filename"]).unlink()
    mapped(["once", {"a": 1}], calls)
    assert calls == [5, 5]


def test_another_key_is_other_work_in_another_file():
    calls: list[int] = []
    made = [mapped(["other", key], calls) for key in (1, 2, "1", [1], None)]
    assert calls == [5] * 5
    files = {file["filename"] for one in made for file in one.cache_files}
    assert len(files) == 5
    assert {Path(file).parents[1] for file in files} == {Path(datasets.config.HF_DATASETS_CACHE, "peftlit")}


@pytest.mark.parametrize("changed", ["transformers", "tokenizers", "our code"])
def test_another_version_of_what_makes_tokens_is_other_work(monkeypatch, changed):
    calls: list[int] = []
    mapped(["version", changed], calls)
    kept = Path.read_bytes
    if changed == "our code":
        monkeypatch.setattr(Path, "read_bytes", lambda self: kept(self) + b"#" * (self.name == "blocks.py"))
    else:
        monkeypatch.setattr(getattr(cache, changed), "__version__", "0.0.1")
    cache._versions.cache_clear()
    mapped(["version", changed], calls)
    monkeypatch.undo()
    cache._versions.cache_clear()
    mapped(["version", changed], calls)
    assert calls == [5, 5]


def test_a_function_that_fails_leaves_nothing_to_be_found_again():
    def fail(batch):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        map_once(datasets.Dataset.from_dict({"row": [1]}), fail, ["failed"], num_proc=1, desc="failing", remove=[])
    calls: list[int] = []
    assert mapped(["failed"], calls)["twice"][:] == [0, 2, 4, 6, 8]
    assert calls == [5]


def test_a_tokenizers_state_tells_whatever_changes_its_answers(tmp_path):
    plain = tokenizer_state(tiny.write_tokenizer(tmp_path, decoder=True))
    assert tokenizer_state(tiny.write_tokenizer(tmp_path)) != plain, "the vocabulary"
    for name, value in {
        "truncation_side": "left", "model_input_names": ["input_ids"], "eos_token": "[UNK]", "chat_template": "{{ a }}"
    }.items():  # fmt: skip
        other = tiny.write_tokenizer(tmp_path, decoder=True)
        assert tokenizer_state(other) == plain
        setattr(other, name, value)
        assert tokenizer_state(other) != plain, name


def test_a_tokenizer_written_in_python_has_a_state():
    from transformers import ByT5Tokenizer

    assert tokenizer_state(ByT5Tokenizer()) == tokenizer_state(ByT5Tokenizer())
    assert tokenizer_state(ByT5Tokenizer()) != tokenizer_state(ByT5Tokenizer(extra_ids=5))
