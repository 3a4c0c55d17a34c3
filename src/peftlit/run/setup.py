"""The start of a run: its folder, its resolved config, its split manifest and its log."""

from __future__ import annotations

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger

from peftlit.data import TokenDataModule
from peftlit.errors import RunFolderError
from peftlit.files import write_json, write_text
from peftlit.modules.accumulation import check_nothing_inside_windows
from peftlit.run.folder import RunFolder


class RunSetup(Callback):
    """Create the run folder right before the first step: what fails earlier leaves nothing behind.

    Args:
        folder: The run folder.
        config: The resolved configuration, as YAML.
        data: Gives the split manifest; None for data that has none.
        resumes: Whether the run resumes in an existing folder.
        log: Whether to log to ``metrics.csv``.
    """

    def __init__(
        self, folder: RunFolder, config: str, *, data: TokenDataModule | None, resumes: bool, log: bool
    ) -> None:
        self.folder = folder
        self.config = config
        self.data = data
        self.resumes = resumes
        self.writes_log = log  # not `log`: Lightning sets the module's method of that name on every callback
        self._begun = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set up the folder and add the logger: Lightning makes a logger's files before it loads the model."""
        check_nothing_inside_windows(trainer)
        self._begin(trainer)
        if self.writes_log and not trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by a connector
            trainer.loggers = [CSVLogger(self.folder.path, name="", version=self._log_folder())]

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set up the folder of a run without a step, whose model is scored untrained."""
        if not self._begun:
            self._begin(trainer)

    def _begin(self, trainer: Trainer) -> None:
        self._begun = True
        if trainer.fast_dev_run or not trainer.is_global_zero:  # type: ignore[attr-defined]
            return
        if not self.resumes:
            self._take_folder()
        self.folder.lock()
        write_text(self.folder.config, self.config)
        if self.data is not None:
            write_json(self.folder.manifest, self.data.manifest())

    def _take_folder(self) -> None:
        """Make the folder, or fail: of two runs that chose the same name, one gets it."""
        try:
            self.folder.path.mkdir(parents=True)
        except FileExistsError as error:
            if self.folder.is_used:
                raise RunFolderError(
                    f"--run_dir {self.folder.path}: another run has taken it; start again, or name another folder"
                ) from error

    def _log_folder(self) -> str:
        """Name the folder for ``metrics.csv``: the run folder, or one inside it where a run is resumed."""
        if not (self.folder.path / "metrics.csv").exists():
            return ""
        return f"resumed_{1 + len(list(self.folder.path.glob('resumed_*')))}"
