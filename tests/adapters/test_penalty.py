"""Penalties of adapters; tests/contracts/test_p05_accumulation.py has how they enter a step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, LoraConfig, MontecloraConfig, ShadowConfig

from peftlit.adapters import FullFineTuning
from peftlit.adapters.penalty import add_penalty
from peftlit.errors import AdapterError
from tests.modules.cases import Case, make_module

TARGETS = ["query", "value"]


def built(adapter: Any, model_folder: Any) -> Any:
    module = make_module(Case("bert", "lora"), model_folder("bert"), adapter=adapter)
    module.configure_model()
    return module


@pytest.mark.parametrize(
    "adapter",
    [
        LoraConfig(target_modules=TARGETS),
        None,
        FullFineTuning(),
        AdaLoraConfig(target_modules=TARGETS, total_step=9, orth_reg_weight=0.0),
    ],
    ids=["LoRA", "head only", "full", "AdaLoRA with weight 0"],
)
def test_most_have_none(adapter, model_folder):
    module = built(adapter, model_folder)
    assert add_penalty(module.model, module.method) is None
    assert all(weight.grad is None for weight in module.parameters())


def test_the_variational_loss_of_monteclora_is_one(model_folder):
    module = built(LoraConfig(target_modules=TARGETS, monteclora_config=MontecloraConfig()), model_folder)
    module.train()
    expected = module.model.base_model._get_monteclora_loss()
    expected.backward()
    gradients = {name: weight.grad for name, weight in module.named_parameters()}
    module.zero_grad()
    torch.testing.assert_close(add_penalty(module.model, module.method), expected.detach())
    assert any(gradient is not None for gradient in gradients.values())
    for name, weight in module.named_parameters():
        torch.testing.assert_close(weight.grad, gradients[name], msg=name) if weight.requires_grad else None


def test_an_auxiliary_loss_that_would_be_left_out_is_refused_before_weights_load(model_folder):
    module = make_module(Case("bert", "lora"), model_folder("bert"), adapter=ShadowConfig(target_modules=TARGETS))
    with pytest.raises(AdapterError, match=r"auxiliary_loss_weight: got 0\.05.*set auxiliary_loss_weight: 0"):
        module.check()


def test_it_is_added_to_the_gradients_that_are_there(model_folder):
    module = built(AdaLoraConfig(target_modules=TARGETS, total_step=9), model_folder)
    add_penalty(module.model, module.method)
    once = {name: weight.grad.clone() for name, weight in module.named_parameters() if weight.grad is not None}
    add_penalty(module.model, module.method)
    assert once
    for name, weight in module.named_parameters():
        if name in once:
            assert torch.equal(weight.grad, 2 * once[name])
