"""What was exported comes back, whatever the method stores its weights as."""

from __future__ import annotations

import json
import shutil
from functools import partial
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, LoraConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, UniLoraConfig
from safetensors.torch import load_file, save_file

import peftlit
from peftlit.backbone import Backbone
from peftlit.data.tokenizer import load_tokenizer
from peftlit.errors import RunFolderError
from peftlit.export.load import make_predictor
from peftlit.export.write import export, load_export
from tests import tiny
from tests.conftest import toy_rows
from tests.modules.cases import NF4, Case, collate, make_module, tokenizer
from tests.modules.language_cases import CHAT_TEMPLATE, TWO_TOKENS, lora, make_language_module, shake

TARGETS = ["query", "value"]
METHODS: dict[str, Any] = {
    "LoRA": partial(LoraConfig, target_modules=TARGETS),
    "AdaLoRA": partial(AdaLoraConfig, total_step=10, target_modules=TARGETS),
    "AdaLoRA, ranks given out": partial(AdaLoraConfig, init_r=6, target_r=2, total_step=4, target_modules=TARGETS),
    "UniLoRA": partial(UniLoraConfig, target_modules=TARGETS),
    "prompt tuning": partial(PromptTuningConfig, num_virtual_tokens=4),
    "prefix tuning": partial(PrefixTuningConfig, num_virtual_tokens=4),
    "P-tuning": partial(PromptEncoderConfig, num_virtual_tokens=4, encoder_hidden_size=8),
}


def trained(folder, adapter: Any, quantization: str | None = None) -> Any:
    module = make_module(Case("bert", "lora", quantization), folder, adapter=adapter)
    module.configure_model()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    if getattr(adapter, "total_step", 0) == 4:
        tuner = module.model.base_model
        for step in range(1, 5):
            for name, parameter in tuner.named_parameters():
                if "lora_E" in name:
                    parameter.data.add_(1.0)  # large enough for a factor to be noticed
                parameter.grad = torch.randn_like(parameter) if parameter.requires_grad else None
            tuner.update_and_allocate(step)
        assert not all(map(all, tuner.peft_config["default"].rank_pattern.values()))
    return module.eval()


@pytest.mark.parametrize("quantization", [None, NF4])
@pytest.mark.parametrize("method", METHODS)
def test_it_answers_as_before(method, quantization, model_folder, tmp_path) -> None:
    base = model_folder("bert")
    module = trained(base, METHODS[method](), quantization)
    export(module, tokenizer(base), tmp_path / "adapter", {})
    batch = collate(base, toy_rows(4))
    again = peftlit.load(tmp_path / "adapter", device="cpu").module
    torch.testing.assert_close(again.logits(batch), module.logits(batch), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("targets", "r"), [(["query", "value", "key"], 8), (["query"], 8), (TARGETS, 4)])
def test_weights_of_another_adapter_are_refused(targets, r, model_folder, tmp_path) -> None:
    base = model_folder("bert")
    export(trained(base, METHODS["LoRA"]()), tokenizer(base), tmp_path / "adapter", {})
    other = make_module(Case("bert", "lora"), base, adapter=LoraConfig(target_modules=targets, r=r))
    other.configure_model()
    with pytest.raises(RunFolderError):
        load_export(other, tmp_path / "adapter")


def test_a_head_file_that_would_change_a_frozen_weight_is_refused(model_folder, tmp_path) -> None:
    base = model_folder("bert")
    export(trained(base, None), tokenizer(base), tmp_path / "adapter", {})
    file, frozen = tmp_path / "adapter/head.safetensors", "bert.embeddings.LayerNorm.weight"
    save_file({**load_file(file), frozen: torch.zeros(tiny.HIDDEN)}, file)
    (tmp_path / "adapter/SHA256SUMS").unlink()
    with pytest.raises(RunFolderError, match=rf"do not belong to this config \({frozen}\)"):
        peftlit.load(tmp_path / "adapter", device="cpu")


CHAT = {"prompt": {"chat": True}}


def language_export(kind: Any, family: str, folder, out, quantization: str | None, **more: Any) -> Any:
    module = make_language_module(kind, folder, lora(family), backbone={"quantization": quantization}, **more)
    shake(module)
    own = load_tokenizer(str(folder), max_length=48)
    own.chat_template = CHAT_TEMPLATE if more.get("data") == CHAT else None
    export(module, own, out, {})
    return make_predictor(module, own, module.records()["problem.json"])


LANGUAGE: dict[str, tuple[Any, str, dict[str, Any], list[Any]]] = {
    "text": ("text", "gpt2", {}, ["a good film", "it was"]),
    "chat": ("text", "llama", {"data": CHAT}, [[{"role": "user", "content": "is it good ?"}], "why ?"]),
    "labels": ("labels", "llama", {}, ["a good film", "it was awful"]),
    "labels of several tokens": ("labels", "gpt2", {"words": TWO_TOKENS}, ["a good film", "it was awful"]),
    "hidden tokens": ("masked", "bert", {}, ["a [MASK] film", "it was [MASK] and [MASK]"]),
}


@pytest.mark.parametrize("quantization", [None, NF4])
@pytest.mark.parametrize("what", LANGUAGE)
def test_a_language_model_answers_as_before(what, quantization, language_folder, tmp_path) -> None:
    kind, family, more, questions = LANGUAGE[what]
    ours = language_export(kind, family, language_folder(family), tmp_path / "adapter", quantization, **more)
    loaded = peftlit.load(tmp_path / "adapter", device="cpu")
    assert type(loaded) is type(ours)
    assert loaded.predict(questions) == ours.predict(questions)
    assert not (tmp_path / "adapter" / "head.safetensors").exists(), "the pretrained head has no place in an export"


@pytest.mark.parametrize("quantization", [None, NF4])
@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_a_new_head_of_a_language_model_answers_as_before(family, quantization, model_folder, tmp_path) -> None:
    ours = language_export("masked", family, model_folder(family), tmp_path / "adapter", quantization)
    questions = ["a [MASK] film", "it was [MASK] and [MASK]"]
    assert peftlit.load(tmp_path / "adapter", device="cpu").predict(questions) == ours.predict(questions)


@pytest.mark.parametrize("damage", ["lost", "less", "more"])
def test_another_new_head_is_refused(damage, model_folder, tmp_path) -> None:
    folder = tmp_path / "adapter"
    language_export("masked", "bert", model_folder("bert"), folder, None)
    (folder / "SHA256SUMS").unlink()
    head = folder / "head.safetensors"
    tensors = load_file(head)
    head.unlink()
    if damage == "less":
        tensors.popitem()
    if damage == "more":
        tensors["cls.predictions.other"] = torch.zeros(1)
    if damage != "lost":
        save_file(tensors, head)
    with pytest.raises(RunFolderError):
        peftlit.load(folder, device="cpu")


def test_an_export_names_the_commit_of_a_hub_model(model_folder, tmp_path, monkeypatch) -> None:
    cache, commit = tmp_path / "models--someone--tiny", "ab" * 20
    (cache / "refs").mkdir(parents=True)
    (cache / "refs/main").write_text(commit)
    shutil.copytree(model_folder("bert"), cache / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    module = make_module(Case("bert", "lora"), model_folder("bert"))
    module.backbone = Backbone("someone/tiny")
    module.configure_model()
    export(module, tokenizer(model_folder("bert")), tmp_path / "adapter", {})
    for record in ("backbone.json", "adapter_config.json"):
        assert json.loads((tmp_path / "adapter" / record).read_text())["revision"] == commit
    checkpoint = {"state_dict": {}}
    module.on_save_checkpoint(checkpoint)
    assert checkpoint["backbone"]["commit"] == commit
