"""Load a backbone's weights: quantized as asked, all frozen, head modules in float, from safetensors only."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from transformers import PretrainedConfig, PreTrainedModel

from peftlit.backbone import Backbone
from peftlit.backbone.architecture import (
    float_modules,
    head_modules,
    new_poolers,
    random_model,
    restore_computed_buffers,
)
from peftlit.backbone.gguf import SOURCE_FILE
from peftlit.backbone.model_source import check_base
from peftlit.backbone.quantization import keep_4bit_trainable_on_cpu, keep_biases, require_float
from peftlit.backbone.quiet import quiet_transformers
from peftlit.digest import sha256_of_file
from peftlit.errors import BackboneError, first_line
from peftlit.files import read_record

log = logging.getLogger(__name__)


class Loaded(NamedTuple):
    """A loaded model, and what of it is new.

    Attributes:
        model: The model, frozen.
        heads: Names of the modules that are new and have to train: the head, and a pooler that the weights lack.
        newly_initialized: Names of the weights that the checkpoint lacks in an otherwise pretrained head.
    """

    model: PreTrainedModel
    heads: list[str]
    newly_initialized: list[str]


def load_weights(
    backbone: Backbone,
    auto_class: Any,
    config: PretrainedConfig,
    *,
    mixed_precision: bool,
    full: bool,
    device: torch.device,
    pretrained_head: bool = False,
) -> Loaded:
    """Load the weights, quantized as asked, all frozen, head modules in float and never quantized.

    Args:
        backbone: What to load, and how.
        auto_class: The transformers Auto class of the task.
        config: What :meth:`~peftlit.backbone.Backbone.read_config` returned.
        mixed_precision: Whether the Trainer computes under autocast.
        full: Whether all weights will train; they are then loaded in float32.
        pretrained_head: Whether the head is the pretrained one, and stays frozen. Where the checkpoint has none,
            its weights are newly initialized; an output matrix that is tied to the embeddings never is.
        device: Where quantized layers are made; anything else is loaded to the CPU and moved by Lightning.

    Raises:
        BackboneError: The weights cannot be loaded, or are not the ones named by ``sha256``.
    """
    meta_model = backbone.meta_model(auto_class, config)
    heads = head_modules(meta_model)
    quantization = backbone.quantization_config(float_modules(meta_model), device.type)
    arguments: dict[str, Any] = {"config": config, "quantization_config": quantization}
    if quantization is not None:
        arguments["device_map"] = {"": device}
        compute = quantization.bnb_4bit_compute_dtype if quantization.load_in_4bit else torch.float16
        log.info("quantized layers compute in %s", str(compute).removeprefix("torch."))
    if backbone.dtype != "auto":
        arguments["dtype"] = getattr(torch, backbone.dtype)
    else:
        arguments["dtype"] = "auto" if mixed_precision and not full else torch.float32
    _verify_digest(backbone)
    if backbone.location is not None:
        check_base(backbone.location, backbone.revision)
    try:
        with quiet_transformers():  # of missing weights: they are checked here, and the head is meant to be missing
            model, missing = _from_pretrained(backbone, auto_class, config, arguments)
    except (OSError, RuntimeError, SafetensorError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise BackboneError(f"backbone: cannot load {backbone.location!r}: {first_line(error)}") from error
    if backbone.trust_remote_code:
        restore_computed_buffers(model)
    model.requires_grad_(False)
    keep_4bit_trainable_on_cpu(model)
    keep_biases(model)
    poolers = new_poolers(missing, heads, backbone.location)
    if quantization is not None:
        require_float(model, heads + poolers)
    if backbone.gradient_checkpointing:
        model.config.use_cache = False
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if not pretrained_head:
        return Loaded(model, heads + poolers, [])
    return Loaded(model, poolers, [name for name, _ in model.named_parameters() if name in missing])


def _from_pretrained(
    backbone: Backbone, auto_class: Any, config: PretrainedConfig, arguments: dict[str, Any]
) -> tuple[PreTrainedModel, set[str]]:
    if backbone.location is not None:
        model, info = auto_class.from_pretrained(
            backbone.location,
            revision=backbone.revision,
            trust_remote_code=backbone.trust_remote_code,
            use_safetensors=True,  # anything else is a pickle
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # a head of another size is a new head; the rest is refused below
            **arguments,
        )
        mismatched = {entry if isinstance(entry, str) else entry[0] for entry in info["mismatched_keys"]}
        return model, {*info["missing_keys"], *mismatched}
    model = random_model(auto_class, config, backbone.trust_remote_code)
    if arguments["quantization_config"] is None:
        return (model if arguments["dtype"] == "auto" else model.to(arguments["dtype"])), set()
    if arguments["dtype"] == "auto":
        arguments["dtype"] = torch.float32
    return type(model).from_pretrained(None, state_dict=model.state_dict(), **arguments), set()


def _verify_digest(backbone: Backbone) -> None:
    if backbone.sha256 is None or backbone.location is None:
        return
    weights, source = Path(backbone.location, "model.safetensors"), Path(backbone.location, SOURCE_FILE)
    if not weights.is_file():
        raise BackboneError(f"backbone.sha256: no {weights} to check; leave sha256 out for this model")
    gguf = read_record(source, BackboneError) if source.is_file() else None
    name, digest = (gguf["file"], gguf["sha256"]) if gguf else (weights, sha256_of_file(weights))
    if digest != backbone.sha256.lower():
        raise BackboneError(f"backbone.sha256: {name} has {digest}, expected {backbone.sha256}; do not use this file")
