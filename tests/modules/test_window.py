"""The accumulation window by itself; what it does to a run is in the contracts."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from peftlit.modules.window import AccumulationWindow

TRAINER = SimpleNamespace(
    accumulate_grad_batches=2,
    world_size=1,
    strategy=SimpleNamespace(broadcast=lambda value: value, reduce=lambda value, reduce_op: value),
)


def close(weights: list[float]) -> tuple[AccumulationWindow, torch.Tensor]:
    """The gradient of a parameter whose loss is three times it, summed over micro-batches."""
    window, parameter = AccumulationWindow(), torch.nn.Parameter(torch.ones(()))
    for weight in weights:
        assert window.is_open == (weight is not weights[0])
        loss = window.add(3 * parameter * weight, torch.tensor(weight), TRAINER)
        (loss / TRAINER.accumulate_grad_batches).backward()
    window.close([parameter], TRAINER)
    return window, parameter.grad


def test_a_window_is_open_until_it_closes() -> None:
    window, _ = close([5.0, 3.0])
    assert not window.is_open


def test_the_gradient_is_that_of_the_mean() -> None:
    assert float(close([5.0, 3.0])[1]) == 3.0
    assert float(close([0.0, 3.0])[1]) == 3.0


def test_a_window_with_nothing_to_learn_from_has_no_gradient() -> None:
    assert float(close([0.0, -0.0])[1]) == 0.0
