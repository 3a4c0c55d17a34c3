"""How a module's model is run: what its forward takes, and its mode and precision outside of training."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any, Literal

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from peftlit.batch import Batch

_NOT_INPUTS = ("labels", "label_ids", "row")


def model_inputs(
    model: PreTrainedModel | PeftModel, batch: Batch, padding_side: Literal["left", "right"] | None
) -> dict[str, Tensor]:
    """Return what the model's forward takes; under left padding, positions count from the first token.

    Sequences that share a row are told apart by their positions, which transformers considers only without a cache.
    """
    inputs: dict[str, Any] = {name: value for name, value in batch.items() if name not in _NOT_INPUTS}
    if padding_side == "left" and "position_ids" not in inputs and _takes(model, "position_ids"):
        inputs["position_ids"] = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    if "position_ids" in batch and _takes(model, "use_cache"):
        inputs["use_cache"] = False
    return inputs


def _takes(model: PreTrainedModel | PeftModel, name: str) -> bool:
    base: nn.Module = model.get_base_model() if isinstance(model, PeftModel) else model
    return name in signature(base.forward).parameters


@torch.inference_mode()
def in_evaluation(module: nn.Module, forward: Callable[[Batch], Tensor], batch: Batch) -> Tensor:
    """Run a forward in evaluation mode without autocast, as plain transformers does.

    Args:
        module: The module, whose mode is restored; its device is where the batch is moved.
        forward: What to run on the batch.
        batch: The batch, on any device.

    Returns:
        The forward's result, in float32 on the CPU.
    """
    training = module.training
    module.eval()
    device = next(module.parameters()).device
    moved: Any = {name: value.to(device) for name, value in batch.items() if isinstance(value, Tensor)}
    with torch.autocast(device.type, enabled=False):
        result = forward(moved)
    module.train(training)
    return result.float().cpu()
