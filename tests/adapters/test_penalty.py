"""Penalties of adapters; tests/contracts/test_p05_accumulation.py has how they enter a step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, LoraConfig, MontecloraConfig

from peftlit.adapters import FullFineTuning
from peftlit.adapters.penalty import add_penalty
from tests.modules.cases import Case, make_module

TARGETS = ["query", "value"]
WITHOUT = {
    "LoRA": LoraConfig(target_modules=TARGETS),
    "head only": None,
    "full": FullFineTuning(),
    "AdaLoRA with weight 0": AdaLoraConfig(target_modules=TARGETS, total_step=9, orth_reg_weight=0.0),
}


def built(adapter: Any, model_folder: Any) -> Any:
    module = make_module(Case("bert", "lora"), model_folder("bert"), adapter=adapter)
    module.configure_model()
    return module


def gradients(module: Any) -> dict[str, torch.Tensor]:
    return {name: weight.grad.clone() for name, weight in module.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("name", WITHOUT)
def test_most_have_none(name, model_folder):
    module = built(WITHOUT[name], model_folder)
    assert add_penalty(module.model, module.method) is None
    assert not gradients(module)


def test_the_variational_loss_of_monteclora_is_one(model_folder):
    module = built(LoraConfig(target_modules=TARGETS, monteclora_config=MontecloraConfig()), model_folder)
    expected = module.train().model.base_model._get_monteclora_loss()
    expected.backward()
    wanted = gradients(module)
    module.zero_grad()
    torch.testing.assert_close(add_penalty(module.model, module.method), expected.detach())
    assert wanted
    torch.testing.assert_close(gradients(module), wanted)


def test_it_is_added_to_the_gradients_that_are_there(model_folder):
    module = built(AdaLoraConfig(target_modules=TARGETS, total_step=9), model_folder)
    add_penalty(module.model, module.method)
    once = gradients(module)
    add_penalty(module.model, module.method)
    assert once
    torch.testing.assert_close(gradients(module), {name: 2 * grad for name, grad in once.items()}, rtol=0, atol=0)
