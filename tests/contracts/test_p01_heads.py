"""P1: newly initialised heads are float, trainable, saved, never quantized, never adapted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoConfig, AutoModelForMaskedLM, BitsAndBytesConfig

from peftlit.adapters import attach as attach_adapter
from peftlit.backbone import Backbone
from peftlit.errors import AdapterError, PeftlitError
from peftlit.export.write import export
from peftlit.modules import build
from tests.contracts.recorded import Recorded, record
from tests.modules.cases import NF4, RED, Case, make_module, read, tokenizer

HEADS = {
    "bert": ["classifier"],
    "distilbert": ["pre_classifier", "classifier"],
    "roberta": ["classifier"],
    "modernbert": ["head", "classifier"],
    "deberta-v3": ["pooler", "classifier"],
    "gpt2": ["score"],
    "llama": ["score"],
    "qwen3": ["score"],
    "custom-code": ["classifier"],
}


def unwrapped(module: Any) -> Any:
    """The model without peft's wrapper."""
    return module.model.get_base_model() if hasattr(module.model, "peft_config") else module.model


def is_quantized(layer: torch.nn.Module) -> bool:
    return type(layer).__name__ in ("Linear4bit", "Linear8bitLt")


def check_storage(module: Any) -> None:
    quantized = any(map(is_quantized, module.model.modules()))
    assert quantized == (module.backbone.quantization is not None), "the backbone is not stored as asked"


def check_neither_adapted_nor_quantized(name: str, layer: torch.nn.Module) -> None:
    assert not isinstance(layer, BaseTunerLayer), f"{name} is adapted"
    assert not is_quantized(layer), f"{name} is quantized"


def contract_heads(seen: Recorded, heads: list[str], out: Path) -> None:
    check_storage(seen.module)
    export(seen.module, tokenizer(seen.folder), out, {})
    saved = read(out)
    for head in heads:
        trained = unwrapped(seen.module).get_submodule(head)
        if hasattr(trained, "modules_to_save"):  # peft keeps a copy of its own
            trained = trained.modules_to_save["default"]
        for name, layer in trained.named_modules():
            check_neither_adapted_nor_quantized(f"{head}.{name}", layer)
        weights = dict(trained.named_parameters())
        assert weights, f"{head} has no weights"
        for name, weight in weights.items():
            assert weight.dtype == torch.float32, f"{head}.{name} is {weight.dtype}"
            assert weight.requires_grad, f"{head}.{name} is frozen"
            files = [value for key, value in saved.items() if key.endswith(f"{head}.{name}")]
            assert any(torch.equal(value, weight) for value in files), f"{head}.{name} is not saved"


@pytest.mark.parametrize("case", [Case("bert", "lora", NF4), Case("bert", "none", NF4), Case("bert", "hira")], ids=str)
def test_p01_a_pooler_that_the_weights_lack_counts_as_head(case, bert, tmp_path):
    folder = tmp_path / "masked"
    AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(bert)).save_pretrained(folder)  # without a pooler
    tokenizer(bert).save_pretrained(folder)
    contract_heads(record(make_module(case, folder), folder, steps=2), ["bert.pooler", "classifier"], tmp_path / "out")


def test_p01_a_pooler_that_the_weights_bring_stays_frozen_and_is_not_quantized(bert):
    for quantization in (None, NF4):
        module = make_module(Case("bert", "lora", quantization), bert)
        module.configure_model()
        assert not [n for n, p in module.named_parameters() if p.requires_grad and "pooler" in n]
        assert not is_quantized(module.model.get_base_model().bert.pooler.dense)


def test_p01_the_library_of_a_user_may_choose_its_own_quantization_and_heads_stay_float(model_folder, tmp_path):
    own = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="fp4", llm_int8_skip_modules=["out_lin"])
    folder, adapter = model_folder("distilbert"), LoraConfig(target_modules=["q_lin"])
    module = make_module(Case("distilbert", "lora", own), folder, adapter=adapter)
    contract_heads(record(module, folder, steps=2), HEADS["distilbert"], tmp_path / "adapter")
    assert not is_quantized(module.model.get_base_model().distilbert.transformer.layer[0].attention.out_lin)
    assert own.llm_int8_skip_modules == ["out_lin"], "the user's object was changed"


@pytest.mark.parametrize(
    ("family", "targets"),
    [
        ("distilbert", ["q_lin", "pre_classifier"]),
        ("roberta", ["query", "dense"]),
        ("modernbert", ["Wqkv", "dense"]),
        ("llama", ["q_proj", "score"]),
        ("distilbert", "all-linear"),
        ("modernbert", "all-linear"),
        ("gpt2", "all-linear"),
        ("bert", ".*(query|classifier)"),
    ],
)
def test_p01_targets_that_reach_into_a_head_are_refused_or_leave_it_alone(family, targets, model_folder, tmp_path):
    folder = model_folder(family)
    module = make_module(Case(family, "lora"), folder, adapter=LoraConfig(r=4, target_modules=targets))
    try:
        module.configure_model()
    except AdapterError as error:
        assert "head" in str(error)  # noqa: PT017  both outcomes keep the promise
    else:
        contract_heads(record(module, folder, steps=2), HEADS[family], tmp_path / "adapter")


def skip_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep nothing out of quantization."""
    whole = Backbone.quantization_config

    def nothing_skipped(self: Backbone, skip_modules: list[str], device_type: str) -> Any:
        config: Any = whole(self, skip_modules, device_type)
        config.llm_int8_skip_modules = []
        return config

    monkeypatch.setattr(Backbone, "quantization_config", nothing_skipped)


QUANTIZED = [Case("bert", "none", NF4), Case("distilbert", "lora", NF4), Case("deberta-v3", "lora", "int8"),
             Case("custom-code", "lora", NF4)]  # fmt: skip


@pytest.mark.parametrize("case", QUANTIZED, ids=str)
def test_p01_goes_red_when_nothing_is_kept_out_of_quantization(case, model_folder, monkeypatch, tmp_path):
    skip_nothing(monkeypatch)
    folder = model_folder(case.family)
    with pytest.raises((*RED, RuntimeError, PeftlitError)):
        contract_heads(record(make_module(case, folder), folder, steps=2), HEADS[case.family], tmp_path / "adapter")


@pytest.mark.parametrize(("family", "frozen"), [("modernbert", "head"), ("deberta-v3", "pooler")])
def test_p01_goes_red_when_peft_is_not_told_the_heads(family, frozen, model_folder, monkeypatch, tmp_path):
    def without_heads(model: Any, method: Any, context: Any) -> Any:
        return attach_adapter(model, method, context._replace(heads=[]))

    monkeypatch.setattr(build, "attach", without_heads)
    folder = model_folder(family)
    seen = record(make_module(Case(family, "lora"), folder), folder, steps=2)
    with pytest.raises(AssertionError, match=f"{frozen}.* is frozen"):
        contract_heads(seen, HEADS[family], tmp_path / "out")
