"""The first thing a run writes: its folder and its resolved config."""

from __future__ import annotations

from lightning import Callback, LightningModule, Trainer

from peftlit.run.files import write_text
from peftlit.run.folder import RunFolder


class BeginRun(Callback):
    """Create the run folder when training starts, not before: what fails earlier leaves nothing behind.

    Args:
        folder: The run folder.
        config: The resolved configuration, as YAML.
    """

    def __init__(self, folder: RunFolder, config: str) -> None:
        self.folder = folder
        self.config = config

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the config.

        Args:
            trainer: The trainer.
            pl_module: The module.
        """
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by a connector
            write_text(self.folder.config, self.config)
