"""Build a module's model: load the weights, attach the adapter, and say what trains."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
from lightning import LightningModule, Trainer

from peftlit.adapters import FullFineTuning, attach
from peftlit.adapters.attach import count_parameters
from peftlit.backbone.architecture import head_modules, poolers
from peftlit.backbone.quantization import is_quantized
from peftlit.backbone.weights import load_weights
from peftlit.errors import BackboneError, ConfigError
from peftlit.modules.check import NOTHING_TRAINS
from peftlit.modules.language_head import LanguageHead

if TYPE_CHECKING:
    from peftlit.modules.base import PeftModule

log = logging.getLogger(__name__)


def trainer_of(module: LightningModule) -> Trainer | None:
    """Return the Trainer that a module is attached to, if it is."""
    try:
        return module.trainer
    except RuntimeError:  # Lightning's word for a module without one
        return None


def build_model(module: PeftModule, device: torch.device) -> None:
    """Load a module's weights, attach its adapter, and make a head of our own.

    Args:
        module: The module, completed in place.
        device: Where quantized layers are made.

    Raises:
        PeftlitError: The parts do not fit, or nothing would train.
    """
    trainer = trainer_of(module)
    model, module.heads, module.fresh = load_weights(
        module.backbone,
        module.auto_class,
        module.read_config(),
        mixed_precision=trainer is not None and "mixed" in str(trainer.precision),
        full=isinstance(module.adapter, FullFineTuning),
        pretrained_head=module.pretrained_head,
        device=device,
    )
    quantized = module.backbone.quantization is not None
    if quantized and not is_quantized(model):
        raise BackboneError(f"backbone.quantization: no layer of {type(model).__name__} could be quantized")
    untouched = head_modules(model) if module.pretrained_head else []
    if module.head is not None:  # of the backbone only the hidden states are used
        module.heads, untouched = [], poolers(model)
    module.model = attach(
        model,
        module.adapter,
        heads=module.heads,
        task_type=module.task_type,
        quantized=quantized,
        untouched=untouched,
        fresh=module.fresh,
    )
    if module.head is not None:
        module.head.build(model.config.hidden_size, module.num_outputs)
    if module.pretrained_head:
        module.language_head = LanguageHead(module.model)
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise ConfigError(NOTHING_TRAINS)


def report_parameters(module: PeftModule) -> None:
    """Log what trains, by part.

    Args:
        module: The module, built.
    """
    trainable, total = count_parameters(module)
    head = sum(p.numel() for name, p in module.named_parameters() if p.requires_grad and _in_head(module, name))
    share, rest = 100 * trainable / total, trainable - head
    body = "backbone" if isinstance(module.adapter, FullFineTuning) else "adapter"
    log.info("trainable %s of %s parameters (%.2f %%): %s %s, head %s",
             f"{trainable:,}", f"{total:,}", share, body, f"{rest:,}", f"{head:,}")  # fmt: skip


def _in_head(module: PeftModule, name: str) -> bool:
    own = name.startswith("head.") or any(f".{head}." in name for head in module.heads)
    return own or any(name.endswith(f".{fresh}") for fresh in module.fresh)
