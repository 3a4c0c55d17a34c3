"""What was exported comes back, whatever the method stores its weights as."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from peft import (
    AdaLoraConfig,
    LoraConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    UniLoraConfig,
)

import peftlit
from peftlit.errors import RunFolderError
from peftlit.run.export import export, load_export
from tests.conftest import toy_rows
from tests.modules.cases import NF4, Case, collate, make_module, tokenizer

TARGETS = ["query", "value"]
METHODS: dict[str, Any] = {
    "LoRA": partial(LoraConfig, target_modules=TARGETS),
    "AdaLoRA": partial(AdaLoraConfig, total_step=10, target_modules=TARGETS),
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
    return module.eval()


@pytest.mark.parametrize("quantization", [None, NF4])
@pytest.mark.parametrize("method", METHODS)
def test_it_answers_as_before(method, quantization, model_folder, tmp_path) -> None:
    base = model_folder("bert")
    module = trained(base, METHODS[method](), quantization)
    export(module, tokenizer(base), tmp_path / "adapter", {})
    batch = collate(base, toy_rows(4))
    again = peftlit.load(tmp_path / "adapter", device="cpu").module
    # the ranks that AdaLoRA has kept are a division away
    torch.testing.assert_close(again.logits(batch), module.logits(batch), rtol=0, atol=1e-4)


@pytest.mark.parametrize("change", ["less", "more", "other shape"])
def test_weights_of_another_adapter_are_refused(change, model_folder, tmp_path) -> None:
    base = model_folder("bert")
    export(trained(base, METHODS["LoRA"]()), tokenizer(base), tmp_path / "adapter", {})
    targets = {"less": ["query", "value", "key"], "more": ["query"], "other shape": TARGETS}[change]
    other = make_module(
        Case("bert", "lora"), base, adapter=LoraConfig(target_modules=targets, r=4 if change == "other shape" else 8)
    )
    other.configure_model()
    with pytest.raises(RunFolderError):
        load_export(other, tmp_path / "adapter")
