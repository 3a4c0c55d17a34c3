"""The first thing a run writes: its folder, its resolved config, which rows it sees, its log."""

from __future__ import annotations

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger

from peftlit.data import TokenDataModule
from peftlit.errors import RunFolderError
from peftlit.files import write_json, write_text
from peftlit.modules.accumulation import check_nothing_inside_windows
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
        check_nothing_inside_windows(trainer)
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
