"""Trainer settings that Lightning accepts and that would break a promise: refused before a run begins."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning import LightningDataModule
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    Callback,
    LearningRateFinder,
    ModelCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.strategies import DDPStrategy, Strategy

from peftlit.cli.trainer_defaults import as_list
from peftlit.data import TokenDataModule
from peftlit.errors import ConfigError
from peftlit.plugins import AdapterCheckpointIO
from peftlit.run.folder import RunFolder

_CALLBACKS: dict[type[Callback], str] = {
    StochasticWeightAveraging: "averages a copy that it takes before the model is built, and so nothing",
    WeightAveraging: "keeps a second copy of the whole backbone, in checkpoints too, from which no run goes on",
    BackboneFinetuning: "freezes and thaws layers, and here the adapter says what trains",
    BatchSizeFinder: "would train with another batch size than the saved config says; set data.batch_size",
    LearningRateFinder: "would train with another rate than the saved config says; set the optimizer's lr",
}
"""What is wrong with a callback here."""

_SAMPLING = {
    "use_distributed_sampler": "true would share each process's rows out again; leave it out, the data shares them",
    "overfit_batches": "Lightning would take the rows in another order, and unbatched; set data.max_train_samples, or "
    "trainer.limit_train_batches",
}
"""What is wrong with a setting where the data has its own samplers."""

_COPYING_STRATEGIES = ("ddp_spawn", "ddp_fork", "ddp_notebook", "spawn", "fork")


def check_trainer(config: dict[str, Any], data: LightningDataModule | None) -> None:
    """Refuse Trainer arguments that would silently break a promise, whatever the command.

    Raises:
        ConfigError: Naming the setting, and what to do.
    """
    _check_strategy(config.get("strategy"))
    for plugin in as_list(config.get("plugins")):
        if isinstance(plugin, CheckpointIO) and not isinstance(plugin, AdapterCheckpointIO):
            raise ConfigError(
                f"trainer.plugins: no run can resume from what {type(plugin).__name__} writes; leave it out, or use "
                "AdapterCheckpointIO"
            )
    for name, why in _SAMPLING.items():
        if config.get(name) and isinstance(data, TokenDataModule):
            raise ConfigError(f"trainer.{name}: {why}")


def check_callbacks(callbacks: Iterable[Callback], folder: RunFolder) -> None:
    """Refuse callbacks that would silently break a promise while a model trains.

    Raises:
        ConfigError: Naming the callback, and what to do.
    """
    for callback in callbacks:
        for kind, why in _CALLBACKS.items():
            if isinstance(callback, kind):
                raise ConfigError(f"trainer.callbacks: {type(callback).__name__} {why}; leave it out")
        if not isinstance(callback, ModelCheckpoint) or callback.dirpath is None:
            continue
        if not Path(callback.dirpath).resolve().is_relative_to(folder.checkpoints.resolve()):
            raise ConfigError(
                f"ModelCheckpoint.dirpath: {callback.dirpath} is outside {folder.checkpoints}, where a run that "
                "resumes looks; leave it out, and place the run by --run_dir"
            )


def _check_strategy(strategy: str | Strategy | None) -> None:
    name = strategy._start_method if isinstance(strategy, DDPStrategy) else strategy
    if isinstance(name, str) and name.startswith(_COPYING_STRATEGIES):
        raise ConfigError(
            f"trainer.strategy: {name} copies a process that holds files and locks; use ddp, which starts new ones"
        )


def check_monitors(watchers: Iterable[Any], monitors: Mapping[str, str], *, validated: bool = True) -> None:
    """Refuse a callback or scheduler that monitors a value which is never logged, or in the wrong direction.

    Args:
        watchers: The Trainer's callbacks, and a scheduler; those without ``monitor`` pass.
        monitors: Every value that is logged, with ``min`` or ``max`` for better.
        validated: Whether there is a validation.

    Raises:
        ConfigError: With the nearest values, or the right mode.
    """
    for watcher in watchers:
        monitor, mode = getattr(watcher, "monitor", None), getattr(watcher, "mode", None)
        if monitor is None:
            continue
        name = type(watcher).__name__
        if monitor not in monitors:
            begun = [known for known in monitors if known.startswith(monitor)]
            near = (begun + difflib.get_close_matches(monitor, monitors, n=3, cutoff=0.5))[:3] or sorted(monitors)[:6]
            raise ConfigError(
                f"{name}.monitor: {monitor!r} is not logged; did you mean {' or '.join(dict.fromkeys(near))}?"
            )
        if monitor.startswith("val/") and not validated:
            raise ConfigError(
                f"{name}.monitor: {monitor!r} needs a validation, and there is none: the data has no validation split, "
                "or trainer.limit_val_batches is 0"
            )
        if mode in ("min", "max") and mode != monitors[monitor]:
            raise ConfigError(f"{name}.mode: {mode!r} would keep the worst {monitor}; set mode: {monitors[monitor]}")
