"""What some methods add to the loss that belongs to no row: a penalty on the adapter's own weights."""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftConfig, PeftModel, ShadowConfig
from peft.tuners.adalora import AdaLoraModel
from peft.tuners.lora import LoraModel
from torch import Tensor, nn

from peftlit.errors import AdapterError


def check_penalty(adapter: PeftConfig) -> None:
    """Refuse a loss that a training loop of ours cannot give.

    Args:
        adapter: The adapter's config.

    Raises:
        AdapterError: Saying which setting to change.
    """
    if isinstance(adapter, ShadowConfig) and adapter.auxiliary_loss_weight:
        raise AdapterError(
            f"adapter.auxiliary_loss_weight: got {adapter.auxiliary_loss_weight}, but peft adds this loss only to one "
            "that the model computes itself, and peftlit computes the loss; set auxiliary_loss_weight: 0"
        )


def add_penalty(model: nn.Module) -> Tensor | None:
    """Add the gradient of the method's penalty to gradients that are otherwise ready for the optimizer.

    Once for each optimizer step, whatever its micro-batches and processes: the penalty depends on weights alone.
    peft leaves it to the training loop, or adds it only to a loss that it computes itself.

    Args:
        model: The model with its adapter, or without one.

    Returns:
        The penalty, a scalar; None where the method has none.
    """
    with torch.enable_grad():
        value = _penalty(model)
    if value is None:
        return None
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    # not backward(): the hooks by which processes share gradients have done their work
    for weight, gradient in zip(weights, torch.autograd.grad(value, weights, allow_unused=True), strict=True):
        if gradient is not None:
            weight.grad = gradient if weight.grad is None else weight.grad + gradient
    return value.detach()


def _penalty(model: nn.Module) -> Tensor | None:
    if not isinstance(model, PeftModel):
        return None
    tuner: Any = model.base_model
    if isinstance(tuner, AdaLoraModel):
        return _orthogonality(tuner)
    if not isinstance(tuner, LoraModel):
        return None
    # KaSA (arXiv:2412.06071, equations 9 to 12) and MonteCLoRA; 0.0 where the adapter is neither
    terms = [term for term in (tuner._get_kasa_loss(), tuner._get_monteclora_loss()) if isinstance(term, Tensor)]
    return torch.stack(terms).sum() if terms else None


def _orthogonality(tuner: Any) -> Tensor | None:
    """AdaLoRA's, as peft weighs it: the mean distance of the singular vectors from orthonormal ones."""
    weight = tuner.peft_config[tuner.trainable_adapter_name].orth_reg_weight
    distances = []
    for name, factor in tuner.named_parameters():
        if factor.requires_grad and ("lora_A" in name or "lora_B" in name):
            products = factor @ factor.T if "lora_A" in name else factor.T @ factor
            distances.append(torch.linalg.norm(products - torch.eye(len(products), device=products.device)))
    return weight * torch.stack(distances).mean() if distances and weight else None
