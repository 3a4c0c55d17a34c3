"""What trains in float32 within a backbone that is stored in 16 bits: heads, and modules that peft trains whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from peftlit.backbone.architecture import half_dtype, head_modules


def cast_at_trained_modules(base: PreTrainedModel) -> None:
    """Let trained float32 modules work among 16-bit ones without autocast: in evaluation, and in plain float32 runs.

    They take their input in float32. Those inside the body answer in the body's dtype, as its layers expect; heads
    answer in float32. Under autocast nothing is cast here.

    Args:
        base: The transformers model, with the adapter's layers in it.
    """
    half = half_dtype(base)
    if half is None:
        return
    heads = tuple(head_modules(base))
    for name, module in _trained_modules(base):
        module.register_forward_pre_hook(_cast_inputs)
        if name.split(".")[0] not in heads:
            module.register_forward_hook(partial(_cast_output, half))


@contextmanager
def rounded_as_reloaded(base: PreTrainedModel) -> Iterator[None]:
    """Round trained modules to the 16 bits in which transformers and peft load them again, for a while.

    Adapters' own weights stay: peft loads them in float32.

    Args:
        base: The transformers model, with the adapter's layers in it.
    """
    half = half_dtype(base)
    modules = [] if half is None else [module for _, module in _trained_modules(base)]
    kept = {parameter: parameter.data for module in modules for parameter in module.parameters(recurse=False)}
    for parameter, value in kept.items():
        parameter.data = value.to(half)
    try:
        yield
    finally:
        for parameter, value in kept.items():
            parameter.data = value


def _trained_modules(base: PreTrainedModel) -> list[tuple[str, nn.Module]]:
    """Return the modules, by name, whose own weights train and are not an adapter's."""
    adapters = tuple(f"{name}." for name, module in base.named_modules() if isinstance(module, BaseTunerLayer))
    return [
        (name, module)
        for name, module in base.named_modules()
        if any(parameter.requires_grad for parameter in module.parameters(recurse=False))
        and not isinstance(module, BaseTunerLayer)
        and not name.startswith(adapters)
    ]


def _cast_inputs(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    dtype = next(module.parameters(recurse=False)).dtype
    return tuple(_cast(value, dtype) for value in inputs)


def _cast_output(dtype: torch.dtype, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
    return _cast(output, dtype)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    return value if torch.is_autocast_enabled(value.device.type) else value.to(dtype)
