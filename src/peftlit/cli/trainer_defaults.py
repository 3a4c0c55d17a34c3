"""What the Trainer gets unless the configuration brings its own: settings, plugins and callbacks."""

from __future__ import annotations

import sys
from typing import Any

import torch
from lightning import Callback
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.plugins import CheckpointIO, Precision

from peftlit.backbone.hardware import current_device_type
from peftlit.errors import ConfigError
from peftlit.plugins import (
    AdapterCheckpointIO,
    AdapterPrecision,
    FiniteGuard,
    LineProgress,
    RichProgress,
    TrainabilityGuard,
)
from peftlit.run.folder import RunFolder

SETTINGS = {"use_distributed_sampler": False, "enable_model_summary": False, "log_every_n_steps": 10}


def as_list(value: Any) -> list[Any]:
    """Return a list of what may be a list, one thing, or nothing."""
    return list(value) if isinstance(value, list) else [] if value is None else [value]


def plugins(config: dict[str, Any]) -> list[Any]:
    """Add our precision, which takes ``precision`` out of the Trainer's arguments, and our checkpoint format.

    Raises:
        ConfigError: The precision is given twice, or asks for what the machine does not have.
    """
    given, asked = as_list(config.get("plugins")), config.pop("precision", None)
    if any(isinstance(plugin, Precision) for plugin in given):
        if asked is not None:
            raise ConfigError(f"trainer.precision: {asked!r} beside a precision plugin says it twice; keep one")
    else:
        accelerator = str(config.get("accelerator", "auto"))
        device = {"auto": current_device_type(), "gpu": "cuda"}.get(accelerator, accelerator)
        if device == "cuda" and not torch.cuda.is_available():
            raise ConfigError(f"trainer.accelerator: {accelerator} asked for, but torch sees no CUDA device here")
        given.append(AdapterPrecision("auto" if asked is None else asked, device))
    if not any(isinstance(plugin, CheckpointIO) for plugin in given):
        given.append(AdapterCheckpointIO())
    return given


def missing_guards(callbacks: list[Callback]) -> list[Callback]:
    """Return the guards of which the callbacks have none."""
    guards = (FiniteGuard, TrainabilityGuard)
    return [guard() for guard in guards if not any(isinstance(callback, guard) for callback in callbacks)]


def with_checkpoints(callbacks: list[Callback], folder: RunFolder) -> list[Callback]:
    """Add a ModelCheckpoint where there is none, and let all of them write into the run folder."""
    found = [callback for callback in callbacks if isinstance(callback, ModelCheckpoint)]
    added = [] if found else [ModelCheckpoint()]
    for callback in found + added:
        callback.dirpath = callback.dirpath or str(folder.checkpoints)
    return [*callbacks, *added]


def with_progress(callbacks: list[Callback], config: dict[str, Any]) -> list[Callback]:
    """Add bars on a terminal and plain lines elsewhere, unless the configuration has its own or wants none."""
    if config.get("enable_progress_bar") is False or any(isinstance(c, ProgressBar) for c in callbacks):
        return callbacks
    return [*callbacks, RichProgress() if sys.stdout.isatty() else LineProgress()]
