"""What a transformers model is made of: its head, its linear layers, its direction, its computed buffers."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from peftlit.backbone.quantization import LINEAR_QUANTIZED
from peftlit.errors import BackboneError

if TYPE_CHECKING:
    from collections.abc import Iterator

POOLER = "pooler"
"""Name of the layer that BERT-like models put between the last hidden state and the head."""

RANDOM_WEIGHTS_SEED = 0
"""Seed of the weights of a model made from a config, so that any process can make the same."""


def head_modules(model: PreTrainedModel) -> list[str]:
    """Name the modules of the task head: the model's own children that hold weights and are not the backbone."""
    backbone = model.base_model
    children = [] if backbone is model else model.named_children()
    return [name for name, child in children if child is not backbone and any(True for _ in child.parameters())]


def float_modules(model: PreTrainedModel) -> list[str]:
    """Name the modules that are never quantized: the head, and poolers, which may turn out to be new."""
    return [*head_modules(model), *poolers(model)]


def poolers(model: nn.Module) -> list[str]:
    """Name a model's poolers."""
    return [name for name, _ in model.named_modules() if name.rsplit(".", 1)[-1] == POOLER]


def new_poolers(missing: set[str], heads: list[str], source: str | None) -> list[str]:
    """Name the poolers, other than heads, that the weights lack; refuse weights that lack anything else.

    Args:
        missing: Names of the weights that the model has and the checkpoint has not.
        heads: Names of the head modules, which may be missing.
        source: Where the weights are from.

    Raises:
        BackboneError: Naming the first weight that is missing.
    """
    poolers = {key.split(POOLER)[0] + POOLER for key in missing if POOLER in key.split(".")}
    absent = sorted(k for k in missing if k.split(".")[0] not in heads and POOLER not in k.split("."))
    if absent:
        raise BackboneError(
            f"backbone: {source} lacks {len(absent)} weights that the model needs, or has them in another shape, "
            f"such as {absent[0]!r}: another architecture, overrides that do not fit, or a damaged download"
        )
    return sorted(poolers - set(heads))


def learned_positions(model: nn.Module) -> int | None:
    """Return how many tokens a model has positions for, None where there is no limit.

    RoBERTa-like models count from their padding index on, and have that many fewer.
    """
    positions: int | None = getattr(model.config, "max_position_embeddings", None)
    for name, module in model.named_modules():
        if name.rsplit(".", 1)[-1] == "position_embeddings" and getattr(module, "padding_idx", None) is not None:
            return None if positions is None else positions - int(module.padding_idx) - 1
    return positions


def linear_layers(model: nn.Module) -> list[str]:
    """List the last name parts of the model's linear layers, in order, each once."""
    linear = (name for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D)))
    return list(dict.fromkeys(name.rsplit(".", 1)[-1] for name in linear))


def is_causal(model: nn.Module) -> bool:
    """Tell whether a model's attention is causal, so that padding may be on either side."""
    return any(getattr(module, "is_causal", False) is True for module in model.modules())


def half_dtype(model: nn.Module) -> torch.dtype | None:
    """Return the 16-bit dtype of any weights outside quantized layers, None where there are none."""
    plain = (m for m in model.modules() if not isinstance(m, LINEAR_QUANTIZED))
    dtypes = {p.dtype for module in plain for p in module.parameters(recurse=False)}
    return next((dtype for dtype in (torch.bfloat16, torch.float16) if dtype in dtypes), None)


def random_model(auto_class: Any, config: PretrainedConfig, trust_remote_code: bool = False) -> PreTrainedModel:
    """Build a model with random weights that depend on the config alone."""
    extra = {"trust_remote_code": trust_remote_code} if hasattr(config, "auto_map") else {}
    # on the CPU and from its generator, even if Lightning has made another device the default
    with _fixed_seed(), torch.device("cpu"):
        model: PreTrainedModel = auto_class.from_config(copy.deepcopy(config), **extra)
    return model


@contextmanager
def _fixed_seed() -> Iterator[None]:
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(RANDOM_WEIGHTS_SEED)
        yield


def restore_computed_buffers(model: PreTrainedModel) -> None:
    """Compute the buffers that no checkpoint holds again, as the model's constructor does.

    transformers builds a model on the meta device and fills it from the checkpoint. Its own classes compute the
    other buffers again; code that comes with a model may leave them uninitialized.
    """
    with _fixed_seed(), torch.device("cpu"), init_empty_weights(include_buffers=False):
        built = type(model)(copy.deepcopy(model.config))
    computed = dict(built.named_buffers(remove_duplicate=False))
    stored = model.state_dict().keys()
    for name, current in list(model.named_buffers(remove_duplicate=False)):
        if name not in stored and computed[name].device.type != "meta":
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, computed[name].to(current.device, current.dtype))
