"""Build a model: load the weights, attach the adapter, and say what trains."""

from __future__ import annotations

import logging

import torch
from lightning import LightningModule, Trainer
from peft import PeftModel
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from peftlit.adapters import AdapterContext, AdapterMethod, attach
from peftlit.backbone.architecture import head_modules, poolers
from peftlit.backbone.quantization import WEIGHT_4BIT, is_quantized
from peftlit.backbone.weights import load_weights
from peftlit.errors import BackboneError
from peftlit.modules.parts import ModelParts

log = logging.getLogger(__name__)


def trainer_of(module: LightningModule) -> Trainer | None:
    """Return the Trainer that a module is attached to, if it is."""
    try:
        return module.trainer
    except RuntimeError:  # Lightning's word for a module without one
        return None


def build_model(
    parts: ModelParts, config: PretrainedConfig, device: torch.device, *, mixed_precision: bool
) -> tuple[PreTrainedModel | PeftModel, list[str], list[str]]:
    """Load the weights and attach the adapter.

    Args:
        parts: What the model is to be.
        config: Its config.
        device: Where quantized layers are made.
        mixed_precision: Whether the Trainer computes under autocast.

    Returns:
        The model, the names of the modules that are new, and those of the single weights that a pretrained head lacked.

    Raises:
        PeftlitError: The parts do not fit.
    """
    model, heads, newly_initialized = load_weights(
        parts.backbone,
        parts.auto_class,
        config,
        mixed_precision=mixed_precision,
        full=parts.method.trains_backbone,
        pretrained_head=parts.pretrained_head,
        device=device,
    )
    quantized = parts.backbone.quantization is not None
    if quantized and not is_quantized(model):
        raise BackboneError(f"backbone.quantization: no layer of {type(model).__name__} could be quantized")
    excluded_modules = head_modules(model) if parts.pretrained_head else []
    if parts.head is not None:  # only the backbone's hidden states are used
        heads, excluded_modules = [], poolers(model)
    context = AdapterContext(parts.task_type, quantized, excluded_modules, heads, newly_initialized)
    return attach(model, parts.method, context), heads, newly_initialized


def report_parameters(module: nn.Module, method: AdapterMethod, heads: list[str], newly_initialized: list[str]) -> None:
    """Log how many parameters train, by part.

    Args:
        module: The module, built; a head of ours is its child ``head``.
        method: What is attached.
        heads: Names of the modules that are new.
        newly_initialized: Names of the single weights that are new.
    """

    def is_head(name: str) -> bool:
        own = name.startswith("head.") or any(f".{head}." in name for head in heads)
        return own or any(name.endswith(f".{weight}") for weight in newly_initialized)

    trainable, total = count_parameters(module)
    head = sum(p.numel() for name, p in module.named_parameters() if p.requires_grad and is_head(name))
    share, rest = 100 * trainable / total, trainable - head
    body = "backbone" if method.trains_backbone else "adapter"
    log.info("trainable %s of %s parameters (%.2f %%): %s %s, head %s",
             f"{trainable:,}", f"{total:,}", share, body, f"{rest:,}", f"{head:,}")  # fmt: skip


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Count trainable and all parameters, 4-bit weights as the numbers they stand for.

    A head that peft trains counts twice, once as the copy that trains and once as the frozen original: both take
    memory, and it is how peft itself counts.
    """
    trainable = total = 0
    for parameter in model.parameters():
        count = parameter.numel()
        if isinstance(parameter, WEIGHT_4BIT):
            state = parameter.quant_state
            count = int(torch.Size(state.shape).numel()) if state is not None else count * 2
        total += count
        trainable += count if parameter.requires_grad else 0
    return trainable, total
