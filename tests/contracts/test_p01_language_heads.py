"""P1 for language models: pretrained heads stay as they are, whatever is adapted and quantized; new ones train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file

import peftlit
from peftlit.backbone.architecture import head_modules
from peftlit.backbone.weights import Loaded, load_weights
from peftlit.errors import AdapterError, PeftlitError
from peftlit.export.write import export
from peftlit.modules import build
from tests import tiny
from tests.conftest import toy_rows
from tests.contracts.test_p01_heads import check_neither_adapted_nor_quantized, check_storage, skip_nothing, unwrapped
from tests.modules.cases import NF4, RED, read, tokenizer
from tests.modules.language_cases import fit_language, language_batch, lora, make_language_module

IN_THE_HEAD_TOO = {"bert": ["query", "dense"], "roberta": ["query", "dense"], "deberta-v3": ["query_proj", "dense"]}
"""Targets with a name that a layer of the pretrained head has, too."""

HEAD_ALONE = {
    "bert": ["decoder"],
    "distilbert": ["q_lin", "vocab_transform"],
    "roberta": r".*lm_head\.dense",
    "modernbert": ["Wqkv", "dense"],
    "gpt2": ["lm_head"],
    "llama": ["q_proj", "lm_head"],
}
"""Targets of which one is found in the head alone."""


def kind_of(family: str) -> Any:
    return "text" if family in tiny.DECODERS else "masked"


def check_head_layers(module: Any) -> tuple[str, ...]:
    """No layer of a head is adapted or quantized; return how the names of its weights begin."""
    model = unwrapped(module)
    heads = head_modules(model)
    assert heads, "there is no head"
    for head in heads:
        for name, layer in model.get_submodule(head).named_modules():
            check_neither_adapted_nor_quantized(f"{head}.{name}", layer)
    return tuple(f"{head}." for head in heads)


def contract_pretrained_head(module: Any, family: str, folder: Path, out: Path) -> None:
    """Train; the head is float, frozen, unquantized, not adapted, what the checkpoint holds, and not in the export."""
    fit_language(module, kind_of(family), folder, 4)
    check_storage(module)
    assert any(isinstance(layer, BaseTunerLayer) for layer in module.model.modules()), "nothing is adapted"
    heads, stored = check_head_layers(module), load_file(folder / "model.safetensors")
    for name, weight in unwrapped(module).named_parameters():
        if name.startswith(heads):
            assert not weight.requires_grad, f"{name} trains"
            assert weight.dtype == torch.float32, f"{name} is {weight.dtype}"
            assert name not in stored or torch.equal(weight, stored[name]), f"{name} is not the checkpoint's"
    assert any(name.startswith(heads) for name in stored) or unwrapped(module).config.tie_word_embeddings
    export(module, tokenizer(folder), out, {})
    assert not [name for name in read(out) if any(f".{head}" in f".{name}" for head in heads)], "the head is exported"


def case_module(family: str, folder: Path, targets: Any, quantization: str | None = None) -> Any:
    adapter = LoraConfig(r=4, target_modules=targets)
    return make_language_module(kind_of(family), folder, adapter, backbone={"quantization": quantization})


ROWS = [
    ("bert", IN_THE_HEAD_TOO["bert"], None),
    ("bert", "all-linear", NF4),
    ("bert", IN_THE_HEAD_TOO["bert"], "int8"),
    ("distilbert", "all-linear", "int8"),
    ("roberta", IN_THE_HEAD_TOO["roberta"], NF4),
    ("modernbert", "all-linear", NF4),
    ("modernbert", tiny.TARGETS["modernbert"], None),
    ("deberta-v3", IN_THE_HEAD_TOO["deberta-v3"], "int8"),
    ("deberta-v3", "all-linear", None),
    ("gpt2", "all-linear", NF4),
    ("gpt2", tiny.TARGETS["gpt2"], "int8"),
    ("llama", "all-linear", None),
    ("llama", "all-linear", NF4),
    ("qwen3", "all-linear", "int8"),
]


@pytest.mark.parametrize(("family", "targets", "quantization"), ROWS)
def test_p01_a_pretrained_language_head_stays_as_it_is(family, targets, quantization, language_folder, tmp_path):
    folder = language_folder(family)
    module = case_module(family, folder, targets, quantization)
    contract_pretrained_head(module, family, folder, tmp_path / "adapter")
    assert module.newly_initialized == []


@pytest.mark.parametrize("family", HEAD_ALONE)
def test_p01_an_adapter_that_names_a_head_alone_is_refused_before_weights_load(family, language_folder, monkeypatch):
    module = case_module(family, language_folder(family), HEAD_ALONE[family])
    with monkeypatch.context() as patch:
        patch.setattr(build, "load_weights", lambda *_, **__: pytest.fail("weights were loaded"))
        with pytest.raises(AdapterError, match=r"^[^\n]*only, which stays as it is; name other layers[^\n]*$"):
            module.check()
    with pytest.raises(AdapterError, match="only, which stays as it is"):
        module.configure_model()


def contract_fresh_head(module: Any, folder: Path, out: Path) -> None:
    """The checkpoint has no head: its layers train and are saved, and the output matrix stays the embeddings."""
    module.check()
    module.configure_model()
    before = {name: weight.detach().clone() for name, weight in unwrapped(module).named_parameters()}
    fit_language(module, "masked", folder, 4)
    model = unwrapped(module)
    now = dict(model.named_parameters())
    fresh = {name for name in now if name.startswith(check_head_layers(module))}
    assert fresh, "the head has no weights of its own"
    matrix = model.get_output_embeddings()
    assert matrix.weight is model.get_input_embeddings().weight, "the output matrix is not tied"
    assert not matrix.weight.requires_grad, "the output matrix trains"
    assert matrix.bias is not None
    assert any(weight is matrix.bias for name, weight in now.items() if name in fresh), "its bias is none of the head's"
    for name in fresh:
        assert now[name].requires_grad, f"{name} is frozen"
        assert now[name].dtype == torch.float32, f"{name} is {now[name].dtype}"
        assert not torch.equal(now[name], before[name]), f"{name} did not move"
    export(module, tokenizer(folder), out, {})
    saved = load_file(out / "head.safetensors")
    assert saved.keys() == fresh, "not exactly the new head is saved"
    assert all(torch.equal(saved[name], now[name]) for name in fresh)
    again = peftlit.load(out, device="cpu").module
    batch = language_batch("masked", folder, toy_rows(3))
    assert torch.equal(again.evaluate_batch(batch), module.evaluate_batch(batch)), "reloaded, it answers otherwise"


@pytest.mark.parametrize(
    ("family", "adapter", "quantization"),
    [
        ("bert", lora, None),
        ("bert", None, NF4),
        ("distilbert", lora, NF4),
        ("roberta", lora, None),
        ("modernbert", lora, NF4),
        ("deberta-v3", lora, None),
        pytest.param("bert", lora, NF4, marks=pytest.mark.slow),
        pytest.param("distilbert", None, None, marks=pytest.mark.slow),
        pytest.param("roberta", lora, NF4, marks=pytest.mark.slow),
        pytest.param("modernbert", None, None, marks=pytest.mark.slow),
        pytest.param("deberta-v3", None, NF4, marks=pytest.mark.slow),
    ],
)
def test_p01_a_head_that_the_checkpoint_lacks_trains(family, adapter, quantization, model_folder, tmp_path):
    folder, config = model_folder(family), adapter(family) if adapter else None
    module = make_language_module("masked", folder, config, backbone={"quantization": quantization})
    contract_fresh_head(module, folder, tmp_path / "adapter")


@pytest.mark.parametrize("family", ["bert", "roberta", "deberta-v3"])
def test_p01_goes_red_when_peft_may_adapt_the_head(family, language_folder, monkeypatch, tmp_path):
    monkeypatch.setattr(build, "head_modules", lambda model: [])
    folder = language_folder(family)
    module = case_module(family, folder, IN_THE_HEAD_TOO[family])
    with pytest.raises(AssertionError, match="is adapted"):
        contract_pretrained_head(module, family, folder, tmp_path / "adapter")


@pytest.mark.parametrize(("family", "quantization"), [("bert", NF4), ("llama", NF4), ("distilbert", "int8")])
def test_p01_goes_red_when_the_head_may_be_quantized(family, quantization, language_folder, monkeypatch, tmp_path):
    skip_nothing(monkeypatch)
    monkeypatch.setattr("peftlit.backbone.weights.require_float", lambda model, names: None)
    folder = language_folder(family)
    module = case_module(family, folder, tiny.TARGETS[family], quantization)
    with pytest.raises((*RED, RuntimeError, PeftlitError)):
        contract_pretrained_head(module, family, folder, tmp_path / "adapter")


def test_p01_goes_red_when_nobody_asks_what_the_checkpoint_lacks(model_folder, monkeypatch, tmp_path):
    def as_if_complete(*arguments: Any, **named: Any) -> Loaded:
        return load_weights(*arguments, **named)._replace(newly_initialized=[])

    monkeypatch.setattr(build, "load_weights", as_if_complete)
    folder = model_folder("bert")
    with pytest.raises(AssertionError, match="is frozen"):
        contract_fresh_head(make_language_module("masked", folder, lora("bert")), folder, tmp_path / "adapter")
