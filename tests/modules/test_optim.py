from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)  # fmt: skip

from peftlit.errors import ConfigError
from peftlit.modules.optim import (
    ConstantWarmup,
    CosineWarmup,
    LinearWarmup,
    Schedule,
    monitoring_scheduler,
    parameter_groups,
)


def model() -> nn.Module:
    return nn.Sequential(nn.Embedding(4, 3), nn.LayerNorm(3), nn.Linear(3, 2))


def test_matrices_decay_and_vectors_do_not():
    net = model()
    decayed, others = parameter_groups(net)
    assert [id(p) for p in decayed["params"]] == [id(net[0].weight), id(net[2].weight)]
    assert [id(p) for p in others["params"]] == [id(net[1].weight), id(net[1].bias), id(net[2].bias)]
    assert "weight_decay" not in decayed, "the optimizer's own default is kept"
    assert others["weight_decay"] == 0


def test_frozen_parameters_are_left_out():
    net = model()
    net[0].requires_grad_(False)
    assert sum(len(group["params"]) for group in parameter_groups(net)) == 4


@pytest.mark.parametrize(("layer", "groups"), [(nn.Linear(2, 2, bias=False), 1), (nn.LayerNorm(2), 1)])
def test_empty_groups_are_left_out(layer, groups):
    assert len(parameter_groups(layer)) == groups


def rates(schedule, steps: int) -> list[float]:
    seen = []
    for _ in range(steps):
        seen.append(schedule.get_last_lr()[0])
        schedule.optimizer.step()
        schedule.step()
    return seen


def sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1)], lr=0.3)


@pytest.mark.parametrize("warmup", [0, 1, 7, 20])
@pytest.mark.parametrize(
    ("ours", "reference"),
    [(LinearWarmup, get_linear_schedule_with_warmup), (CosineWarmup, get_cosine_schedule_with_warmup)],
)
def test_the_curve_is_the_one_of_transformers(ours, reference, warmup):
    expected = rates(reference(sgd(), warmup, 20), 20)
    assert rates(ours(warmup)(sgd(), 20), 20) == pytest.approx(expected)
    assert rates(ours(warmup_ratio=warmup / 20)(sgd(), 20), 20) == pytest.approx(expected)


def test_a_constant_rate_after_warmup_is_the_one_of_transformers():
    expected = rates(get_constant_schedule_with_warmup(sgd(), 5), 20)
    assert rates(ConstantWarmup(5)(sgd(), 20), 20) == pytest.approx(expected)


@pytest.mark.parametrize("schedule", [LinearWarmup(3), CosineWarmup(3)])
def test_past_the_end_the_rate_stays_zero(schedule):
    assert schedule.factor(20, 20) == pytest.approx(0)
    assert schedule.factor(25, 20) == pytest.approx(0)


def test_a_ratio_rounds_up_to_whole_steps():
    assert LinearWarmup(warmup_ratio=0.01).factor(0, 20) == 0
    assert LinearWarmup(warmup_ratio=0.01).factor(1, 20) == 1


def test_warmup_longer_than_the_run_only_rises():
    assert [LinearWarmup(10).factor(step, 4) for step in range(4)] == pytest.approx([0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_warmup_steps": 5, "warmup_ratio": 0.1}, "say the same thing twice"),
        ({"num_warmup_steps": -1}, "num_warmup_steps: got -1"),
        ({"warmup_ratio": 1.5}, "warmup_ratio: got 1.5"),
        ({"warmup_ratio": -0.1}, "warmup_ratio: got -0.1"),
    ],
)
def test_a_warmup_out_of_range_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        LinearWarmup(**arguments)


def test_a_schedule_must_say_how_it_decays():
    class Own(Schedule):
        pass

    with pytest.raises(NotImplementedError, match="Own must say how"):
        Own().factor(1, 2)


def test_a_schedule_for_several_groups_watches_nothing():
    two = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=[0.1, 0.01], total_steps=9)
    assert monitoring_scheduler(two) is None


def test_a_schedule_that_does_not_say_what_it_watches_is_refused():
    with pytest.raises(ConfigError, match=r"use lightning\.pytorch\.cli\.ReduceLROnPlateau, with a monitor"):
        monitoring_scheduler(torch.optim.lr_scheduler.ReduceLROnPlateau)
