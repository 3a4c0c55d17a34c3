from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import Callback
from peft import AdaLoraConfig, KasaConfig, LoraConfig

from peftlit.errors import NotFiniteError
from peftlit.plugins import FiniteGuard
from tests.modules.cases import Case, fit, make_module, weights_of


class Poison(Callback):
    """Make the second optimizer step's loss, or only its gradient, not a number."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.before: list[dict[str, torch.Tensor]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.before.append(weights_of(pl_module))
        pl_module.poisoned = self.what == "loss" and batch_idx == 1

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        if self.what == "gradient" and trainer.global_step == 1:
            next(p for p in pl_module.parameters() if p.grad is not None).grad[0] = float("inf")


def poisoned_module(folder: Any, **changes: Any) -> Any:
    module = make_module(Case("bert", "lora"), folder, **changes)
    whole = module.loss

    def loss(batch: Any) -> Any:
        total, weight, logits = whole(batch)
        return (total * float("nan") if getattr(module, "poisoned", False) else total), weight, logits

    module.loss = loss
    return module


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_run_stops_before_the_weights_are_touched(what, precision, model_folder):
    module, poison = poisoned_module(model_folder("bert")), Poison(what)
    said = rf"^step 2: the {what} is not finite \(training rows 1, 2, 3, 4; learning rate 0.01\); lower"
    with pytest.raises(NotFiniteError, match=said):
        fit(module, model_folder("bert"), 4, FiniteGuard(), poison, precision=precision)
    for name, weight in weights_of(module).items():
        assert torch.equal(weight, poison.before[-1][name]), name


TARGETS = ["query", "value"]
LORA = LoraConfig(target_modules=TARGETS, r=4)
KASA = LoraConfig(target_modules=TARGETS, kasa_config=KasaConfig(beta=0.1, gamma=0.1))
ADALORA = AdaLoraConfig(target_modules=TARGETS, tinit=1, total_step=10, init_r=6, target_r=2)


@pytest.mark.parametrize(
    ("what", "adapter"),
    [("loss", LORA), ("gradient", LORA), ("loss", KASA), ("loss", ADALORA)],
    ids=["loss", "gradient", "KaSA's penalty", "AdaLoRA's penalty"],
)
def test_a_step_is_skipped_and_counted_where_asked(what, adapter, model_folder):
    module, poison, guard = poisoned_module(model_folder("bert"), adapter=adapter), Poison(what), FiniteGuard("skip")
    fit(module, model_folder("bert"), 4, guard, poison)
    _, before, skipped, after = poison.before
    assert all(torch.equal(before[name], skipped[name]) for name in before)
    assert not all(torch.equal(skipped[name], after[name]) for name in before)
    assert all(bool(weight.isfinite().all()) for weight in weights_of(module).values() if weight.is_floating_point())
    again = FiniteGuard("skip")
    again.load_state_dict(guard.state_dict())
    assert again.skipped_steps == guard.skipped_steps == 1


def test_without_the_guard_the_weights_are_lost(model_folder):
    module = poisoned_module(model_folder("bert"))
    fit(module, model_folder("bert"), 3, Poison("loss"))
    assert any(not bool(weight.isfinite().all()) for weight in weights_of(module).values())


@pytest.mark.parametrize("what", [(1, 0), (0, 1)], ids=["loss", "gradient"])
def test_a_rank_leaves_out_a_step_that_is_broken_on_another_one(what):
    asked = []

    def reduce(own: torch.Tensor, reduce_op: str) -> torch.Tensor:
        asked.append((own.tolist(), reduce_op))
        return torch.maximum(own, torch.tensor(what, dtype=own.dtype))

    strategy = SimpleNamespace(root_device=torch.device("cpu"), reduce=reduce)
    trainer: Any = SimpleNamespace(strategy=strategy, precision_plugin=None, world_size=1, global_step=0)
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    guard = FiniteGuard("skip")
    guard.on_before_backward(trainer, None, torch.ones(()))
    guard.on_before_optimizer_step(trainer, None, torch.optim.SGD([weight], lr=0.1))
    assert asked == [([0, 0], "max")]
    assert weight.grad is None
    assert guard.skipped_steps == 1
