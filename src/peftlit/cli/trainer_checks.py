"""Trainer settings that Lightning takes, and under which a run would not be what it says: refused before it begins."""

from __future__ import annotations

from collections.abc import Iterable
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

_COPYING_STRATEGIES = ("ddp_spawn", "ddp_fork", "ddp_notebook")


def check_trainer(config: dict[str, Any], data: LightningDataModule | None) -> None:
    """Refuse what would silently break a promise, whatever the command.

    Args:
        config: The Trainer's arguments.
        data: The data module; samplers are left to one that is not ours.

    Raises:
        ConfigError: Naming the setting, and what to do.
    """
    _check_strategy(config.get("strategy"))
    for plugin in as_list(config.get("plugins")):
        if isinstance(plugin, CheckpointIO) and not isinstance(plugin, AdapterCheckpointIO):
            raise ConfigError(
                f"trainer.plugins: no run goes on from what {type(plugin).__name__} writes; leave it out, or use "
                "AdapterCheckpointIO"
            )
    if isinstance(data, TokenDataModule):
        _check_sampling(config)


def check_callbacks(callbacks: Iterable[Callback], folder: RunFolder) -> None:
    """Refuse callbacks under which a training would silently break a promise.

    Args:
        callbacks: The Trainer's callbacks.
        folder: The run folder.

    Raises:
        ConfigError: Naming the callback, and what to do.
    """
    for callback in callbacks:
        _check_callback(callback, folder)


def _check_strategy(strategy: str | Strategy | None) -> None:
    start = strategy._start_method if isinstance(strategy, DDPStrategy) else None
    copies = strategy.startswith(_COPYING_STRATEGIES) if isinstance(strategy, str) else start in ("spawn", "fork")
    if copies:
        raise ConfigError(
            f"trainer.strategy: {strategy if isinstance(strategy, str) else start} copies a process that holds files "
            "and locks; use ddp, which starts new ones"
        )


def _check_sampling(config: dict[str, Any]) -> None:
    if config.get("use_distributed_sampler"):
        raise ConfigError(
            "trainer.use_distributed_sampler: true would share each process's rows out again; leave it out, the "
            "data shares rows itself"
        )
    if config.get("overfit_batches"):
        raise ConfigError(
            "trainer.overfit_batches: Lightning would take the rows in another order, and unbatched; set "
            "data.max_train_samples, or trainer.limit_train_batches"
        )


def _check_callback(callback: Callback, folder: RunFolder) -> None:
    for kind, why in _CALLBACKS.items():
        if isinstance(callback, kind):
            raise ConfigError(f"trainer.callbacks: {type(callback).__name__} {why}; leave it out")
    if not isinstance(callback, ModelCheckpoint) or callback.dirpath is None:
        return
    if not Path(callback.dirpath).resolve().is_relative_to(folder.checkpoints.resolve()):
        raise ConfigError(
            f"ModelCheckpoint.dirpath: {callback.dirpath} is outside {folder.checkpoints}, where a run that goes on "
            "looks; leave it out, and place the run by --run_dir"
        )
