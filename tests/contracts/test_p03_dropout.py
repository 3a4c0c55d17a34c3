"""P3: every dropout is in training mode at the first batch and after each validation."""

from __future__ import annotations

import pytest
import torch

from peftlit.modules.base import PeftModule
from tests.conftest import toy_rows
from tests.contracts.recorded import Recorded, record
from tests.modules.cases import NF4, Case, collate, fit, make_module


def contract_dropout(seen: Recorded) -> None:
    assert seen.validations == [1, 1, 2, 2, 3, 3], "the sanity check and one validation every two batches"
    for batch, evaluating in enumerate(seen.evaluating):
        assert not evaluating, f"in evaluation mode at batch {batch}: {evaluating[:3]}"


FELT = [Case("bert", "none"), Case("gpt2", "lora", NF4), Case("llama", "lora"), Case("deberta-v3", "none", "int8"),
        Case("qwen3", "hira"), Case("custom-code", "none")]  # fmt: skip


@pytest.mark.parametrize("case", FELT, ids=str)
def test_p03_dropout_is_felt_in_the_logits_after_a_validation(case, model_folder):
    folder = model_folder(case.family)
    module = make_module(case, folder)
    fit(module, folder, 2)
    batch = collate(folder, toy_rows(4))
    first, second = (module.loss(batch)[2] for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(module.evaluate_batch(batch), module.evaluate_batch(batch))
    assert module.model.training, "evaluate_batch changed the mode"


SWITCHED = [Case("bert", "lora"), Case("deberta-v3", "hira", NF4), Case("custom-code", "none")]


@pytest.mark.parametrize("case", SWITCHED, ids=str)
def test_p03_goes_red_when_nothing_switches_to_training(case, model_folder, monkeypatch):
    monkeypatch.setattr(PeftModule, "train", lambda self, mode=True: self)
    with pytest.raises(AssertionError, match="in evaluation mode at batch 0"):
        contract_dropout(record(make_module(case, model_folder(case.family)), model_folder(case.family)))


@pytest.mark.parametrize("case", SWITCHED, ids=str)
def test_p03_goes_red_when_validation_does_not_switch_back(case, model_folder, monkeypatch):
    monkeypatch.setattr(PeftModule, "on_validation_model_train", lambda self: None)
    with pytest.raises(AssertionError, match="in evaluation mode at batch"):
        contract_dropout(record(make_module(case, model_folder(case.family)), model_folder(case.family)))
