"""What can be known to be wrong with a model before its weights load."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from peftlit.adapters import FullFineTuning
from peftlit.adapters.adalora import check_allocation
from peftlit.adapters.attach import check_task, check_virtual_tokens, stand_in_rows, virtual_tokens
from peftlit.adapters.penalty import check_penalty
from peftlit.adapters.targets import check_targets
from peftlit.backbone.architecture import head_modules, is_causal, learned_positions, poolers
from peftlit.errors import AdapterError, BackboneError, ConfigError
from peftlit.files import WEIGHTS_SUFFIX

if TYPE_CHECKING:
    from peftlit.modules.base import PeftModule

NOTHING_TRAINS = "model.adapter: null would train nothing, as the pretrained head stays frozen; give one"


def check_fit(module: PeftModule) -> None:
    """Compare a module's settings with the architecture: tokens, targets, head, padding, length.

    Args:
        module: The module; nothing is loaded.

    Raises:
        PeftlitError: Saying what does not fit.
    """
    config = module.read_config()
    vocabulary = getattr(config, "vocab_size", None)
    data = module.data
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
    skeleton = module.backbone.meta_model(module.auto_class, config)
    reads_both_ways = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not is_causal(skeleton)
    if module.objective == "causal" and reads_both_ways:
        raise BackboneError(
            f"backbone: {type(skeleton).__name__} sees the whole text at once and cannot learn to continue one; "
            "use MaskedLM"
        )
    if isinstance(module.adapter, FullFineTuning):
        module.adapter.check(quantized=module.backbone.quantization is not None)
    elif module.adapter is not None:
        check_task(module.adapter, module.task_type)
        check_virtual_tokens(module.adapter, skeleton)
        check_allocation(module.adapter)
        check_penalty(module.adapter)
        untouched = head_modules(skeleton) if module.pretrained_head else []
        check_targets(module.adapter, skeleton, type(skeleton).__name__, untouched)
    elif module.pretrained_head:
        _check_that_something_trains(module, skeleton)
    if module.head is not None:
        _check_head(module, config, skeleton)
    in_rows = stand_in_rows(module.adapter)
    if in_rows and module.objective is None and module.head is None and is_causal(skeleton):
        raise AdapterError(
            f"adapter: {type(module.adapter).__name__} puts virtual tokens into the row, and {type(skeleton).__name__} "
            "then takes padding for the last token; use peft.PrefixTuningConfig, a model.head, or CausalLM with "
            "data.prompt"
        )
    is_text = module.objective == "causal" and module.problem is None  # prompts with labels are put to the left
    if data.padding_side == "left" and (is_text or module.head is not None) and in_rows:
        raise ConfigError(
            f"data.padding_side: left padding would stand between the virtual tokens of "
            f"{type(module.adapter).__name__} and the text; set it to right"
        )
    if data.padding_side == "left" and not is_causal(skeleton):
        raise ConfigError(
            f"data.padding_side: left padding would move the positions that {type(skeleton).__name__} has learned; "
            "leave padding_side out, or set it to right"
        )
    positions, virtual = learned_positions(skeleton), virtual_tokens(module.adapter)
    if data.max_length is not None and positions and data.max_length > positions - virtual:
        taken = f", of which {virtual} go to virtual tokens" * bool(virtual)
        raise ConfigError(
            f"data.max_length: got {data.max_length}, but {config.model_type} has {positions} positions{taken}; "
            f"set max_length to {positions - virtual} or less"
        )


def _check_that_something_trains(module: PeftModule, skeleton: PreTrainedModel) -> None:
    """Refuse to train nothing: a checkpoint that brings the whole head leaves nothing to do without an adapter."""
    heads = tuple(f"{name}." for name in head_modules(skeleton))
    names = {name for name, _ in skeleton.named_parameters() if name.startswith(heads)}
    location = module.backbone.location  # random weights are whole
    stored = None if location is None else _stored_names(Path(location))
    if not poolers(skeleton) and (stored is None or (stored and names <= stored)):
        raise ConfigError(NOTHING_TRAINS)


def _stored_names(folder: Path) -> set[str]:
    """Return the names of the weights in a folder; of one that cannot be read, or is elsewhere, nothing is known."""
    names: set[str] = set()
    with suppress(OSError, SafetensorError):
        for file in folder.glob(f"*{WEIGHTS_SUFFIX}"):
            with safe_open(file, "pt") as tensors:
                names |= set(tensors.keys())
    return names


def _check_head(module: PeftModule, config: PretrainedConfig, skeleton: PreTrainedModel) -> None:
    if not isinstance(getattr(config, "hidden_size", None), int):
        raise ConfigError(f"model.head: the config of {config.model_type} models does not say its hidden_size")
    if getattr(module.head, "pooling", None) == "cls" and is_causal(skeleton):
        raise ConfigError(
            f"model.head.pooling: cls takes the first token, to which {type(skeleton).__name__} shows no other; "
            "set last or mean"
        )
