"""P5: one big batch and the same rows in N micro-batches give the same gradient."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from peft import AdaLoraConfig, KasaConfig, LoraConfig
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader

from peftlit.adapters import FullFineTuning, penalty
from peftlit.modules import base
from peftlit.modules.accumulation import AccumulationWindow
from peftlit.modules.losses import BinaryCrossEntropy, CrossEntropy
from peftlit.plugins import AdapterPrecision
from tests import device
from tests.conftest import toy_rows
from tests.forked import forked, on_ranks
from tests.modules.cases import Case, collate, make_module, make_trainer

TOLERANCE = 1e-6
ROWS = toy_rows(24)
ADAPTERS: dict[str, Any] = {
    "full": FullFineTuning(),
    "AdaLoRA": AdaLoraConfig(target_modules=["query", "value"], tinit=50, total_step=100),
    "KaSA": LoraConfig(target_modules=["query", "value"], kasa_config=KasaConfig(beta=0.1, gamma=0.1)),
}
"""What trains: everything, or adapters with a penalty on their weights."""

RAGGED = [5, 1, 2, 4, 8, 3, 1]
"""Rows per micro-batch; windows of 3 leave a last one of one micro-batch."""


class Gradients(Callback):
    """Write down, clipped as it is, the gradient of every optimizer step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        def note(*_: Any) -> None:
            self.steps.append({n: p.grad.clone() for n, p in pl_module.named_parameters() if p.grad is not None})

        trainer.optimizers[0].register_step_post_hook(note)


def cut(sizes: list[int]) -> list[list[dict[str, object]]]:
    """The rows in micro-batches of these sizes."""
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [ROWS[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def gradients(
    folder: Path,
    batches: list[list[dict[str, object]]],
    accumulate: int,
    *,
    loss: Any = None,
    adapter: str = "full",
    callbacks: Sequence[Callback] = (),
    **arguments: Any,
) -> Gradients:
    """Train over micro-batches, without dropout and without moving the weights."""
    module = make_module(
        Case("bert", "full"),
        folder,
        adapter=ADAPTERS[adapter],
        backbone={"config_overrides": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}},
        optimizer=lambda groups: torch.optim.SGD(groups, lr=0.0),
        loss=loss,
        data={"class_counts": [12, 12], "num_rows": 24},
    )
    seen = Gradients()
    arguments = {"max_epochs": 1, "accumulate_grad_batches": accumulate, **arguments}
    trainer = make_trainer(-1, seen, *callbacks, **arguments)
    trainer.fit(module, DataLoader([collate(folder, rows) for rows in batches], batch_size=None))
    return seen


def contract_same_gradients(one: Gradients, many: Gradients, tolerance: float = TOLERANCE) -> float:
    """Return the largest absolute difference of a gradient."""
    assert len(one.steps) == len(many.steps) > 0
    largest = 0.0
    for big, small in zip(one.steps, many.steps, strict=True):
        assert big.keys() == small.keys()
        largest = max(largest, *(float((big[name] - small[name]).abs().max()) for name in big))
    assert largest <= tolerance, f"gradients differ by {largest:.2g}"
    return largest


def windows(sizes: list[int], accumulate: int) -> list[int]:
    return [sum(sizes[i : i + accumulate]) for i in range(0, len(sizes), accumulate)]


LOSSES = {
    "plain": lambda: None,
    "weighted": lambda: CrossEntropy([1.0, 3.0], label_smoothing=0.1),
    "one logit": lambda: BinaryCrossEntropy([2.0]),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("clip", [None, 0.05], ids=["unclipped", "clipped"])
def test_p05_ragged_micro_batches_and_a_short_last_window(loss, clip, model_folder):
    folder = model_folder("bert")
    clipping = {"gradient_clip_val": clip}
    one = gradients(folder, cut(windows(RAGGED, 3)), 1, loss=LOSSES[loss](), **clipping)
    many = gradients(folder, cut(RAGGED), 3, loss=LOSSES[loss](), **clipping)
    contract_same_gradients(one, many)
    if clip is not None:
        for step in many.steps:
            norm = torch.stack([g.norm() for g in step.values()]).norm()
            assert float(norm) <= clip * (1 + 1e-5)


def test_p05_rows_by_themselves_are_one_batch(model_folder):
    folder = model_folder("bert")
    contract_same_gradients(gradients(folder, cut([24]), 1), gradients(folder, cut([1] * 24), 24))


def test_p05_under_bfloat16_the_difference_is_one_of_rounding(model_folder):
    folder = model_folder("bert")
    one = gradients(folder, cut(windows(RAGGED, 3)), 1, precision="bf16-mixed")
    contract_same_gradients(one, gradients(folder, cut(RAGGED), 3, precision="bf16-mixed"), tolerance=2e-2)


def scaled_by(scale: float) -> AdapterPrecision:
    precision = AdapterPrecision("16-mixed", device.current)
    precision.scaler = torch.amp.GradScaler(device.current, init_scale=scale)
    return precision


@pytest.mark.parametrize("clip", [None, 0.05], ids=["unclipped", "clipped"])
def test_p05_under_float16_the_scaler_takes_no_part(clip, model_folder):
    """Windows give the big batch's gradient, to rounding, and it is not a multiple by the scale."""
    folder, clipping = model_folder("bert"), {"gradient_clip_val": clip}
    one = gradients(folder, cut(windows(RAGGED, 3)), 1, precision=scaled_by(2.0**10), **clipping)
    many = gradients(folder, cut(RAGGED), 3, precision=scaled_by(2.0**10), **clipping)
    contract_same_gradients(one, many, tolerance=2e-3)
    contract_same_gradients(gradients(folder, cut(windows(RAGGED, 3)), 1, **clipping), one, tolerance=2e-3)


ON_TWO_RANKS = [[4, 2, 1, 1], [3, 2, 4, 3], [3, 1]]
"""Rows of each window's micro-batches, dealt in turn to two ranks: no two shares alike, the last window short."""
TOGETHER = {"devices": 2, "strategy": "ddp", "use_distributed_sampler": False, "num_sanity_val_steps": 0}


def on_two_ranks(folder: Path, out: Path, **same: Any) -> list[Gradients]:
    """Return what each of two processes steps with, and what one does with whole windows."""

    def begin() -> None:
        rank = int(os.environ.get("LOCAL_RANK", 0))
        batches = cut([size for window in ON_TWO_RANKS for size in window])[rank::2]
        save_steps(gradients(folder, batches, 2, **TOGETHER, **same), out, rank)

    outcome = forked(partial(on_ranks, begin), out, others_may_take=60.0)
    assert outcome.code == 0, outcome.said
    return [gradients(folder, cut(list(map(sum, ON_TWO_RANKS))), 1, **same), *map(partial(read_steps, out), (0, 1))]


def save_steps(seen: Gradients, out: Path, rank: int) -> None:
    for step, found in enumerate(seen.steps):
        save_file({name: value.clone() for name, value in found.items()}, out / f"rank{rank}_step{step}.safetensors")


def read_steps(out: Path, rank: int) -> Gradients:
    seen = Gradients()
    seen.steps = [load_file(out / f"rank{rank}_step{step}.safetensors") for step in range(len(ON_TWO_RANKS))]
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("clip", [None, 0.05], ids=["unclipped", "clipped"])
def test_p05_two_ranks_with_unequal_shares(clip, model_folder, tmp_path):
    one, *ranks = on_two_ranks(model_folder("bert"), tmp_path, gradient_clip_val=clip)
    for many in ranks:
        contract_same_gradients(one, many)


PENALISED = [adapter for adapter in ADAPTERS if adapter != "full"]


def reference(adapter: str, folder: Path) -> tuple[Tensor, dict[str, Tensor]]:
    """Return peft's own penalty, and the gradient of a mean loss with it: nothing of a window."""
    module = make_module(
        Case("bert", "lora"),
        folder,
        adapter=ADAPTERS[adapter],
        backbone={"config_overrides": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}},
    )
    module.configure_model()
    batch = collate(folder, ROWS[:8])
    total, weight, _ = module.loss(batch)
    if adapter == "AdaLoRA":  # which adds it to a loss of the model's own
        outputs = [model(**module.model_inputs(batch), labels=batch["labels"]) for model in (
            module.model, module.model.get_base_model())]  # fmt: skip
        penalty = outputs[0].loss - outputs[1].loss
    else:
        penalty = module.model.base_model._get_kasa_loss()
    (total / weight + penalty).backward()
    return penalty.detach(), {n: p.grad for n, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("adapter", PENALISED)
def test_p05_a_penalty_enters_after_the_normaliser(adapter, model_folder):
    folder = model_folder("bert")
    penalty, expected = reference(adapter, folder)
    assert penalty > 0.1, "too small to be noticed"
    one = gradients(folder, cut([8]), 1, adapter=adapter)
    wanted = Gradients()
    wanted.steps = [expected]
    contract_same_gradients(wanted, one)


@pytest.mark.parametrize("clip", [None, 0.05], ids=["unclipped", "clipped"])
@pytest.mark.parametrize("adapter", PENALISED)
def test_p05_a_penalty_counts_once_for_a_step(adapter, clip, model_folder):
    folder, same = model_folder("bert"), {"adapter": adapter, "gradient_clip_val": clip}
    contract_same_gradients(
        gradients(folder, cut(windows(RAGGED, 3)), 1, **same), gradients(folder, cut(RAGGED), 3, **same)
    )


@pytest.mark.slow
@pytest.mark.parametrize("adapter", PENALISED)
def test_p05_a_penalty_counts_once_for_two_ranks(adapter, model_folder, tmp_path):
    one, *ranks = on_two_ranks(model_folder("bert"), tmp_path, adapter=adapter)
    for many in ranks:
        contract_same_gradients(one, many)


@pytest.mark.parametrize("adapter", PENALISED)
def test_p05_goes_red_without_the_penalty(adapter, model_folder, monkeypatch):
    monkeypatch.setattr(base, "add_penalty", lambda *_: None)
    with pytest.raises(AssertionError, match="gradients differ"):
        test_p05_a_penalty_enters_after_the_normaliser(adapter, model_folder)


@pytest.mark.parametrize("adapter", PENALISED)
def test_p05_goes_red_when_the_penalty_is_divided_by_the_rows(adapter, model_folder, monkeypatch):
    close = AccumulationWindow.normalize_gradients

    def penalty_first(self: AccumulationWindow, parameters: Any, trainer: Any) -> Tensor:
        penalty.add_penalty(trainer.lightning_module.model, trainer.lightning_module.method)
        return close(self, parameters, trainer)

    monkeypatch.setattr(AccumulationWindow, "normalize_gradients", penalty_first)
    monkeypatch.setattr(base, "add_penalty", lambda *_: None)
    with pytest.raises(AssertionError, match="gradients differ"):
        test_p05_a_penalty_counts_once_for_a_step(adapter, None, model_folder)


def test_p05_windows_that_grow_from_epoch_to_epoch(model_folder):
    folder = model_folder("bert")
    growing = GradientAccumulationScheduler(scheduling={0: 1, 1: 3})
    many = gradients(folder, cut(RAGGED), 1, callbacks=[growing], max_epochs=2)
    one = gradients(folder, cut(RAGGED), 1)
    one.steps += gradients(folder, cut(windows(RAGGED, 3)), 1).steps
    contract_same_gradients(one, many)


def test_p05_a_window_that_closes_gives_the_gradient_of_a_mean(model_folder):
    """With one micro-batch a window is what anyone's loss.mean() gives, bit for bit where rows are a power of two."""
    folder = model_folder("bert")
    found = gradients(folder, cut([8, 16]), 1)
    module = make_module(
        Case("bert", "full"),
        folder,
        backbone={"config_overrides": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}},
    )
    module.configure_model()
    total, weight, _ = module.loss(collate(folder, ROWS[:8]))
    (total / weight).backward()
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            assert torch.equal(parameter.grad, found.steps[0][name]), name


def test_p05_goes_red_when_micro_batches_count_alike(model_folder, monkeypatch):
    folder = model_folder("bert")
    one = gradients(folder, cut(windows(RAGGED, 3)), 1)
    monkeypatch.setattr(AccumulationWindow, "accumulate", lambda self, total, weight, trainer: total / weight)
    monkeypatch.setattr(AccumulationWindow, "normalize_gradients", lambda self, parameters, trainer: torch.zeros(()))
    with pytest.raises(AssertionError, match="gradients differ"):
        contract_same_gradients(one, gradients(folder, cut(RAGGED), 3))
