"""Ranks that AdaLoRA takes from some layers and leaves to others while it trains (ICLR 2023, arXiv:2303.10512)."""

from __future__ import annotations

import logging
from typing import Any

import torch
from peft import AdaLoraConfig, AdamssConfig, PeftConfig, PeftModel
from peft.tuners.adalora import AdaLoraModel
from torch import nn

from peftlit.errors import AdapterError

log = logging.getLogger(__name__)


def check_allocation(adapter: PeftConfig) -> None:
    """Refuse ranks that could not be given out.

    Args:
        adapter: The adapter's config.

    Raises:
        AdapterError: Saying which setting to change.
    """
    if isinstance(adapter, AdaLoraConfig) and adapter.target_r >= adapter.init_r:
        raise AdapterError(
            f"adapter.target_r: got {adapter.target_r} with init_r {adapter.init_r}; AdaLoRA starts with more ranks "
            "than it ends with, so set a larger init_r"
        )
    if isinstance(adapter, AdamssConfig) and adapter.use_asa:
        raise AdapterError(
            "adapter.use_asa: a run could not be continued as it was, because the scores that subspaces are chosen by "
            "are in no checkpoint; set use_asa: false"
        )


def warn_of_unsettled_ranks(model: nn.Module, steps: float) -> None:
    """Say so if a run ends before AdaLoRA has come down to the ranks that it is to end with.

    Args:
        model: The model; nothing is said unless its adapter is AdaLoRA.
        steps: Optimizer steps of the run; infinite where it has no end.
    """
    tuner = _tuner(model)
    if tuner is None:
        return
    adapter = _config(tuner)
    if steps < adapter.total_step - adapter.tfinal:
        log.warning(
            "adapter.total_step: %d, of which the last %d (tfinal) keep the ranks, but the run has %d steps and never "
            "comes down to target_r; set total_step: %d",
            *(adapter.total_step, adapter.tfinal, steps, steps),
        )


def freeze_rank_numbers(model: nn.Module) -> None:
    """Keep AdaLoRA's divisors as they are: where peft casts them with 4-bit layers, they begin to train, unsaved.

    Args:
        model: The model with its adapter.
    """
    tuner = _tuner(model)
    for name, parameter in tuner.named_parameters() if tuner is not None else ():
        if ".ranknum." in name:
            parameter.requires_grad_(False)


def allocate(model: nn.Module, step: int) -> None:
    """After an optimizer step, while its gradients are there: score the ranks, and zero the least when it is time.

    A step that was skipped scores nothing, as one whose gradients are not finite, which a loss scaler skips.

    Args:
        model: The model; nothing is done unless its adapter is AdaLoRA.
        step: How many optimizer steps have been made.
    """
    tuner = _tuner(model)
    if tuner is None:
        return
    gradients = [weight.grad for weight in tuner.parameters() if weight.grad is not None]
    if gradients and bool(torch.stack([gradient.isfinite().all() for gradient in gradients]).all()):
        tuner.update_and_allocate(step)


def allocation_state(model: nn.Module) -> dict[str, Any] | None:
    """Return what a run needs to go on giving out ranks; None unless the adapter is AdaLoRA.

    Args:
        model: The model.
    """
    tuner = _tuner(model)
    if tuner is None:
        return None
    allocator = tuner.rankallocator
    return {
        "importance": dict(allocator.exp_avg_ipt),
        "uncertainty": dict(allocator.exp_avg_unc),
        "rank_pattern": _config(tuner).rank_pattern,
    }


def restore_allocation(model: nn.Module, state: dict[str, Any] | None) -> None:
    """Take back what :func:`allocation_state` returned.

    Args:
        model: The model.
        state: The state.
    """
    tuner = _tuner(model)
    if tuner is None or state is None:
        return
    weights = dict(tuner.model.named_parameters())
    allocator = tuner.rankallocator
    allocator.exp_avg_ipt, allocator.exp_avg_unc = (
        {name: score.to(weights[name].device) for name, score in state[kind].items()}
        for kind in ("importance", "uncertainty")
    )
    allocator.ipt = {name: torch.zeros_like(score) for name, score in allocator.exp_avg_ipt.items()}
    _config(tuner).rank_pattern = state["rank_pattern"]


def _tuner(model: nn.Module) -> Any:
    tuner: Any = model.base_model if isinstance(model, PeftModel) else None
    return tuner if isinstance(tuner, AdaLoraModel) else None


def _config(tuner: Any) -> Any:
    return tuner.peft_config[tuner.trainable_adapter_name]
