"""The accumulation window by itself; what it does to a run is in the contracts."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import Callback
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.utils.data import DataLoader

from peftlit.modules.accumulation import AccumulationWindow, at_step_boundary
from peftlit.modules.losses import CrossEntropy
from peftlit.modules.metrics import plain
from peftlit.plugins import FiniteGuard, LineProgress, RichProgress, TrainabilityGuard
from peftlit.plugins.throughput import Throughput
from peftlit.run.history import History
from tests.conftest import toy_rows
from tests.modules.cases import Case, collate, make_module, make_trainer

TRAINER = SimpleNamespace(
    accumulate_grad_batches=2,
    world_size=1,
    strategy=SimpleNamespace(broadcast=lambda value: value, reduce=lambda value, reduce_op: value),
)


def gradient(weights: list[float]) -> float:
    """The gradient of a parameter whose loss is three times it, summed over micro-batches."""
    window, parameter = AccumulationWindow(), torch.nn.Parameter(torch.ones(()))
    for i, weight in enumerate(weights):
        assert window.is_open == (i > 0)
        loss = window.accumulate(3 * parameter * weight, torch.tensor(weight), TRAINER)
        (loss / TRAINER.accumulate_grad_batches).backward()
    window.normalize_gradients([parameter], TRAINER)
    assert not window.is_open
    return float(parameter.grad)


def test_the_gradient_is_that_of_the_mean_and_zero_where_nothing_is_to_be_learned() -> None:
    assert gradient([5.0, 3.0]) == gradient([0.0, 3.0]) == 3.0
    assert gradient([0.0, 0.0]) == 0.0


def test_weights_are_summed_beyond_two_to_the_24() -> None:
    window, parameter = AccumulationWindow(), torch.nn.Parameter(torch.ones(()))
    parameter.grad = torch.ones(())
    for total, weight in [(0.0, 2.0**24), *[(1.0, 1.0)] * 8]:
        window.accumulate(torch.tensor(total), torch.tensor(weight), TRAINER)
    mean = window.normalize_gradients([parameter], TRAINER)
    assert torch.equal(parameter.grad, 2 * 2.0**24 / torch.tensor(2.0**24 + 8))
    assert float(mean) == float(torch.tensor(8 / (2**24 + 8)))


class Waits(Callback):
    """Write down what waits for the device or for other ranks: in which step, and whether before its last batch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: dict[int, list[str]] = {}
        self.inside: list[str] = []
        self.weighed: list[tuple[float, float]] = []
        self.trainer: Any = None
        reads = ("item", "tolist", "__float__", "__int__", "__bool__", "numpy", "cpu")
        for kind, names in [(torch.Tensor, reads), (SingleDeviceStrategy, ("reduce", "broadcast", "barrier"))]:
            for name in names:
                monkeypatch.setattr(kind, name, self._noting(getattr(kind, name), name))

    def _noting(self, whole: Any, name: str) -> Any:
        def noting(*arguments: Any, **named: Any) -> Any:
            if self.trainer is not None and self.trainer.training and _is_ours(sys._getframe(1)):
                self.steps.setdefault(self.trainer.global_step, []).append(name)
                if not at_step_boundary(self.trainer):
                    self.inside.append(name)
            return whole(*arguments, **named)

        return noting

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.trainer = trainer  # from the second micro-batch on: the first one settles the anchor


def _is_ours(caller: Any) -> bool:
    """Whether peftlit or Lightning asks, rather than the model, its adapter, the optimizer or a test."""
    return caller.f_globals["__name__"].partition(".")[0] in ("peftlit", "lightning")


@pytest.mark.parametrize(("bar", "printed"), [(RichProgress, []), (LineProgress, ["__float__"])])
def test_no_micro_batch_waits_but_the_last_of_a_step(bar, printed, model_folder, monkeypatch) -> None:
    folder, history, waits = model_folder("bert"), History(), Waits(monkeypatch)
    module = make_module(Case("bert", "lora"), folder, loss=CrossEntropy([0.7, 1.3]))
    whole, losses = module.loss, []

    def loss(batch: Any) -> Any:
        found = whole(batch)
        losses.append(torch.stack(found[:2]).detach().double().unbind())
        return found

    module.loss = loss
    guards = [Throughput(), FiniteGuard(), TrainabilityGuard(), history, bar(), waits]
    trainer = make_trainer(
        -1, *guards, max_epochs=1, accumulate_grad_batches=3, log_every_n_steps=4, enable_progress_bar=True
    )
    rows = [toy_rows(48)[2 * i : 2 * i + size] for i, size in enumerate([2, 1, 4] * 7)]
    trainer.fit(module, DataLoader([collate(folder, part) for part in rows], batch_size=None))
    assert trainer.global_step == 7
    assert waits.inside == []
    assert waits.steps[5] == [*printed, "reduce", "tolist", "reduce"]  # is it finite, and what is it divided by
    steps = [[sum(part) for part in zip(*losses[i : i + 3], strict=True)] for i in range(0, 21, 3)]
    means = [float((total / weight).float()) for total, weight in steps]
    assert [entry["loss"] for entry in history.log_history] == [plain(sum(means[:4]) / 4)]
