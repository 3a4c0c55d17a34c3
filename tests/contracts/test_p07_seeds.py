"""P7: the seed precedes adapter and head creation; two CPU runs of one config give equal hashes."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from lightning import seed_everything

from peftlit.export.write import trainable_sha256
from peftlit.modules.base import PeftModule
from tests.modules.cases import NF4, Case, command_line, fit, make_module

SEEDED = [
    Case("bert", "lora"),
    Case("distilbert", "none", NF4),
    Case("roberta", "hira"),
    Case("modernbert", "dora", NF4),
    Case("gpt2", "lora", NF4),
    Case("llama", "dora"),
    Case("llama", "lora", "int8"),
]


@pytest.fixture
def run(model_folder, toy_data, tmp_path):
    """Return a function that makes three steps on the command line, and gives the hash of what trained."""

    def run(case: Case, seed: int, *more: str) -> str:
        random.seed()  # nothing may depend on what the process did before
        torch.seed()
        more = (f"--seed_everything={seed}", *more)
        return trainable_sha256(command_line(case, model_folder(case.family), toy_data, tmp_path / "run", *more).model)

    return run


def contract_seed(result: Callable[[int], Any]) -> None:
    first, again, other = map(result, (1, 1, 2))
    assert first == again, "one config, two results"
    assert first != other, "the seed changes nothing"


@pytest.mark.parametrize("case", SEEDED, ids=str)
def test_p07_one_config_gives_one_hash_and_another_seed_another(case, run):
    contract_seed(partial(run, case))


@pytest.mark.parametrize(
    "more", ["--data.num_workers=2", "--trainer.precision=16-mixed", "--data.group_by_length=false"]
)
def test_p07_however_it_runs(more, run):
    assert run(Case("bert", "lora"), 1, more) == run(Case("bert", "lora"), 1, more)


def test_p07_the_seed_reaches_the_order_of_the_rows(bert, toy_data, tmp_path):
    def order(seed: int) -> list[list[int]]:
        more = f"--seed_everything={seed}"
        cli = command_line(Case("bert", "none"), bert, toy_data, tmp_path / "run", more, steps=1)
        return [batch["row"].tolist() for batch in cli.datamodule.train_dataloader()]

    contract_seed(order)


def test_p07_a_module_of_ones_own_script_is_as_good(bert):
    def fitted(seed: int) -> str:
        module = make_module(Case("bert", "lora"), bert)
        seed_everything(seed, verbose=False)
        fit(module, bert, 3)
        return trainable_sha256(module)

    contract_seed(fitted)


def test_p07_the_hash_is_of_names_and_values(bert):
    module = make_module(Case("bert", "lora"), bert)
    module.configure_model()
    before = trainable_sha256(module)
    assert trainable_sha256(module) == before
    next(p for p in module.parameters() if p.requires_grad).data.view(-1)[0] += 1e-6
    assert trainable_sha256(module) != before


def test_p07_goes_red_when_the_seed_comes_after_the_head(run, monkeypatch):
    build = PeftModule.configure_model

    def seed_too_late(self: Any) -> None:
        if self.model is None:
            seed = torch.initial_seed()
            torch.seed()
            build(self)
            torch.manual_seed(seed)

    monkeypatch.setattr(PeftModule, "configure_model", seed_too_late)
    with pytest.raises(AssertionError, match="one config, two results"):
        contract_seed(partial(run, Case("bert", "lora")))


def test_p07_goes_red_when_the_seed_is_ignored(run, monkeypatch):
    monkeypatch.setattr("lightning.pytorch.cli.seed_everything", lambda *_, **__: torch.manual_seed(7).initial_seed())
    with pytest.raises(AssertionError, match="the seed changes nothing"):
        contract_seed(partial(run, Case("bert", "none")))
