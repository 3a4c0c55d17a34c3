"""AdaLoRA takes ranks away as peft's own documented loop does, and a run says where it stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig
from torch.utils.data import DataLoader

from peftlit.adapters.adalora import AdaLora
from peftlit.adapters.method import AdapterMethod
from tests.conftest import toy_rows
from tests.modules.cases import STORAGES, Case, collate, loader, make_module, make_trainer

STEPS = 12
NO_DROPOUT = {"config_overrides": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}}


def adalora() -> AdaLoraConfig:
    entries = {"init_r": 6, "target_r": 2, "tinit": 2, "tfinal": 3, "deltaT": 2, "lora_alpha": 12}
    return AdaLoraConfig(target_modules=["query", "value"], total_step=STEPS, **entries)


def make(folder: Path) -> Any:
    def sgd(groups: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, lr=0.5)

    return make_module(Case("bert", "lora"), folder, adapter=adalora(), backbone=NO_DROPOUT, optimizer=sgd)


def fitted(folder: Path, steps: int = STEPS) -> Any:
    module = make(folder)
    make_trainer(steps).fit(module, loader(folder, steps))
    return module


def kept(module: Any) -> int:
    """Number of ranks that are left: four layers begin with 6 each and end with 2."""
    tuner = module.model.base_model
    return sum(int((weight != 0).sum()) for name, weight in tuner.named_parameters() if "lora_E" in name)


def state_of(module: Any) -> Any:
    return module.method.state(module.model)


def by_hand(folder: Path) -> Any:
    """The loop of peft's documentation: its own loss with the penalty, a step, ranks, gradients gone."""
    module = make(folder)
    module.configure_model()
    optimizer = torch.optim.SGD([p for p in module.model.parameters() if p.requires_grad], lr=0.5)
    for step, batch in enumerate(loader(folder, STEPS), 1):
        module.model(**module.model_inputs(batch), labels=batch["labels"]).loss.backward()
        optimizer.step()
        module.model.base_model.update_and_allocate(step)
        optimizer.zero_grad()
    return module


def contract_ranks_are_those_of_pefts_loop(folder: Path) -> None:
    expected, found = by_hand(folder), fitted(folder)
    assert kept(expected) <= 9
    for (name, wanted), weight in zip(expected.model.named_parameters(), found.model.parameters(), strict=True):
        torch.testing.assert_close(weight, wanted, rtol=1e-5, atol=1e-6, msg=lambda said, name=name: f"{name}: {said}")
    patterns = [state_of(module)["rank_pattern"] for module in (expected, found)]
    assert patterns[0] == patterns[1] is not None


def test_ranks_and_weights_are_those_of_pefts_own_loop(model_folder):
    contract_ranks_are_those_of_pefts_loop(model_folder("bert"))


@pytest.mark.parametrize("lost", ["after_optimizer_step", "penalty"])
def test_it_goes_red_without(lost, model_folder, monkeypatch):
    monkeypatch.setattr(AdaLora, lost, getattr(AdapterMethod, lost))
    with pytest.raises(AssertionError):
        contract_ranks_are_those_of_pefts_loop(model_folder("bert"))


def test_micro_batches_count_as_one_step(model_folder):
    folder, rows = model_folder("bert"), toy_rows(STEPS * 4)
    whole, module = fitted(folder), make(folder)
    halves = [collate(folder, rows[i : i + 2]) for i in range(0, len(rows), 2)]
    make_trainer(STEPS, accumulate_grad_batches=2).fit(module, DataLoader(halves, batch_size=None))
    assert kept(module) == kept(whole)
    assert state_of(module)["rank_pattern"] == state_of(whole)["rank_pattern"]


def test_a_step_whose_gradients_are_not_finite_scores_nothing(model_folder):
    module = fitted(model_folder("bert"), steps=2)
    before = state_of(module)
    weight = next(p for p in module.parameters() if p.requires_grad)
    weight.grad = torch.full_like(weight, float("inf"))
    module.method.after_optimizer_step(module.model, 3)
    for kind in ("importance", "uncertainty"):
        torch.testing.assert_close(state_of(module)[kind], before[kind], rtol=0, atol=0)


def test_another_model_goes_on_from_the_state(model_folder):
    folder = model_folder("bert")
    one, other = fitted(folder, steps=6), make(folder)
    other.configure_model()
    other.load_state_dict({n: p for n, p in one.named_parameters() if p.requires_grad}, strict=False)
    other.method.restore_state(other.model, state_of(one))
    for module in (one, other):
        for weight in module.parameters():
            weight.grad = torch.ones_like(weight) if weight.requires_grad else None
        module.method.after_optimizer_step(module.model, 7)
        module.method.after_optimizer_step(module.model, 8)
    assert kept(one) == kept(other) < 24
    assert state_of(one)["rank_pattern"] == state_of(other)["rank_pattern"]


@pytest.mark.parametrize("quantization", STORAGES)
def test_the_number_of_ranks_that_a_layer_divides_by_does_not_train(quantization, model_folder):
    case, backbone = Case("bert", "lora", quantization), {"compute_dtype": "bfloat16"}
    module = make_module(case, model_folder("bert"), adapter=adalora(), backbone=backbone)
    module.configure_model()
    assert [p.requires_grad for n, p in module.named_parameters() if "ranknum" in n] == [False] * 4


@pytest.mark.parametrize(("steps", "settled"), [(5, False), (9, True), (STEPS, True)])
def test_a_run_that_ends_before_the_ranks_are_settled_says_so(steps, settled, model_folder, caplog):
    with caplog.at_level("WARNING", logger="peftlit"):
        module = fitted(model_folder("bert"), steps)
    assert (kept(module) <= 9) == settled
    said = [record.message for record in caplog.records if "total_step" in record.message]
    late = f"the run has {steps} steps and never comes down to target_r; set total_step: {steps}"
    assert said == [] if settled else said[0].endswith(late)


def test_other_adapters_have_no_ranks_to_give(model_folder):
    module = make_module(Case("bert", "lora"), model_folder("bert"))
    module.configure_model()
    module.method.after_optimizer_step(module.model, 1)
    assert state_of(module) is None
