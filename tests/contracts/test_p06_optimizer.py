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
)  # fmt: skip

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
def test_p06_whatever_the_optimizer(optimizer, model_folder):
    module = make_module(
        Case("bert", "full"), model_folder("bert"), optimizer=lambda groups: optimizer(groups, lr=LR, weight_decay=0.1)
    )
    contract_optimizer(record(module, model_folder("bert"), steps=2))


@pytest.mark.parametrize(("name", "decay"), [("torch.optim.SGD", 0.0), ("torch.optim.AdamW", 0.01), (None, 0.01)])
def test_p06_an_optimizer_has_its_own_defaults_and_not_those_of_another(name, decay, model_folder, toy_data, tmp_path):
    more = [] if name is None else [f"--model.optimizer={name}", "--model.optimizer.lr=0.1"]
    cli = command_line(Case("bert", "lora"), model_folder("bert"), toy_data, tmp_path / "run", *more)
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


def contract_learning_rate(
    folder: Path, schedule: Schedule, reference: Any, warmup: int, *, batches: int, accumulate: int, epochs: int
) -> None:
    """``warmup`` in optimizer steps, whichever way the schedule was given it."""
    module = make_module(Case("bert", "none"), folder, scheduler=schedule,
                         optimizer=lambda groups: torch.optim.AdamW(groups, lr=LR))  # fmt: skip
    seen = Recorded(module, folder)
    trainer = make_trainer(-1, seen, max_epochs=epochs, accumulate_grad_batches=accumulate)
    trainer.fit(module, loader(folder, batches), loader(folder, 1))
    steps = epochs * -(-batches // accumulate)
    assert len(seen.rates) == trainer.global_step == steps
    assert seen.rates == pytest.approx(analytic(reference, warmup, steps), rel=1e-9, abs=1e-15)


LINEAR, COSINE, CONSTANT = (
    (LinearWarmup, get_linear_schedule_with_warmup),
    (CosineWarmup, get_cosine_schedule_with_warmup),
    (ConstantWarmup, get_constant_schedule_with_warmup),
)


@pytest.mark.parametrize("schedule", [LINEAR, COSINE, CONSTANT], ids=lambda s: s[0].__name__)
@pytest.mark.parametrize(
    ("batches", "accumulate", "epochs"), [(6, 1, 2), (6, 2, 2), (7, 3, 2)], ids=["plain", "accumulated", "short window"]
)
@pytest.mark.parametrize(
    ("warmup", "steps_of"),
    [
        ({"num_warmup_steps": 2}, lambda steps: 2),
        ({"warmup_ratio": 0.3}, lambda steps: -(-3 * steps // 10)),
        ({}, lambda steps: 0),
    ],
    ids=["steps", "ratio", "none"],
)
def test_p06_the_learning_rate_is_the_analytic_curve(
    schedule, batches, accumulate, epochs, warmup, steps_of, model_folder
):
    ours, reference = schedule
    steps = epochs * -(-batches // accumulate)
    contract_learning_rate(
        model_folder("bert"), ours(**warmup), reference, steps_of(steps),
        batches=batches, accumulate=accumulate, epochs=epochs,
    )  # fmt: skip


def test_p06_the_curve_ends_with_max_steps(model_folder):
    folder = model_folder("bert")
    module = make_module(Case("bert", "none"), folder, scheduler=LinearWarmup(num_warmup_steps=1))
    seen = Recorded(module, folder)
    make_trainer(5, seen, max_epochs=100).fit(module, loader(folder, 3), loader(folder, 1))
    assert seen.rates == pytest.approx(analytic(get_linear_schedule_with_warmup, 1, 5))


def test_p06_goes_red_when_all_parameters_decay(model_folder, monkeypatch):
    monkeypatch.setattr(
        base, "parameter_groups", lambda model: [{"params": [p for p in model.parameters() if p.requires_grad]}]
    )
    with pytest.raises(AssertionError, match=r"(bias|LayerNorm.weight) decays"):
        contract_optimizer(
            record(make_module(Case("bert", "full"), model_folder("bert")), model_folder("bert"), steps=2)
        )


def test_p06_goes_red_when_frozen_parameters_are_handed_over(model_folder, monkeypatch):
    monkeypatch.setattr(base, "parameter_groups", lambda model: [{"params": list(model.parameters())}])
    with pytest.raises(AssertionError, match="something else than what trains"):
        contract_optimizer(
            record(make_module(Case("bert", "lora"), model_folder("bert")), model_folder("bert"), steps=2)
        )


def test_p06_goes_red_when_the_schedule_steps_with_every_batch(model_folder, monkeypatch):
    monkeypatch.setattr(PeftModule, "on_train_batch_end", lambda self, *_: self.lr_schedulers().step())
    with pytest.raises(AssertionError):
        contract_learning_rate(model_folder("bert"), LinearWarmup(2), get_linear_schedule_with_warmup, 2,
                               batches=6, accumulate=2, epochs=2)  # fmt: skip


def test_p06_goes_red_when_warmup_counts_batches(model_folder, monkeypatch):
    factor = Schedule.factor
    monkeypatch.setattr(Schedule, "factor", lambda self, step, total: factor(self, step, total * 2))
    with pytest.raises(AssertionError):
        contract_learning_rate(model_folder("bert"), LinearWarmup(warmup_ratio=0.3), get_linear_schedule_with_warmup, 2,
                               batches=6, accumulate=2, epochs=2)  # fmt: skip
