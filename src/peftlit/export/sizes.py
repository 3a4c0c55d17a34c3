"""Refuse an export whose records ask for far more weights than its files hold, before memory is taken for them."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import torch
from torch import nn
from transformers import PretrainedConfig

from peftlit.backbone.model_source import check_base
from peftlit.errors import RunFolderError
from peftlit.files import WEIGHTS_SUFFIX
from peftlit.modules.base import PeftModule

_MOST_LAYERS = 10_000
"""More than any model has; a layer takes time and memory to build even without weights."""

_PACKED = 4
"""More weights than any format packs into one byte."""


def check_sizes(module: PeftModule, folder: Path) -> None:
    """Count the weights of the module that an export describes, on the meta device.

    Raises:
        RunFolderError: They are too many, or the layers are.
    """
    config = module.read_config()
    _check_layers(config, module, folder)
    model = module.backbone.meta_model(module.auto_class, config)
    held = _weights_bytes(folder) + _base_size(_count(model), module.backbone.location)
    asked = module.method.num_parameters(model)
    if module.head is not None:
        head = copy.deepcopy(module.head)
        with torch.device("meta"):
            head.build(config.hidden_size, module.num_outputs)
        asked += _count(head)
    if asked > _PACKED * held:
        raise RunFolderError(
            f"{folder}: its records ask for {asked:,} weights, far more than its files and its base hold; do not use it"
        )


def _check_layers(config: PretrainedConfig, module: PeftModule, folder: Path) -> None:
    numbers = {key: value for key, value in config.to_dict().items() if "layer" in key and isinstance(value, int)}
    replicated = getattr(module.adapter, "layer_replication", None) or []
    numbers["layer_replication"] = sum(end - start for start, end in replicated)
    for key, number in numbers.items():
        if number > _MOST_LAYERS:
            raise RunFolderError(f"{folder}: {key} asks for {number:,} layers, more than any model has")


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _weights_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob(f"*{WEIGHTS_SUFFIX}"))


def _base_size(weights: int, location: str | None) -> int:
    """Return the bytes of a base's files; without files here, its own count, bounded by the machine's memory."""
    if location is None:
        return min(weights, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _PACKED**2)
    if not Path(location).is_dir():
        return weights
    check_base(location, None)
    return _weights_bytes(Path(location))
