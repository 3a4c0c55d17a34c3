"""Attach a method to a loaded backbone, and decide what trains."""

from __future__ import annotations

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from peftlit.adapters.half_base import cast_at_trained_modules
from peftlit.adapters.method import AdapterContext, AdapterMethod
from peftlit.backbone.architecture import linear_layers
from peftlit.backbone.quantization import answer_in_autocast_dtype
from peftlit.errors import AdapterError, first_line


def attach(model: PreTrainedModel, method: AdapterMethod, context: AdapterContext) -> PreTrainedModel | PeftModel:
    """Attach the method; afterwards its weights and the head train in float32, and nothing else does.

    Args:
        model: The frozen model with its head.
        method: What to attach.
        context: What task and backbone ask.

    Returns:
        The model itself, or the peft model around it.

    Raises:
        AdapterError: The method does not fit this model.
    """
    name, linear = "quantized " * context.quantized + type(model).__name__, ", ".join(linear_layers(model))
    method.check(model, context)
    try:
        attached = method.attach(model, context)
        _smoke_forward(attached)
    except torch.OutOfMemoryError:
        raise
    except (ValueError, TypeError, NotImplementedError, RuntimeError, KeyError, AttributeError) as error:
        way_out = "set backbone.quantization: null, or choose" if context.quantized else "choose"
        raise AdapterError(
            f"adapter: {method.name} does not work on {name}: {first_line(error)}; {way_out} "
            f"another adapter or other target_modules (its linear layers are {linear})"
        ) from error
    for weight in context.newly_initialized:
        model.get_parameter(weight).requires_grad_(True)
    answer_in_autocast_dtype(attached)
    for parameter in attached.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    cast_at_trained_modules(method.base_model(attached))
    return attached


def _smoke_forward(model: PreTrainedModel | PeftModel) -> None:
    """Run two tokens through, twice: an adapter that cannot work on these weights fails here and not in training.

    Quantized layers change at their first forward, and an adapter may not survive that: hence the second time. The last
    token is the end of a text, where encoder-decoders look for their classifier's input.
    """
    found, known = getattr(model.config, "eos_token_id", None), getattr(model.config, "vocab_size", 0)
    ends = found if isinstance(found, list) else [found]
    end = next((token for token in ends if token is not None and token < known), 0)
    model.eval()
    with torch.no_grad():
        for _ in range(2):
            model(input_ids=torch.tensor([[0, end]], device=next(model.parameters()).device))
