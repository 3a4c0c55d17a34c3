"""Run a module's model outside of training: what its forward takes, and in which mode and precision."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import TYPE_CHECKING, Any, Literal

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from peftlit.backbone.architecture import half_dtype
from peftlit.batch import Batch

if TYPE_CHECKING:
    from peftlit.modules.base import PeftModule

_NOT_INPUTS = ("labels", "label_ids", "row")


def model_inputs(
    model: PreTrainedModel | PeftModel, batch: Batch, padding_side: Literal["left", "right"] | None
) -> dict[str, Tensor]:
    """Return what the model's forward takes; under left padding, positions count from the first token.

    Sequences that share a row are told apart by their positions, which transformers looks at where there is no cache.

    Args:
        model: The model.
        batch: The batch.
        padding_side: The side that batches are padded on.
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
def in_evaluation(module: PeftModule, forward: Callable[[Batch], Tensor], batch: Batch) -> Tensor:
    """Run a forward in evaluation mode; return what it gives in float32 on the CPU, and leave the mode as it was.

    There is no autocast, unless frozen weights are stored in 16 bits and have to meet a float32 head.

    Args:
        module: The module.
        forward: What to run on the batch.
        batch: The batch, anywhere.
    """
    assert module.model is not None
    training = module.training
    module.eval()
    device = next(module.model.parameters()).device
    moved: Any = {k: v.to(device) for k, v in batch.items() if isinstance(v, Tensor)}
    half = half_dtype(module.model)
    with torch.autocast(device.type, dtype=half or torch.bfloat16, enabled=half is not None):
        answer = forward(moved)
    module.train(training)
    return answer.float().cpu()
