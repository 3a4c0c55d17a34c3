"""LightningCLI for peftlit: links, defaults, plugins, and the life of a run."""

from __future__ import annotations

import logging
import os
import re
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers.logger import DummyLogger

from peftlit import distributed
from peftlit.checkpoint.compatibility import check_same_run, describe
from peftlit.cli import config_errors, error_mapping, trainer_defaults
from peftlit.cli.links import link_to_data, link_to_model
from peftlit.cli.parser import Parser
from peftlit.cli.run_selection import RUN_DIR_VARIABLE, is_requeued, select_run
from peftlit.cli.trainer_checks import check_callbacks, check_monitors, check_trainer
from peftlit.data import TokenDataModule
from peftlit.errors import ConfigError, in_one_line
from peftlit.modules import PeftModule
from peftlit.modules.optim import monitoring_scheduler
from peftlit.plugins import Resumption, StopOnSignal
from peftlit.plugins.throughput import Throughput
from peftlit.run.evaluation import UseExport, finish_evaluation
from peftlit.run.finish import finish_fit
from peftlit.run.history import History
from peftlit.run.predictions import Predictions
from peftlit.run.setup import RunSetup

log = logging.getLogger(__name__)

COMMANDS = ("fit", "validate", "test")
_GROUP_TITLES = {"trainer": "The Trainer", "model": "The model", "data": "The data"}
_NOT_SAVED = ("run_dir", "ckpt_path", "weights_only", "config", "verbose", "return_predictions")


class PeftlitCLI(LightningCLI):
    """``fit``, ``validate`` and ``test`` around a run folder."""

    def __init__(self, arguments: Sequence[str]) -> None:
        exact = {"allow_abbrev": False}
        usage = "peftlit {} [--config FILE.yaml ...] [--KEY VALUE ...]"
        commands = {command: {**exact, "usage": usage.format(command)} for command in COMMANDS}
        super().__init__(
            model_class=LightningModule,
            datamodule_class=LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            trainer_defaults=trainer_defaults.SETTINGS,
            seed_everything_default=42,
            parser_class=Parser,
            parser_kwargs={**exact, "prog": "peftlit", **commands},
            args=list(arguments),
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return Lightning's commands but ``predict``, which needs neither Trainer nor data."""
        return {name: skipped for name, skipped in LightningCLI.subcommands().items() if name in COMMANDS}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add ``--run_dir``."""
        parser.add_argument(
            "--run_dir",
            type=str | None,
            default=None,
            help="Folder of the run. fit: a new one (default: the next number under runs/). Others: a finished one.",
        )
        groups = parser.groups or {}
        for key in groups.keys() & _GROUP_TITLES.keys():
            groups[key].title = _GROUP_TITLES[key]

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, without Lightning's warning that a list was given."""
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Leave checkpoints alone: Lightning's version unpickles the file and lays its settings over the config."""

    @property
    def _settings(self) -> Namespace:
        settings: Namespace = self.config[self.subcommand]
        return settings

    @property
    def _module(self) -> PeftModule | None:
        """The model if it is one of peftlit's tasks, and not any LightningModule."""
        return self.model if isinstance(self.model, PeftModule) else None

    @property
    def _data(self) -> TokenDataModule | None:
        """The data module if it is one of peftlit's, and not any LightningDataModule."""
        return self.datamodule if isinstance(self.datamodule, TokenDataModule) else None

    def before_instantiate_classes(self) -> None:
        """Choose the run folder and the checkpoint before anything is built."""
        self.folder = select_run(str(self.subcommand), self._settings)

    def instantiate_classes(self) -> None:
        """Build data, check it, link it to the model, check the model, then build the Trainer. No weights yet."""
        parser, settings = self._parser(self.subcommand), self._settings
        try:
            # before the links: what follows from other settings is not saved, so that it can follow again
            self._config_text = parser.dump(_without(settings, *_NOT_SAVED), skip_unset=False)
            for lost in re.findall(r"\w+: Unable to serialize instance .*", self._config_text):
                log.warning("config.yaml: it cannot hold a setting, and will not start this run again (%s)", lost)
            link_to_data(settings)
            self.datamodule = parser.instantiate(Namespace(data=settings["data"]))["data"]
            if self._data is not None:
                self._data.read()
            link_to_model(settings, self.datamodule)
            self.config_init = Namespace({self.subcommand: parser.instantiate(_without(settings, "data"))})
        except (ValueError, TypeError) as error:
            raise config_errors.root_error(error) from error
        self.model = self.config_init[self.subcommand]["model"]
        self.trainer = self.instantiate_trainer()
        for part, kind in ((self.model, PeftModule), (self.datamodule, TokenDataModule)):
            if not isinstance(part, kind):
                log.warning("%s is no %s: no export, reload check or plots", type(part).__name__, kind.__name__)
        if self._module is not None:
            watchers = [*self.trainer.callbacks, monitoring_scheduler(self._module.scheduler)]  # type: ignore[attr-defined]
            split = self._data is None or "validation" in self._data.read()
            validated = split and self.trainer.limit_val_batches != 0
            check_monitors(watchers, self._module.monitors(), validated=validated or self.subcommand != "fit")
            self._module.check()
        if self.subcommand == "fit":
            self.resumption.record = describe(self._config_text, self._data, str(self.trainer.precision))
            if checkpoint := self._settings.get("ckpt_path"):
                check_same_run(Path(checkpoint), self.resumption.record, self.trainer.strategy.checkpoint_io)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the Trainer with our plugins and callbacks, each unless the config brings its own."""
        config = {**self.config_init[self.subcommand].get("trainer", {}), **kwargs}
        logs = config.get("logger") in (None, True)
        check_trainer(config, self.datamodule)
        callbacks = trainer_defaults.as_list(config.get("callbacks"))
        if self.subcommand == "fit":
            if self._module is not None:
                check_callbacks(callbacks, self.folder)
            callbacks = self._fit_callbacks(callbacks, config, logs)
        else:
            callbacks = [*callbacks, UseExport(self.folder)]
        if self._module is not None and self._module.problem is not None:
            callbacks.append(Predictions(self.folder.predictions, self._module.problem))
        config["callbacks"] = trainer_defaults.with_progress(callbacks, config)
        config["plugins"] = trainer_defaults.plugins(config)
        if logs:
            config["logger"] = DummyLogger()  # RunSetup logs to the run folder once it exists
        config["default_root_dir"] = config.get("default_root_dir") or str(self.folder.path)
        try:
            return self.trainer_class(**config)
        except (MisconfigurationException, RuntimeError, ValueError) as error:
            raise ConfigError(f"trainer: {in_one_line(error)}") from error

    def _fit_callbacks(self, given: list[Any], config: dict[str, Any], logs: bool) -> list[Any]:
        resumes = bool(self._settings.get("ckpt_path")) or is_requeued(self.folder)
        setup = RunSetup(self.folder, self._config_text, data=self._data, resumes=resumes, log=logs)
        self.history, self.resumption = History(), Resumption()
        guards = trainer_defaults.missing_guards(given)
        # the clock starts when the guards have looked at the weights
        callbacks = [setup, *given, *guards, Throughput(), self.resumption, self.history]
        if config.get("enable_checkpointing") is False:
            return callbacks
        config_file, run = (shlex.quote(str(path)) for path in (self.folder.config, self.folder.path))
        command = f"peftlit fit --config {config_file} --run_dir {run} --ckpt_path last"
        stop = StopOnSignal(self.folder.checkpoints, command)
        return [*trainer_defaults.with_checkpoints(callbacks, self.folder), stop]

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            with distributed.fail_together(self.trainer.strategy.launcher):
                super()._run_subcommand(subcommand)
        finally:
            self.folder.unlock()

    def fit(self, **arguments: Any) -> None:
        """Train, export, score and check that the export reloads."""
        started = time.perf_counter()
        os.environ[RUN_DIR_VARIABLE] = str(self.folder.path)
        try:
            with error_mapping.map_checkpoint_errors(self._settings.get("ckpt_path"), self.resumption):
                self._call(self.trainer.fit, arguments)
        finally:
            os.environ.pop(RUN_DIR_VARIABLE)
        if not self.trainer.fast_dev_run and not self.trainer.interrupted:  # type: ignore[attr-defined]
            self._finish(finish_fit, history=self.history, seconds=time.perf_counter() - started)

    def validate(self, **arguments: Any) -> None:
        """Score the validation split."""
        self._evaluate(self.trainer.validate, arguments, "validation")

    def test(self, **arguments: Any) -> None:
        """Score the test split."""
        self._evaluate(self.trainer.test, arguments, "test")

    def _evaluate(self, method: Callable[..., Any], arguments: dict[str, Any], split: str) -> None:
        if self._data is not None and split not in self._data.read():
            raise ConfigError(
                f"{self.subcommand}: the data has no {split} split; set data.init_args.{split}_share or a file"
            )
        self._call(method, {**arguments, "verbose": self._module is None})
        self._finish(finish_evaluation, split=split)

    def _finish(self, method: Callable[..., None], **arguments: Any) -> None:
        if self._module is not None and self._data is not None:
            known = {"trainer": self.trainer, "module": self._module, "data": self._data, "folder": self.folder}
            self._call(method, {**known, **arguments})

    def _call(self, method: Callable[..., Any], arguments: dict[str, Any]) -> None:
        with error_mapping.map_errors(self.model, self.datamodule, self.trainer, self.folder):
            method(**arguments)


def _without(settings: Namespace, *keys: str) -> Namespace:
    return Namespace(**{k: v for k, v in vars(settings).items() if k not in keys})
