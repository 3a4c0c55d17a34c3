"""P18 for language models: the reload check covers a fresh head and the prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from peftlit.adapters import FullFineTuning
from peftlit.data.tokenizer import load_tokenizer
from peftlit.errors import ReloadError
from peftlit.export import reload_check as reload
from peftlit.export import write as export_room
from peftlit.export.reload_check import compare_answers
from peftlit.export.write import export
from tests import tiny
from tests.conftest import toy_rows
from tests.modules.cases import NF4
from tests.modules.language_cases import CHAT_TEMPLATE, TWO_TOKENS, lora, make_language_module, shake

TEXTS = [row["text"] for row in toy_rows(4)]


def trained(kind: Any, family: str, folder: Path, adapter: Any, quantization: str | None = None, **more: Any) -> Any:
    config = {"lora": lora(family), "none": None, "full": FullFineTuning()}[adapter]
    return shake(make_language_module(kind, folder, config, backbone={"quantization": quantization}, **more))


def contract_reload(module: Any, folder: Path, out: Path, chat_template: str | None = None) -> None:
    tokenizer = load_tokenizer(str(folder), max_length=48)
    if chat_template:
        tokenizer.chat_template = chat_template
    export(module, tokenizer, out, {})
    compare_answers(module, tokenizer, TEXTS, out)


@pytest.mark.parametrize(
    ("kind", "family", "adapter", "quantization", "headless"),
    [
        ("labels", "llama", "lora", None, False),
        pytest.param("text", "gpt2", "lora", NF4, False, marks=pytest.mark.slow),
        pytest.param("text", "llama", "full", None, False, marks=pytest.mark.slow),
        pytest.param("masked", "bert", "lora", NF4, True, marks=pytest.mark.slow),
        pytest.param("masked", "roberta", "none", None, True, marks=pytest.mark.slow),
        pytest.param("masked", "modernbert", "lora", None, False, marks=pytest.mark.slow),
    ],
)
def test_p18_a_fresh_process_answers_the_same(
    kind, family, adapter, quantization, headless, model_folder, language_folder, tmp_path
):
    folder = model_folder(family) if headless else language_folder(family)
    contract_reload(trained(kind, family, folder, adapter, quantization), folder, tmp_path / "adapter")


@pytest.mark.slow
def test_p18_layers_too_narrow_for_the_cpus_own_kernel_are_told_and_checked_with_that_of_training(tmp_path, caplog):
    folder = tiny.write_model(tmp_path / "narrow", "llama", hidden_size=64, intermediate_size=172)
    with caplog.at_level("WARNING", "peftlit"):
        contract_reload(trained("text", "llama", folder, "lora", NF4), folder, tmp_path / "adapter")
    assert ("refuses layers of this width" in caplog.text) == torch.cpu._is_avx512_bf16_supported()


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["lost", "changed"])
def test_p18_goes_red_when_a_fresh_head_is_lost_or_changed(damage, model_folder, tmp_path, monkeypatch):
    save = export_room._save_weights

    def damaged(module: Any, model: Any, folder: Path) -> None:
        save(module, model, folder)
        file = folder / "head.safetensors"
        tensors = load_file(file)
        file.unlink()
        if damage == "changed":
            save_file({name: value * 1.05 for name, value in tensors.items()}, file)

    monkeypatch.setattr(export_room, "_save_weights", damaged)
    folder = model_folder("bert")
    with pytest.raises(ReloadError):
        contract_reload(trained("masked", "bert", folder, "lora"), folder, tmp_path / "adapter")


@pytest.mark.slow
def test_p18_goes_red_when_the_fresh_head_of_the_module_is_not_among_what_is_saved(model_folder, tmp_path, monkeypatch):
    tensors = export_room.head_tensors
    monkeypatch.setattr(export_room, "head_tensors", lambda module: dict(list(tensors(module).items())[1:]))
    folder = model_folder("bert")
    with pytest.raises(ReloadError):
        contract_reload(trained("masked", "bert", folder, "lora"), folder, tmp_path / "adapter")


WORDS = [" good", " bad"]
CLEANED, CHAT = {"cleaning_steps": ["tags", "html"]}, {"prompt": {"chat": True}}
RECORDS: dict[str, tuple[dict[str, Any], Any]] = {
    "prompt lost": (CLEANED, lambda record: {key: value for key, value in record.items() if key != "prompt"}),
    "other template": (CLEANED, lambda record: {**record, "prompt": {**record["prompt"], "template": "{text} was"}}),
    "other words": (CLEANED, lambda record: {**record, "prompt": {**record["prompt"], "label_words": WORDS}}),
    "cleaning lost": (CLEANED, lambda record: {**record, "cleaning_steps": []}),
    "other scoring": (CLEANED, lambda record: {**record, "scoring": "first_token"}),
    "chat lost": (CHAT, lambda record: {**record, "prompt": {"chat": False}}),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", RECORDS)
def test_p18_goes_red_when_the_prompt_is_lost_or_another(damage, language_folder, tmp_path, monkeypatch):
    """Where only the fresh process can notice that the record is another."""
    data, change = RECORDS[damage]
    write, chat = export_room.write_json, data == CHAT

    def damaged(path: Path, content: Any) -> None:
        write(path, change(content) if path.name == "problem.json" else content)

    folder = language_folder("llama")
    kind, words = ("text", {}) if chat else ("labels", {"words": TWO_TOKENS})
    module = trained(kind, "llama", folder, "lora", data=data, **words)
    monkeypatch.setattr(export_room, "write_json", damaged)
    monkeypatch.setattr(reload, "read_record", lambda path, error: module.records()[path.name])
    with pytest.raises(ReloadError, match="feeds the model other inputs for the same texts" if chat else None):
        contract_reload(module, folder, tmp_path / "adapter", CHAT_TEMPLATE if chat else None)


@pytest.mark.slow
def test_p18_conversations_are_put_as_in_training_and_goes_red_when_the_template_is_lost(language_folder, tmp_path):
    folder = language_folder("llama")
    module = trained("text", "llama", folder, "lora", data=CHAT)
    contract_reload(module, folder, tmp_path / "adapter", CHAT_TEMPLATE)
    tokenizer = load_tokenizer(str(tmp_path / "adapter"))
    (tmp_path / "adapter" / "chat_template.jinja").unlink()
    with pytest.raises(ReloadError, match="no chat template"):
        compare_answers(module, tokenizer, TEXTS, tmp_path / "adapter")


@pytest.mark.parametrize("damage", ["lost", "changed"])
@pytest.mark.parametrize(("kind", "family"), [("masked", "bert"), ("text", "llama"), ("labels", "llama")])
def test_p18_a_record_that_is_lost_or_changed_is_noticed(kind, family, damage, language_folder, tmp_path):
    folder, out = language_folder(family), tmp_path / "adapter"
    module, tokenizer = trained(kind, family, folder, "lora"), load_tokenizer(str(folder), max_length=48)
    export(module, tokenizer, out, {})
    file = out / "problem.json"
    if damage == "lost":
        file.unlink()
    else:
        file.write_text(json.dumps({**json.loads(file.read_text()), "problem_type": "regression"}))
    with pytest.raises(ReloadError, match=r"problem\.json"):
        compare_answers(module, tokenizer, TEXTS, out)


def test_p18_the_record_says_what_the_model_is_for(language_folder, tmp_path):
    folder = language_folder("llama")
    module = trained("labels", "llama", folder, "lora", words=TWO_TOKENS)
    export(module, load_tokenizer(str(folder), max_length=48), tmp_path / "adapter", {})
    record = json.loads((tmp_path / "adapter/problem.json").read_text())
    assert record["problem_type"] == "single_label_classification"
    assert record["scoring"] == "sequence"
    assert record["prompt"]["label_words"] == TWO_TOKENS
