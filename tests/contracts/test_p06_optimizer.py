"""P6: the optimizer holds trainables only, biases and norms do not decay, the learning rate is the analytic curve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from peftlit.modules import base
from peftlit.modules.base import PeftModule
from peftlit.modules.optim import ConstantWarmup, CosineWarmup, LinearWarmup, Schedule
from peftlit.plugins import PagedAdamW8bit
from tests.contracts.recorded import Recorded, record
from tests.modules.cases import Case, command_line, loader, make_module, make_trainer

LR = 1e-2


def contract_optimizer(seen: Recorded) -> None:
    module, (optimizer,) = seen.module, seen.trainer.optimizers
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    trainable = {id(p): name for name, p in module.named_parameters() if p.requires_grad}
    assert len(held) == len({id(p) for p in held}), "holds a parameter twice"
    assert {id(p) for p in held} == set(trainable), "holds something else than what trains"
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            *owner, last = trainable[id(parameter)].split(".")
            norm = "norm" in type(module.get_submodule(".".join(owner))).__name__.lower()
            if last == "bias" or norm or parameter.ndim < 2:
                assert group["weight_decay"] == 0, f"{trainable[id(parameter)]} decays"
            elif last == "weight":
                assert group["weight_decay"] > 0, f"{trainable[id(parameter)]} does not decay"


def trained(adapter: str, folder: Path, **arguments: Any) -> Recorded:
    return record(make_module(Case("bert", adapter), folder, **arguments), folder, steps=2)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, PagedAdamW8bit], ids=lambda o: o.__name__)
def test_p06_whatever_the_optimizer(optimizer, bert):
    contract_optimizer(trained("full", bert, optimizer=lambda groups: optimizer(groups, lr=LR, weight_decay=0.1)))


@pytest.mark.parametrize(("name", "decay"), [("torch.optim.SGD", 0.0), ("torch.optim.AdamW", 0.01), (None, 0.01)])
def test_p06_an_optimizer_has_its_own_defaults_and_not_those_of_another(name, decay, bert, toy_data, tmp_path):
    more = [] if name is None else [f"--model.optimizer={name}", "--model.optimizer.lr=0.1"]
    cli = command_line(Case("bert", "lora"), bert, toy_data, tmp_path / "run", *more, steps=1)
    assert [group["weight_decay"] for group in cli.trainer.optimizers[0].param_groups] == [decay, 0.0]


def analytic(reference: Any, warmup: int, steps: int) -> list[float]:
    """What transformers' own schedule gives."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=LR)
    arguments = (warmup,) if reference is get_constant_schedule_with_warmup else (warmup, steps)
    schedule = reference(optimizer, *arguments)
    rates = []
    for _ in range(steps):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return rates


def rates(folder: Path, schedule: Schedule, batches: int, **arguments: Any) -> tuple[list[float], int]:
    """The learning rate of every optimizer step, and how many steps the Trainer counts."""
    module = make_module(Case("bert", "none"), folder, scheduler=schedule,
                         optimizer=lambda groups: torch.optim.AdamW(groups, lr=LR))  # fmt: skip
    seen = Recorded(module, folder)
    trainer = make_trainer(arguments.pop("max_steps", -1), seen, **arguments)
    trainer.fit(module, loader(folder, batches), loader(folder, 1))
    return seen.rates, trainer.global_step


def contract_learning_rate(
    folder: Path, schedule: Schedule, reference: Any, warmup: int, batches: int = 6, accumulate: int = 2
) -> None:
    """``warmup`` in optimizer steps, whichever way the schedule was given it; two epochs."""
    steps = 2 * -(-batches // accumulate)
    found, counted = rates(folder, schedule, batches, max_epochs=2, accumulate_grad_batches=accumulate)
    assert len(found) == counted == steps
    assert found == pytest.approx(analytic(reference, warmup, steps), rel=1e-9, abs=1e-15)


SCHEDULES = [
    (LinearWarmup, get_linear_schedule_with_warmup),
    (CosineWarmup, get_cosine_schedule_with_warmup),
    (ConstantWarmup, get_constant_schedule_with_warmup),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s[0].__name__)
@pytest.mark.parametrize(("batches", "accumulate"), [(6, 1), (6, 2), (7, 3)], ids=["plain", "windows", "short window"])
def test_p06_the_learning_rate_is_the_analytic_curve(schedule, batches, accumulate, bert):
    (ours, reference), steps = schedule, 2 * -(-batches // accumulate)
    for warmup, expected in (({"num_warmup_steps": 2}, 2), ({"warmup_ratio": 0.3}, -(-3 * steps // 10)), ({}, 0)):
        contract_learning_rate(bert, ours(**warmup), reference, expected, batches, accumulate)


def test_p06_the_curve_ends_with_max_steps(bert):
    found, _ = rates(bert, LinearWarmup(num_warmup_steps=1), 3, max_epochs=100, max_steps=5)
    assert found == pytest.approx(analytic(get_linear_schedule_with_warmup, 1, 5))


def test_p06_goes_red_when_all_parameters_decay(bert, monkeypatch):
    def one_group(model: Any) -> list[dict[str, Any]]:
        return [{"params": [p for p in model.parameters() if p.requires_grad]}]

    monkeypatch.setattr(base, "parameter_groups", one_group)
    with pytest.raises(AssertionError, match=r"(bias|LayerNorm.weight) decays"):
        contract_optimizer(trained("full", bert))


def test_p06_goes_red_when_frozen_parameters_are_handed_over(bert, monkeypatch):
    monkeypatch.setattr(base, "parameter_groups", lambda model: [{"params": list(model.parameters())}])
    with pytest.raises(AssertionError, match="something else than what trains"):
        contract_optimizer(trained("lora", bert))


def test_p06_goes_red_when_the_schedule_steps_with_every_batch(bert, monkeypatch):
    monkeypatch.setattr(PeftModule, "on_train_batch_end", lambda self, *_: self.lr_schedulers().step())
    with pytest.raises(AssertionError):
        contract_learning_rate(bert, LinearWarmup(2), get_linear_schedule_with_warmup, 2)


def test_p06_goes_red_when_warmup_counts_batches(bert, monkeypatch):
    factor = Schedule.factor
    monkeypatch.setattr(Schedule, "factor", lambda self, step, total: factor(self, step, total * 2))
    with pytest.raises(AssertionError):
        contract_learning_rate(bert, LinearWarmup(warmup_ratio=0.3), get_linear_schedule_with_warmup, 2)
