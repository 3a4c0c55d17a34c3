"""What can be known to be wrong with a model before its weights load."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from peft import TaskType
from safetensors import SafetensorError, safe_open
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from peftlit.adapters import AdapterContext, AdapterMethod
from peftlit.backbone import Backbone
from peftlit.backbone.architecture import head_modules, is_causal, learned_positions, poolers
from peftlit.batch import DataSpec, Objective
from peftlit.errors import AdapterError, BackboneError, ConfigError
from peftlit.files import WEIGHTS_SUFFIX
from peftlit.modules.heads import Head

NOTHING_TRAINS = "model.adapter: null would train nothing, as the pretrained head stays frozen; give one"


def check_model(
    backbone: Backbone,
    method: AdapterMethod,
    auto_class: Any,
    config: PretrainedConfig,
    data: DataSpec,
    *,
    head: Head | None,
    task_type: TaskType | None,
    objective: Objective | None,
    pretrained_head: bool,
    classifies: bool,
) -> None:
    """Compare settings and data with the architecture: tokens, targets, head, padding, length. Nothing is loaded.

    Args:
        backbone: The base model.
        method: What is attached to it.
        auto_class: The transformers Auto class of the task.
        config: The model's config.
        data: What is known of the data.
        head: The head of ours, if there is one.
        task_type: peft's name of the task, None where it has none.
        objective: What is learned of texts without labels.
        pretrained_head: Whether the head is the pretrained one, which stays frozen.
        classifies: Whether rows have labels.

    Raises:
        PeftlitError: Saying what does not fit.
    """
    _check_vocabulary(data, config)
    model = backbone.meta_model(auto_class, config)
    reads_both_ways = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not is_causal(model)
    if objective == "causal" and reads_both_ways:
        raise BackboneError(
            f"backbone: {type(model).__name__} sees the whole text at once and cannot learn to continue one; "
            "use MaskedLM"
        )
    excluded_modules = head_modules(model) if pretrained_head else []
    method.check(model, AdapterContext(task_type, backbone.quantization is not None, excluded_modules))
    if pretrained_head and method.trains_new_head_only:
        _check_new_head(backbone, model)
    if head is not None:
        _check_own_head(head, config, model)
    if method.virtual_tokens_in_row and objective is None and head is None and is_causal(model):
        raise AdapterError(
            f"adapter: {method.name} puts virtual tokens into the row, and {type(model).__name__} then takes padding "
            "for the last token; use peft.PrefixTuningConfig, a model.head, or CausalLM with data.prompt"
        )
    # prompts with labels are always padded on the left, so that virtual tokens of a classifier are no problem
    reads_text = head is not None or (objective == "causal" and not classifies)
    _check_padding(data, method, model, reads_text=reads_text)
    positions, virtual = learned_positions(model), method.virtual_tokens
    if data.max_length is not None and positions and data.max_length > positions - virtual:
        taken = f", of which {virtual} go to virtual tokens" * bool(virtual)
        raise ConfigError(
            f"data.max_length: got {data.max_length}, but {config.model_type} has {positions} positions{taken}; "
            f"set max_length to {positions - virtual} or less"
        )


def _check_vocabulary(data: DataSpec, config: PretrainedConfig) -> None:
    vocabulary = getattr(config, "vocab_size", None)
    if data.pad_token_id is not None and vocabulary and data.pad_token_id >= vocabulary:
        raise ConfigError(
            f"data.tokenizer: its padding token has id {data.pad_token_id}, but the model knows {vocabulary} "
            "tokens; tokenizer and backbone do not belong together"
        )
    if data.tokenizer_size is not None and vocabulary and data.tokenizer_size > vocabulary:
        raise ConfigError(
            f"data.tokenizer: it knows {data.tokenizer_size} tokens, but the model {vocabulary}; tokenizer and "
            "backbone do not belong together"
        )


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
