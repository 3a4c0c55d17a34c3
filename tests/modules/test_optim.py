from __future__ import annotations

from functools import partial

import pytest
import torch
import transformers
from torch import nn

from peftlit.errors import ConfigError
from peftlit.modules.optim import (
    ConstantWarmup,
    CosineWarmup,
    LinearWarmup,
    Schedule,
    monitoring_scheduler,
    parameter_groups,
)


@pytest.mark.parametrize("layer", [nn.Linear(2, 2, bias=False), nn.LayerNorm(2)])
def test_empty_groups_are_left_out(layer):
    assert len(parameter_groups(layer)) == 1


def sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1)], lr=0.3)


def rates(schedule, steps: int = 20) -> list[float]:
    seen = []
    for _ in range(steps):
        seen.append(schedule.get_last_lr()[0])
        schedule.optimizer.step()
        schedule.step()
    return seen


@pytest.mark.parametrize("warmup", [0, 1, 7, 20])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (LinearWarmup, partial(transformers.get_linear_schedule_with_warmup, num_training_steps=20)),
        (CosineWarmup, partial(transformers.get_cosine_schedule_with_warmup, num_training_steps=20)),
        (ConstantWarmup, transformers.get_constant_schedule_with_warmup),
    ],
)
def test_the_curve_is_the_one_of_transformers(ours, theirs, warmup):
    expected = rates(theirs(sgd(), warmup))
    assert rates(ours(warmup)(sgd(), 20)) == pytest.approx(expected)
    assert rates(ours(warmup_ratio=warmup / 20)(sgd(), 20)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("schedule", "steps", "run", "factors"),
    [
        (LinearWarmup(3), (20, 25), 20, [0, 0]),  # past the end the rate stays zero
        (CosineWarmup(3), (20, 25), 20, [0, 0]),
        (LinearWarmup(warmup_ratio=0.01), (0, 1), 20, [0, 1]),  # a ratio rounds up to whole steps
        (LinearWarmup(10), range(4), 4, [0, 0.1, 0.2, 0.3]),  # warmup longer than the run only rises
    ],
)
def test_factors_at_the_ends(schedule, steps, run, factors):
    assert [schedule.factor(step, run) for step in steps] == pytest.approx(factors)


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: LinearWarmup(5, 0.1), ConfigError, "say the same thing twice"),
        (lambda: LinearWarmup(-1), ConfigError, "num_warmup_steps: got -1"),
        (lambda: LinearWarmup(warmup_ratio=1.5), ConfigError, "warmup_ratio: got 1.5"),
        (lambda: LinearWarmup(warmup_ratio=-0.1), ConfigError, "warmup_ratio: got -0.1"),
        (lambda: Schedule().factor(1, 2), NotImplementedError, "Schedule must say how"),
        (lambda: monitoring_scheduler(torch.optim.lr_scheduler.ReduceLROnPlateau), ConfigError,
         r"use lightning\.pytorch\.cli\.ReduceLROnPlateau, with a monitor"),
    ],
)  # fmt: skip
def test_what_cannot_be_followed_is_refused(make, error, said):
    with pytest.raises(error, match=said):
        make()


def test_a_schedule_for_several_groups_watches_nothing():
    two = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=[0.1, 0.01], total_steps=9)
    assert monitoring_scheduler(two) is None
