"""The first thing a run writes: its folder, its resolved config, its log."""

from __future__ import annotations

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger

from peftlit.run.files import write_text
from peftlit.run.folder import RunFolder


class BeginRun(Callback):
    """Create the run folder when the first step is about to be made: what fails earlier leaves nothing behind.

    Args:
        folder: The run folder.
        config: The resolved configuration, as YAML.
    """

    def __init__(self, folder: RunFolder, config: str) -> None:
        self.folder = folder
        self.config = config

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the config; log to ``metrics.csv`` where no other logger is configured.

        Lightning makes a logger's files before it loads the model, so this one is added only now.

        Args:
            trainer: The trainer.
            pl_module: The module.
        """
        if trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by a connector
            return
        if trainer.is_global_zero:
            write_text(self.folder.config, self.config)
        if not trainer.loggers:
            trainer.loggers = [CSVLogger(self.folder.path, name="", version=self._log_folder())]

    def _log_folder(self) -> str:
        """Name the folder for ``metrics.csv``: the run folder, or one inside it where a run is resumed."""
        if not (self.folder.path / "metrics.csv").exists():
            return ""
        return f"resumed_{1 + len(list(self.folder.path.glob('resumed_*')))}"
