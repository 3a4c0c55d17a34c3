"""What the Trainer gets where the configuration does not bring its own: plugins and callbacks."""

from __future__ import annotations

import sys
from typing import Any

import torch
from lightning import Callback
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.plugins import CheckpointIO, Precision

from peftlit.backbone.hardware import current_device_type
from peftlit.errors import ConfigError
from peftlit.plugins import AdapterCheckpointIO, AdapterPrecision, LineProgress, RichProgress
from peftlit.run.folder import RunFolder


def as_list(value: Any) -> list[Any]:
    """Return a list of what may be a list, one thing, or nothing.

    Args:
        value: The value of a Trainer argument.
    """
    return list(value) if isinstance(value, list) else [] if value is None else [value]


def plugins(config: dict[str, Any]) -> list[Any]:
    """Add our precision and our checkpoint format; ``trainer.precision`` becomes the former.

    Args:
        config: The Trainer's arguments; ``precision`` is taken out.

    Raises:
        ConfigError: The precision is said twice, or asks for what the machine does not have.
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


def checkpoints(callbacks: list[Callback], folder: RunFolder) -> list[Callback]:
    """Add a checkpoint callback where there is none, and let all of them write into the run folder.

    Args:
        callbacks: The callbacks so far.
        folder: The run folder.
    """
    own = [callback for callback in callbacks if isinstance(callback, ModelCheckpoint)]
    added = [] if own else [ModelCheckpoint()]
    for callback in own + added:
        if callback.dirpath is None:
            callback.dirpath = str(folder.checkpoints)
    return [*callbacks, *added]


def progress(config: dict[str, Any], callbacks: list[Callback]) -> list[Callback]:
    """Add bars on a terminal and plain lines elsewhere, unless the configuration has its own or wants none.

    Args:
        config: The Trainer's arguments.
        callbacks: The callbacks so far.
    """
    if config.get("enable_progress_bar") is False or any(isinstance(c, ProgressBar) for c in callbacks):
        return callbacks
    return [*callbacks, RichProgress() if sys.stdout.isatty() else LineProgress()]
