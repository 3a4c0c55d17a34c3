"""Attach an adapter to a loaded backbone, and decide what trains."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from inspect import signature

import torch
from peft import PeftConfig, PeftModel, PeftType, PromptLearningConfig, TaskType, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

from peftlit.adapters.adalora import freeze_rank_numbers
from peftlit.adapters.full_fine_tuning import FullFineTuning
from peftlit.adapters.targets import check_targets, is_target
from peftlit.backbone.architecture import linear_layers
from peftlit.backbone.quantization import WEIGHT_4BIT, WEIGHT_INT8, answer_in_autocast_dtype
from peftlit.errors import AdapterError

Adapter = PeftConfig | FullFineTuning | None

_PAST: tuple[object, ...] = (PeftType.PREFIX_TUNING, PeftType.CARTRIDGE)
"""Adapters of peft whose virtual tokens are keys and values."""


def attach(
    model: PreTrainedModel,
    adapter: Adapter,
    *,
    heads: list[str],
    task_type: TaskType | None,
    quantized: bool,
    untouched: Sequence[str] = (),
    fresh: Sequence[str] = (),
) -> PreTrainedModel | PeftModel:
    """Attach the adapter; afterwards adapter and head train in float32, and nothing else does.

    Args:
        model: The frozen backbone with its head.
        adapter: A peft config, :class:`FullFineTuning`, or None to train the head alone.
        heads: Names of the modules that are new and have to train.
        task_type: peft's name of the task, None where it has none.
        quantized: Whether the backbone is quantized.
        untouched: Names of modules that are not adapted: a pretrained head, or what the task does not use.
        fresh: Names of single weights that are new and have to train.

    Returns:
        The model itself, or the peft model around it.

    Raises:
        AdapterError: The adapter does not fit this model.
    """
    attached: PreTrainedModel | PeftModel = model
    if isinstance(adapter, FullFineTuning):
        adapter.check(quantized=quantized)
        model.requires_grad_(True)
    elif adapter is None:
        for name in heads:
            model.get_submodule(name).requires_grad_(True)
        _answer_twice(model)
    else:
        attached = _attach_peft(model, adapter, heads, task_type, quantized, untouched)
    for name in fresh:
        model.get_parameter(name).requires_grad_(True)
    answer_in_autocast_dtype(attached)
    for parameter in attached.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return attached


def check_task(adapter: PeftConfig, task_type: TaskType | None) -> None:
    """Refuse an adapter that was made for another task, or that peft has for no task of this kind.

    Args:
        adapter: Any peft config.
        task_type: peft's name of the task, None where it has none.

    Raises:
        AdapterError: Saying what does not belong together.
    """
    if adapter.task_type not in (None, task_type):
        raise AdapterError(
            f"adapter.task_type: {adapter.task_type} does not belong to this task; leave it out"
            + (f" or set {task_type.value}" if task_type else "")
        )
    if adapter.is_prompt_learning and task_type is None:
        raise AdapterError(
            f"adapter: peft has no {type(adapter).__name__} for masked language models; choose one that adapts layers"
        )


def virtual_tokens(adapter: Adapter) -> int:
    """Return how many positions an adapter takes before every text.

    Args:
        adapter: The adapter.
    """
    return int(adapter.num_virtual_tokens) if isinstance(adapter, PromptLearningConfig) else 0


def stand_in_rows(adapter: Adapter) -> bool:
    """Tell whether virtual tokens stand in the row itself, where padding on the left would part them from the text.

    Those of prefix tuning are keys and values, as if the model had read them before.

    Args:
        adapter: The adapter.
    """
    return isinstance(adapter, PromptLearningConfig) and adapter.peft_type not in _PAST


def check_virtual_tokens(adapter: PeftConfig, model: PreTrainedModel) -> None:
    """Refuse virtual tokens that the model's forward has no argument for: peft would fail, or they would be dropped.

    Args:
        adapter: Any peft config; one without virtual tokens passes.
        model: The model, on the meta device or loaded.

    Raises:
        AdapterError: The body takes neither embeddings nor keys and values, whichever the adapter needs.
    """
    needed = "inputs_embeds" if stand_in_rows(adapter) else "past_key_values"
    if isinstance(adapter, PromptLearningConfig) and needed not in signature(model.base_model.forward).parameters:
        raise AdapterError(
            f"adapter: {type(adapter).__name__} needs a model that takes {needed}, and "
            f"{type(model.base_model).__name__} does not; choose another adapter, such as peft.LoraConfig"
        )


def _attach_peft(
    model: PreTrainedModel,
    adapter: PeftConfig,
    heads: list[str],
    task_type: TaskType | None,
    quantized: bool,
    untouched: Sequence[str],
) -> PeftModel:
    name = type(model).__name__
    check_targets(adapter, model, name, untouched)
    linear = ", ".join(linear_layers(model))
    if getattr(adapter, "use_dora", False) and _has_int8_on_cpu(model):
        raise AdapterError(
            "adapter.use_dora: peft's DoRA loses the scales of int8 weights on a CPU; set use_dora: false, or "
            "backbone.quantization: nf4-double"
        )
    check_task(adapter, task_type)
    config = copy.deepcopy(adapter)
    config.task_type = task_type
    if hasattr(config, "modules_to_save"):
        saved = dict.fromkeys([*(config.modules_to_save or []), *(head.rsplit(".", 1)[-1] for head in heads)])
        config.modules_to_save = list(saved) or None
    if untouched and not isinstance(getattr(config, "exclude_modules", ""), str):
        parts = (
            f"{part}.{name}".rstrip(".") for part in untouched for name, _ in model.get_submodule(part).named_modules()
        )
        excluded = {name for name in parts if is_target(name, config)}
        config.exclude_modules = sorted({*(config.exclude_modules or []), *excluded}) or None  # type: ignore[attr-defined]
    try:
        wrapped = get_peft_model(model, config)
        freeze_rank_numbers(wrapped)
        _answer_twice(wrapped)
    except torch.OutOfMemoryError:
        raise
    except (ValueError, TypeError, NotImplementedError, RuntimeError, KeyError, AttributeError) as error:
        said = (str(error).splitlines() or [""])[0] or type(error).__name__
        way_out = "set backbone.quantization: null, or choose" if quantized else "choose"
        raise AdapterError(
            f"adapter: {type(config).__name__} does not work on {'quantized ' * quantized}{name}: {said}; {way_out} "
            f"another adapter or other target_modules (its linear layers are {linear})"
        ) from error
    _assert_heads_train(wrapped, heads)
    for name in untouched:
        _assert_not_adapted(wrapped, name)
    return wrapped


def _has_int8_on_cpu(model: nn.Module) -> bool:
    return any(isinstance(p, WEIGHT_INT8) and p.device.type == "cpu" for p in model.parameters())


def _answer_twice(model: PreTrainedModel | PeftModel) -> None:
    """Run two tokens through, twice: an adapter that cannot work on these weights fails here and not in training.

    Quantized layers change when they first run (scales move), and an adapter may not survive that: hence the second
    time.
    """
    model.eval()
    with torch.no_grad():
        for _ in range(2):
            model(input_ids=torch.zeros(1, 2, dtype=torch.int64, device=next(model.parameters()).device))


def _assert_heads_train(model: PeftModel, heads: list[str]) -> None:
    """Hold peft to the promise: heads in float, trainable, saved, and not adapted."""
    base = model.get_base_model()
    for name in heads:
        _assert_not_adapted(model, name)
        head = base.get_submodule(name)
        if not any(p.requires_grad for p in head.parameters()):
            raise AdapterError(f"adapter: {type(model.active_peft_config).__name__} leaves the head {name!r} frozen")


def _assert_not_adapted(model: PeftModel, name: str) -> None:
    adapted = [
        n for n, m in model.get_base_model().get_submodule(name).named_modules() if isinstance(m, BaseTunerLayer)
    ]
    if adapted:
        where = f"{name}.{adapted[0]}".rstrip(".")
        raise AdapterError(f"adapter: it would adapt the head ({where}); name other target_modules")


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Count trainable and all parameters, 4-bit weights as the numbers they stand for.

    A head that peft trains counts twice, once as the copy that trains and once as the frozen
    original: both take memory, and it is how peft itself counts.

    Args:
        model: Any model, with or without an adapter.
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
