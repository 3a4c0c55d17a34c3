"""What can be known to be wrong with a model before its weights load."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from peftlit.adapters import AdapterContext, AdapterMethod
from peftlit.backbone import Backbone
from peftlit.backbone.architecture import head_modules, is_causal, learned_positions, poolers
from peftlit.batch import DataSpec
from peftlit.errors import AdapterError, BackboneError, ConfigError
from peftlit.files import WEIGHTS_SUFFIX
from peftlit.modules.heads import Head
from peftlit.modules.parts import ModelParts

NOTHING_TRAINS = "model.adapter: null would train nothing, as the pretrained head stays frozen; give one"


def check_model(parts: ModelParts, config: PretrainedConfig) -> None:
    """Compare settings and data with the architecture: tokens, targets, head, padding, length. Nothing is loaded.

    Raises:
        PeftlitError: Saying what does not fit.
    """
    backbone, method, head, data = parts.backbone, parts.method, parts.head, parts.data
    _check_vocabulary(data, config)
    model = backbone.meta_model(parts.auto_class, config)
    reads_both_ways = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not is_causal(model)
    if parts.objective == "causal" and reads_both_ways:
        raise BackboneError(
            f"backbone: {type(model).__name__} sees the whole text at once and cannot learn to continue one; "
            "use MaskedLM"
        )
    excluded_modules = head_modules(model) if parts.pretrained_head else []
    method.check(model, AdapterContext(parts.task_type, backbone.quantization is not None, excluded_modules))
    if parts.pretrained_head and method.trains_new_head_only:
        _check_new_head(backbone, model)
    if head is not None:
        _check_own_head(head, config, model)
    if method.virtual_tokens_in_row and parts.objective is None and head is None and is_causal(model):
        raise AdapterError(
            f"adapter: {method.name} puts virtual tokens into the row, and {type(model).__name__} then takes padding "
            "for the last token; use peft.PrefixTuningConfig, a model.head, or CausalLM with data.prompt"
        )
    # prompts with labels are always padded on the left, so that virtual tokens of a classifier are no problem
    reads_text = head is not None or (parts.objective == "causal" and parts.problem is None)
    _check_padding(data, method, model, reads_text=reads_text)
    positions, virtual = learned_positions(model), method.virtual_tokens
    if data.max_length is not None and positions and data.max_length > positions - virtual:
        taken = f", of which {virtual} go to virtual tokens" * bool(virtual)
        raise ConfigError(
            f"data.max_length: got {data.max_length}, but {config.model_type} has {positions} positions{taken}; "
            f"set max_length to {positions - virtual} or less"
        )


def _check_vocabulary(data: DataSpec, config: PretrainedConfig) -> None:
    vocabulary = getattr(config, "vocab_size", None) or math.inf
    if (data.pad_token_id or 0) >= vocabulary:
        unknown = f"its padding token has id {data.pad_token_id}, but the model knows {vocabulary} tokens"
    elif (data.tokenizer_size or 0) > vocabulary:
        unknown = f"it knows {data.tokenizer_size} tokens, but the model {vocabulary}"
    else:
        return
    raise ConfigError(f"data.tokenizer: {unknown}; tokenizer and backbone do not belong together")


def _check_new_head(backbone: Backbone, model: PreTrainedModel) -> None:
    """Refuse to train nothing: a checkpoint that has the whole head leaves nothing new to train."""
    heads = tuple(f"{name}." for name in head_modules(model))
    names = {name for name, _ in model.named_parameters() if name.startswith(heads)}
    location = backbone.location  # random weights are whole
    stored = None if location is None else _stored_names(Path(location))
    if not poolers(model) and (stored is None or (stored and names <= stored)):
        raise ConfigError(NOTHING_TRAINS)


def _stored_names(folder: Path) -> set[str]:
    """Return the names of the weights in a folder; none where it cannot be read, or is elsewhere."""
    names: set[str] = set()
    with suppress(OSError, SafetensorError):
        for file in folder.glob(f"*{WEIGHTS_SUFFIX}"):
            with safe_open(file, "pt") as tensors:
                names |= set(tensors.keys())
    return names


def _check_own_head(head: Head, config: PretrainedConfig, model: PreTrainedModel) -> None:
    if not isinstance(getattr(config, "hidden_size", None), int):
        raise ConfigError(f"model.head: the config of {config.model_type} models does not say its hidden_size")
    if getattr(head, "pooling", None) == "cls" and is_causal(model):
        raise ConfigError(
            f"model.head.pooling: cls takes the first token, to which {type(model).__name__} shows no other; "
            "set last or mean"
        )


def _check_padding(data: DataSpec, method: AdapterMethod, model: PreTrainedModel, *, reads_text: bool) -> None:
    if data.padding_side != "left":
        return
    if reads_text and method.virtual_tokens_in_row:
        raise ConfigError(
            f"data.padding_side: left padding would stand between the virtual tokens of {method.name} and the text; "
            "set it to right"
        )
    if not is_causal(model):
        raise ConfigError(
            f"data.padding_side: left padding would move the positions that {type(model).__name__} has learned; "
            "leave padding_side out, or set it to right"
        )
