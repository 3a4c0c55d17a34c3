"""The first thing a run writes: its folder, its resolved config, which rows it sees, its log."""

from __future__ import annotations

import math

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from peftlit.data import TokenDataModule
from peftlit.errors import ConfigError, RunFolderError
from peftlit.files import write_json, write_text
from peftlit.run.folder import RunFolder


class RunSetup(Callback):
    """Create the run folder when the first step is about to be made: what fails earlier leaves nothing behind.

    Args:
        folder: The run folder.
        config: The resolved configuration, as YAML.
        data: Tells which rows are in which split; None for data that does not.
        resumes: Whether the folder is there already, with the run that goes on.
        log: Whether to log to ``metrics.csv``.
    """

    def __init__(
        self, folder: RunFolder, config: str, *, data: TokenDataModule | None, resumes: bool, log: bool
    ) -> None:
        self.folder = folder
        self.config = config
        self.data = data
        self.resumes = resumes
        self.writes_log = log  # not `log`: Lightning hangs the module's method of that name on every callback
        self._begun = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write config and manifest; log to ``metrics.csv`` where no other logger is configured.

        Lightning makes a logger's files before it loads the model, so this one is added only now.

        Args:
            trainer: The trainer.
            pl_module: The module.

        Raises:
            ConfigError: Validation would fall inside an accumulation window.
            RunFolderError: Another run has taken the folder since this one started.
        """
        _check_windows(trainer)
        self._begin(trainer)
        if self.writes_log and not trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by a connector
            trainer.loggers = [CSVLogger(self.folder.path, name="", version=self._log_folder())]

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write config and manifest of a run without a step too, whose model is scored untrained.

        Args:
            trainer: The trainer.
            pl_module: The module.

        Raises:
            RunFolderError: Another run has taken the folder since this one started.
        """
        if not self._begun:
            self._begin(trainer)

    def _begin(self, trainer: Trainer) -> None:
        self._begun = True
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if trainer.is_global_zero:
            if not self.resumes:
                self._take_folder()
            self.folder.lock()
            write_text(self.folder.config, self.config)
            if self.data is not None:
                write_json(self.folder.manifest, self.data.manifest())

    def _take_folder(self) -> None:
        """Make the folder, or fail: of two runs that chose the same name, one gets it."""
        self.folder.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.folder.path.mkdir()
        except FileExistsError as error:
            if self.folder.is_used:
                raise RunFolderError(
                    f"--run_dir {self.folder.path}: another run has taken it meanwhile; start again, or name a folder"
                ) from error

    def _log_folder(self) -> str:
        """Name the folder for ``metrics.csv``: the run folder, or one inside it where a run is resumed."""
        if not (self.folder.path / "metrics.csv").exists():
            return ""
        return f"resumed_{1 + len(list(self.folder.path.glob('resumed_*')))}"


def _check_windows(trainer: Trainer) -> None:
    """Refuse checkpoints inside an accumulation window: they would lack the gradients so far."""
    windows = {trainer.accumulate_grad_batches}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, GradientAccumulationScheduler):
            windows |= set(callback.scheduling.values())
    longest = max(windows)
    every, batches = trainer.val_check_batch, trainer.num_training_batches
    if longest > 1 and every is None:  # Lightning goes by the clock
        raise ConfigError(
            f"trainer.val_check_interval: a time would fall inside windows of {longest} batches "
            "(trainer.accumulate_grad_batches); give a number of batches"
        )
    across = trainer.check_val_every_n_epoch is None and every not in (None, math.inf)
    if across and batches != math.inf and any(batches % window for window in windows):
        raise ConfigError(
            f"trainer.check_val_every_n_epoch: null counts on over the ends of epochs, and windows of {longest} "
            f"batches (trainer.accumulate_grad_batches) do not fill one of {batches}; leave it out"
        )
    inside = every is not None and (across or every < batches) and any(every % window for window in windows)
    if inside:
        multiple = math.lcm(*windows)
        raise ConfigError(
            f"trainer.val_check_interval: every {every} batches falls inside a window of {longest} "
            f"(trainer.accumulate_grad_batches); use a multiple of {multiple}"
        )
    for callback in trainer.checkpoint_callbacks:
        if not isinstance(callback, ModelCheckpoint):
            continue
        if longest > 1 and callback._train_time_interval is not None:
            raise ConfigError(
                "ModelCheckpoint.train_time_interval: would save inside accumulation windows; use every_n_train_steps"
            )
        if callback.save_on_exception:
            raise ConfigError(
                "ModelCheckpoint.save_on_exception: an error leaves a step half done; leave it out (signals write a "
                "checkpoint by themselves, and --ckpt_path last goes on from the last one)"
            )
