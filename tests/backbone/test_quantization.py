from __future__ import annotations

import peft
import pytest
import torch

from peftlit.plugins import TrainabilityGuard
from tests.modules.cases import NF4, Case, fit, make_module


@pytest.mark.parametrize("quantization", [NF4, "int8"])
def test_biases_keep_their_digits_through_mixed_precision(quantization, model_folder):
    folder = model_folder("bert")
    module = make_module(Case("bert", "lora", quantization), folder)
    module.configure_model()
    biases = {n: p for n, p in module.named_parameters() if n.endswith("base_layer.bias")}
    assert len(biases) == 2 * 3
    with torch.no_grad():
        for bias in biases.values():
            bias.uniform_(-1, 1)  # digits that bfloat16 does not have
    before = {name: bias.detach().clone() for name, bias in biases.items()}
    fit(module, folder, 2, precision="bf16-mixed")
    torch.testing.assert_close({n: p for n, p in module.named_parameters() if n in before}, before, rtol=0, atol=0)


@pytest.mark.parametrize("quantization", [NF4, "int8"])
def test_biases_that_train_do_so_in_float32(quantization, model_folder):
    folder = model_folder("bert")
    adapter = peft.LoraConfig(r=4, bias="all", target_modules=["query", "value"])
    module = make_module(Case("bert", "lora", quantization), folder, adapter=adapter)
    fit(module, folder, 6, TrainabilityGuard(), precision="bf16-mixed")
    trained = [p for name, p in module.named_parameters() if p.requires_grad and name.endswith("bias")]
    assert len(trained) > 10
    assert {p.dtype for p in trained} == {torch.float32}
