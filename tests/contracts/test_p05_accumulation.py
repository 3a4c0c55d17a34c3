"""P5: one big batch and the same rows in N micro-batches give the same gradient."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
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
from tests.modules.language_cases import NO_DROPOUT

TOLERANCE = 1e-6
ROWS = toy_rows(24)
ADAPTERS: dict[str, Any] = {
    "full": FullFineTuning(),
    "AdaLoRA": AdaLoraConfig(target_modules=["query", "value"], tinit=50, total_step=100),
    "KaSA": LoraConfig(target_modules=["query", "value"], kasa_config=KasaConfig(beta=0.1, gamma=0.1)),
}
"""What trains: everything, or adapters with a penalty on their weights."""
PENALISED = [adapter for adapter in ADAPTERS if adapter != "full"]

RAGGED = [5, 1, 2, 4, 8, 3, 1]
"""Rows per micro-batch; windows of 3 leave a last one of one micro-batch."""

clipped_or_not = pytest.mark.parametrize("clip", [None, 0.05], ids=["unclipped", "clipped"])
penalised = pytest.mark.parametrize("adapter", PENALISED)


class Gradients(Callback):
    """Write down, clipped as it is, the gradient of every optimizer step, and at the end what was logged."""

    def __init__(self, steps: Sequence[dict[str, Tensor]] = ()) -> None:
        self.steps = list(steps)
        self.logged: dict[str, float] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        def note(*_: Any) -> None:
            self.steps.append({n: p.grad.clone() for n, p in pl_module.named_parameters() if p.grad is not None})

        trainer.optimizers[0].register_step_post_hook(note)


def still(groups: Any) -> torch.optim.Optimizer:
    """An optimizer that does not move the weights."""
    return torch.optim.SGD(groups, lr=0.0)


def cut(sizes: list[int]) -> list[list[dict[str, object]]]:
    """The rows in micro-batches of these sizes."""
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [ROWS[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def windows(sizes: list[int], accumulate: int) -> list[int]:
    return [sum(sizes[i : i + accumulate]) for i in range(0, len(sizes), accumulate)]


def bert_module(folder: Path, adapter: Any = "of the case", **arguments: Any) -> Any:
    backbone = {"config_overrides": NO_DROPOUT["bert"]}
    return make_module(Case("bert", "full"), folder, adapter=adapter, backbone=backbone, **arguments)


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
    counts = {"class_counts": [12, 12], "num_rows": 24}
    module = bert_module(folder, ADAPTERS[adapter], optimizer=still, loss=loss, data=counts)
    seen = Gradients()
    trainer = make_trainer(
        -1, seen, *callbacks, **{"max_epochs": 1, "accumulate_grad_batches": accumulate, **arguments}
    )
    trainer.fit(module, DataLoader([collate(folder, rows) for rows in batches], batch_size=None))
    return seen


def contract_same_gradients(one: Gradients, *others: Gradients, tolerance: float = TOLERANCE) -> float:
    """Return the largest absolute difference of a gradient."""
    largest = 0.0
    for many in others:
        assert len(one.steps) == len(many.steps) > 0
        for big, small in zip(one.steps, many.steps, strict=True):
            assert big.keys() == small.keys()
            largest = max(largest, *(float((big[name] - small[name]).abs().max()) for name in big))
    assert largest <= tolerance, f"gradients differ by {largest:.2g}"
    return largest


def ragged(folder: Path, **same: Any) -> tuple[Gradients, Gradients]:
    """What steps with whole windows, and with ragged micro-batches."""
    return gradients(folder, cut(windows(RAGGED, 3)), 1, **same), gradients(folder, cut(RAGGED), 3, **same)


def norm(step: dict[str, Tensor]) -> float:
    return float(torch.stack([gradient.norm() for gradient in step.values()]).norm())


LOSSES = {
    "plain": lambda: None,
    "weighted": lambda: CrossEntropy([1.0, 3.0], label_smoothing=0.1),
    "one logit": lambda: BinaryCrossEntropy([2.0]),
}


@pytest.mark.parametrize("loss", LOSSES)
@clipped_or_not
def test_p05_ragged_micro_batches_and_a_short_last_window(loss, clip, bert):
    one, many = ragged(bert, loss=LOSSES[loss](), gradient_clip_val=clip)
    contract_same_gradients(one, many)
    assert clip is None or all(norm(step) <= clip * (1 + 1e-5) for step in many.steps)


def test_p05_rows_by_themselves_are_one_batch(bert):
    contract_same_gradients(gradients(bert, cut([24]), 1), gradients(bert, cut([1] * 24), 24))


def test_p05_under_bfloat16_the_difference_is_one_of_rounding(bert):
    contract_same_gradients(*ragged(bert, precision="bf16-mixed"), tolerance=2e-2)


@clipped_or_not
def test_p05_under_float16_the_scaler_takes_no_part(clip, bert):
    """Windows give the big batch's gradient, to rounding, and it is not a multiple by the scale."""
    precision = AdapterPrecision("16-mixed", device.current)
    precision.scaler = torch.amp.GradScaler(device.current, init_scale=2.0**10)
    one, many = ragged(bert, precision=precision, gradient_clip_val=clip)
    unscaled = gradients(bert, cut(windows(RAGGED, 3)), 1, gradient_clip_val=clip)
    contract_same_gradients(one, many, unscaled, tolerance=2e-3)


ON_TWO_RANKS = [[4, 2, 1, 1], [3, 2, 4, 3], [3, 1]]
"""Rows of each window's micro-batches, dealt in turn to two ranks: no two shares alike, the last window short."""


def with_two_ranks(train: Callable[..., Gradients], out: Path) -> list[Gradients]:
    """Return what one process steps with over whole windows, and each of two over its share of the micro-batches.

    ``train`` is given sizes of micro-batches, how many make a window, which of them to take, and the trainer's flags.
    """

    def begin() -> None:
        rank = int(os.environ.get("LOCAL_RANK", 0))
        flags = {"devices": 2, "strategy": "ddp", "use_distributed_sampler": False, "num_sanity_val_steps": 0}
        seen = train([size for window in ON_TWO_RANKS for size in window], 2, slice(rank, None, 2), **flags)
        (out / f"{rank}.json").write_text(json.dumps(seen.logged))
        for step, found in enumerate(seen.steps):
            save_file({name: value.clone() for name, value in found.items()}, out / f"{rank}_{step}.safetensors")

    def read(rank: int) -> Gradients:
        seen = Gradients([load_file(out / f"{rank}_{step}.safetensors") for step in range(len(ON_TWO_RANKS))])
        seen.logged = json.loads((out / f"{rank}.json").read_text())
        return seen

    outcome = forked(partial(on_ranks, begin), out, others_may_take=60.0)
    assert outcome.code == 0, outcome.said
    return [train(list(map(sum, ON_TWO_RANKS)), 1), read(0), read(1)]


def on_two_ranks(folder: Path, out: Path, **same: Any) -> list[Gradients]:
    def train(sizes: list[int], accumulate: int, share: slice = slice(None), **flags: Any) -> Gradients:
        return gradients(folder, cut(sizes)[share], accumulate, **flags, **same)

    return with_two_ranks(train, out)


@pytest.mark.slow
@clipped_or_not
def test_p05_two_ranks_with_unequal_shares(clip, bert, tmp_path):
    contract_same_gradients(*on_two_ranks(bert, tmp_path, gradient_clip_val=clip))


def reference(adapter: str, folder: Path) -> tuple[Tensor, Gradients]:
    """Return peft's own penalty, and the gradient of a mean loss with it: nothing of a window."""
    module = bert_module(folder, ADAPTERS[adapter])
    module.configure_model()
    batch = collate(folder, ROWS[:8])
    total, weight, _ = module.loss(batch)
    if adapter == "AdaLoRA":  # which adds it to a loss of the model's own
        outputs = [model(**module.model_inputs(batch), labels=batch["labels"]) for model in (
            module.model, module.model.get_base_model())]  # fmt: skip
        penalty = outputs[0].loss - outputs[1].loss
    else:
        penalty = module.model.base_model._get_kasa_loss() if adapter == "KaSA" else torch.zeros(())
    (total / weight + penalty).backward()
    return penalty.detach(), Gradients([{n: p.grad for n, p in module.named_parameters() if p.grad is not None}])


@penalised
def test_p05_a_penalty_enters_after_the_normaliser(adapter, bert):
    penalty, expected = reference(adapter, bert)
    assert penalty > 0.1, "too small to be noticed"
    contract_same_gradients(expected, gradients(bert, cut([8]), 1, adapter=adapter))


@clipped_or_not
@penalised
def test_p05_a_penalty_counts_once_for_a_step(adapter, clip, bert):
    contract_same_gradients(*ragged(bert, adapter=adapter, gradient_clip_val=clip))


@pytest.mark.slow
@penalised
def test_p05_a_penalty_counts_once_for_two_ranks(adapter, bert, tmp_path):
    contract_same_gradients(*on_two_ranks(bert, tmp_path, adapter=adapter))


@penalised
def test_p05_goes_red_without_the_penalty(adapter, bert, monkeypatch):
    monkeypatch.setattr(base, "add_penalty", lambda *_: None)
    with pytest.raises(AssertionError, match="gradients differ"):
        test_p05_a_penalty_enters_after_the_normaliser(adapter, bert)


@penalised
def test_p05_goes_red_when_the_penalty_is_divided_by_the_rows(adapter, bert, monkeypatch):
    close = AccumulationWindow.normalize_gradients

    def penalty_first(self: AccumulationWindow, parameters: Any, trainer: Any) -> Tensor:
        penalty.add_penalty(trainer.lightning_module.model, trainer.lightning_module.method)
        return close(self, parameters, trainer)

    monkeypatch.setattr(AccumulationWindow, "normalize_gradients", penalty_first)
    monkeypatch.setattr(base, "add_penalty", lambda *_: None)
    with pytest.raises(AssertionError, match="gradients differ"):
        test_p05_a_penalty_counts_once_for_a_step(adapter, None, bert)


def test_p05_windows_that_grow_from_epoch_to_epoch(bert):
    growing = GradientAccumulationScheduler(scheduling={0: 1, 1: 3})
    many = gradients(bert, cut(RAGGED), 1, callbacks=[growing], max_epochs=2)
    first, second = gradients(bert, cut(RAGGED), 1), gradients(bert, cut(windows(RAGGED, 3)), 1)
    contract_same_gradients(Gradients(first.steps + second.steps), many)


def test_p05_a_window_that_closes_gives_the_gradient_of_a_mean(bert):
    """With one micro-batch a window is what anyone's loss.mean() gives, bit for bit where rows are a power of two."""
    (first, _), (expected,) = gradients(bert, cut([8, 16]), 1).steps, reference("full", bert)[1].steps
    assert first.keys() == expected.keys()
    assert [name for name in first if not torch.equal(first[name], expected[name])] == []


def count_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each micro-batch count alike, as Lightning does it."""
    monkeypatch.setattr(AccumulationWindow, "accumulate", lambda self, total, weight, trainer: total / weight)
    monkeypatch.setattr(AccumulationWindow, "normalize_gradients", lambda self, parameters, trainer: torch.zeros(()))


def test_p05_goes_red_when_micro_batches_count_alike(bert, monkeypatch):
    one, _ = ragged(bert)
    count_alike(monkeypatch)
    with pytest.raises(AssertionError, match="gradients differ"):
        contract_same_gradients(one, gradients(bert, cut(RAGGED), 3))
