"""Whether an export's records ask for no more weights than its files hold, found out before there is memory for any."""

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
"""More than any model has; a layer takes time and memory to build even where its weights take none."""

_PACKED = 4
"""More weights than any format packs into one byte."""


def check_sizes(module: PeftModule, folder: Path) -> None:
    """Refuse records that ask for more weights than there are.

    Args:
        module: The module that the records describe; nothing is loaded.
        folder: The export.

    Raises:
        RunFolderError: Saying which part is too large.
    """
    config = module.read_config()
    _check_layers(config, module, folder)
    model = module.backbone.meta_model(module.auto_class, config)
    held = _bytes(folder) + _base_size(_count(model), module.backbone.location)
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


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob(f"*{WEIGHTS_SUFFIX}"))


def _base_size(weights: int, location: str | None) -> int:
    """Return the bytes of a base's files; of one without files here, what it asks for, if the machine could hold it."""
    if location is None:
        return min(weights, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _PACKED**2)
    if not Path(location).is_dir():
        return weights
    check_base(location, None)
    return _bytes(Path(location))
