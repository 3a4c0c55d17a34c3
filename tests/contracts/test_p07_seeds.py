"""P7: the seed precedes adapter and head creation; two CPU runs of one config give equal hashes."""

from __future__ import annotations

import random
from pathlib import Path
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


def run(case: Case, folder: Path, data: Path, out: Path, seed: int, *more: str) -> str:
    """Three steps on the command line, and the hash of what trained."""
    random.seed()  # nothing may depend on what the process did before
    torch.seed()
    return trainable_sha256(command_line(case, folder, data, out, f"--seed_everything={seed}", *more).model)


def contract_seed(case: Case, folder: Path, data: Path, out: Path) -> None:
    first, again, other = (run(case, folder, data, out / "run", seed) for seed in (1, 1, 2))
    assert first == again, "one config, two results"
    assert first != other, "the seed changes nothing"


@pytest.mark.parametrize("case", SEEDED, ids=str)
def test_p07_one_config_gives_one_hash_and_another_seed_another(case, model_folder, toy_data, tmp_path):
    contract_seed(case, model_folder(case.family), toy_data, tmp_path)


@pytest.mark.parametrize(
    "more", ["--data.num_workers=2", "--trainer.precision=16-mixed", "--data.group_by_length=false"]
)
def test_p07_however_it_runs(more, model_folder, toy_data, tmp_path):
    first, again = (
        run(Case("bert", "lora"), model_folder("bert"), toy_data, tmp_path / "run", 1, more) for _ in range(2)
    )
    assert first == again


def test_p07_the_seed_reaches_the_order_of_the_rows(model_folder, toy_data, tmp_path):
    orders = []
    for seed in (1, 1, 2):
        cli = command_line(Case("bert", "none"), model_folder("bert"), toy_data, tmp_path / "run",
                           f"--seed_everything={seed}", steps=1)  # fmt: skip
        orders.append([batch["row"].tolist() for batch in cli.datamodule.train_dataloader()])
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]


def test_p07_a_module_of_ones_own_script_is_as_good(model_folder):
    hashes = []
    for seed in (1, 1, 2):
        module = make_module(Case("bert", "lora"), model_folder("bert"))
        seed_everything(seed, verbose=False)
        fit(module, model_folder("bert"), 3)
        hashes.append(trainable_sha256(module))
    assert hashes[0] == hashes[1] != hashes[2]


def test_p07_the_hash_is_of_names_and_values(model_folder):
    module = make_module(Case("bert", "lora"), model_folder("bert"))
    module.configure_model()
    before = trainable_sha256(module)
    assert trainable_sha256(module) == before
    next(p for p in module.parameters() if p.requires_grad).data.view(-1)[0] += 1e-6
    assert trainable_sha256(module) != before


def test_p07_goes_red_when_the_seed_comes_after_the_head(model_folder, toy_data, tmp_path, monkeypatch):
    build = PeftModule.configure_model

    def seed_too_late(self: Any) -> None:
        if self.model is None:
            seed = torch.initial_seed()
            torch.seed()
            build(self)
            torch.manual_seed(seed)

    monkeypatch.setattr(PeftModule, "configure_model", seed_too_late)
    with pytest.raises(AssertionError, match="one config, two results"):
        contract_seed(Case("bert", "lora"), model_folder("bert"), toy_data, tmp_path)


def test_p07_goes_red_when_the_seed_is_ignored(model_folder, toy_data, tmp_path, monkeypatch):
    monkeypatch.setattr("lightning.pytorch.cli.seed_everything", lambda *_, **__: torch.manual_seed(7).initial_seed())
    with pytest.raises(AssertionError, match="the seed changes nothing"):
        contract_seed(Case("bert", "none"), model_folder("bert"), toy_data, tmp_path)
