"""What some methods add to the loss that belongs to no row: a penalty on the adapter's own weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from peftlit.adapters.method import AdapterMethod


def add_penalty(model: nn.Module, method: AdapterMethod) -> Tensor | None:
    """Add the gradient of the method's penalty to gradients that are otherwise ready for the optimizer.

    Args:
        model: The model that the method is attached to.
        method: The method.

    Returns:
        The penalty, a scalar; None where the method has none.
    """
    with torch.enable_grad():
        value = method.penalty(model)
    if value is None:
        return None
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    # not backward(), whose hooks would share these gradients among processes a second time
    for weight, gradient in zip(weights, torch.autograd.grad(value, weights, allow_unused=True), strict=True):
        if gradient is not None:
            weight.grad = gradient if weight.grad is None else weight.grad + gradient
    return value.detach()
