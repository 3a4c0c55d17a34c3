"""LightningCLI for peftlit: links, defaults, plugins, and the life of a run."""

from __future__ import annotations

import logging
import os
import re
import shlex
import time
from collections.abc import Sequence
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
from peftlit.cli.monitors import check_monitors
from peftlit.cli.parser import Parser
from peftlit.cli.trainer_checks import check_callbacks, check_trainer
from peftlit.data import TokenDataModule
from peftlit.errors import ConfigError, RunFolderError
from peftlit.export.load import find_export
from peftlit.modules import PeftModule
from peftlit.modules.optim import monitoring_scheduler
from peftlit.plugins import FiniteGuard, Resumption, StopOnSignal, TrainabilityGuard
from peftlit.plugins.throughput import Throughput
from peftlit.run.finish import UseExport, finish_evaluation, finish_fit
from peftlit.run.folder import PREDICTIONS_FILE, RunFolder, next_run_folder
from peftlit.run.history import History
from peftlit.run.predictions import Predictions
from peftlit.run.setup import RunSetup

log = logging.getLogger(__name__)

NO_RUN_DIR = "{} needs --run_dir RUN, the folder of a finished run"
COMMANDS = ("fit", "validate", "test")
_GROUP_TITLES = {"trainer": "The Trainer", "model": "The model", "data": "The data"}
RUN_DIR_VARIABLE = "PEFTLIT_RUN_DIR"  # tells the processes that Lightning launches which folder the first one chose
_NOT_SAVED = ("run_dir", "ckpt_path", "weights_only", "config", "verbose", "return_predictions")


class PeftlitCLI(LightningCLI):
    """``fit``, ``validate`` and ``test`` around a run folder."""

    def __init__(self, arguments: Sequence[str]) -> None:
        exact = {"allow_abbrev": False}
        usage = "peftlit {} [--config FILE.yaml ...] [--KEY VALUE ...]"
        super().__init__(
            model_class=LightningModule,
            datamodule_class=LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            trainer_defaults={
                "use_distributed_sampler": False,
                "enable_model_summary": False,
                "log_every_n_steps": 10,
            },
            seed_everything_default=42,
            parser_class=Parser,
            parser_kwargs={
                **exact,
                "prog": "peftlit",
                **{command: {**exact, "usage": usage.format(command)} for command in COMMANDS},
            },
            args=list(arguments),
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return Lightning's commands but ``predict``, which answers texts and needs neither Trainer nor data."""
        return {name: skipped for name, skipped in LightningCLI.subcommands().items() if name in COMMANDS}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add ``--run_dir``.

        Args:
            parser: The parser of one command.
        """
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
        """Parse, without Lightning's remark that a list was given.

        Args:
            parser: The parser.
            args: The command line.
        """
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Leave checkpoints alone: Lightning's version unpickles the file and lays its settings over the config."""

    @property
    def _settings(self) -> Namespace:
        settings: Namespace = self.config[self.subcommand]
        return settings

    def before_instantiate_classes(self) -> None:
        """Settle the run folder and the checkpoint before anything is built."""
        settings = self._settings
        chosen = settings.pop("run_dir", None) or os.environ.get(RUN_DIR_VARIABLE)
        if chosen is None and (settings.get("trainer.num_nodes", 1) > 1 or not distributed.is_rank_zero()):
            raise RunFolderError(
                f"{self.subcommand}: several processes are started, and each would look for a folder of its own; name "
                "one: --run_dir RUN"
            )
        self.folder = RunFolder(Path(chosen) if chosen else next_run_folder(Path("runs")))
        self.folder.refuse_links()
        if self.subcommand != "fit":
            if chosen is None:
                raise RunFolderError(NO_RUN_DIR.format(self.subcommand))
            if settings.get("ckpt_path"):
                raise ConfigError(
                    f"--ckpt_path {settings['ckpt_path']}: {self.subcommand} scores RUN/adapter, not a checkpoint; "
                    "leave it out"
                )
            find_export(self.folder.path)
            return
        self.folder.require_writable()
        if settings.get("ckpt_path") is None and self._is_requeued:
            going_on = bool(self.folder.resumable_checkpoints())
            settings["ckpt_path"] = "last" if going_on else None
            how = "going on from the last checkpoint of" if going_on else "no checkpoint yet, starting again in"
            log.info("job was requeued: %s %s", how, self.folder.path)
        if settings.get("ckpt_path") == "last":
            settings["ckpt_path"] = str(self.folder.last_checkpoint())
        if not self.folder.is_used or not distributed.is_rank_zero():
            return
        self.folder.lock()
        if not settings.get("ckpt_path") and (self.folder.adapter.exists() or not self._is_requeued):
            self.folder.unlock()
            raise RunFolderError(
                f"--run_dir {self.folder.path}: already holds a run; name another folder, or continue it with "
                "--ckpt_path last"
            )

    @property
    def _is_requeued(self) -> bool:
        """Whether SLURM has started this very command again, after a run of it took the folder."""
        return int(os.environ.get("SLURM_RESTART_COUNT", 0)) > 0 and self.folder.is_used

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
            if isinstance(self.datamodule, TokenDataModule):
                self.datamodule.read()
            link_to_model(settings, self.datamodule)
            self.config_init = Namespace({self.subcommand: parser.instantiate(_without(settings, "data"))})
        except (ValueError, TypeError) as error:
            raise config_errors.root_error(error) from error
        self.model = self.config_init[self.subcommand]["model"]
        self.trainer = self.instantiate_trainer()
        for part, kind in ((self.model, PeftModule), (self.datamodule, TokenDataModule)):
            if not isinstance(part, kind):
                log.warning("%s is no %s: nothing is exported, proven or drawn", type(part).__name__, kind.__name__)
        if isinstance(self.model, PeftModule):
            watchers = [*self.trainer.callbacks, monitoring_scheduler(self.model.scheduler)]  # type: ignore[attr-defined]
            split = not isinstance(self.datamodule, TokenDataModule) or "validation" in self.datamodule.read()
            validated = split and self.trainer.limit_val_batches != 0
            check_monitors(watchers, self.model.monitors(), validated=validated or self.subcommand != "fit")
            self.model.check()
        if self.subcommand == "fit":
            self._check_resumption()

    def _check_resumption(self) -> None:
        manifest = self.datamodule.manifest() if isinstance(self.datamodule, TokenDataModule) else None
        tokens = self.datamodule.tokenizer_sha256 if isinstance(self.datamodule, TokenDataModule) else None
        self.resumption.record = describe(self._config_text, manifest, tokens, str(self.trainer.precision))
        checkpoint = self._settings.get("ckpt_path")
        if checkpoint:
            check_same_run(Path(checkpoint), self.resumption.record, self.trainer.strategy.checkpoint_io)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the Trainer with our plugins and callbacks, each unless the config brings its own.

        Args:
            **kwargs: Trainer arguments that override the config's.
        """
        config = {**self.config_init[self.subcommand].get("trainer", {}), **kwargs}
        ours = config.get("logger") in (None, True)
        check_trainer(config, self.datamodule)
        if self.subcommand == "fit" and isinstance(self.model, PeftModule):
            check_callbacks(trainer_defaults.as_list(config.get("callbacks")), self.folder)
        config["callbacks"] = self._callbacks(config, log=ours)
        config["plugins"] = trainer_defaults.plugins(config)
        if ours:
            config["logger"] = DummyLogger()  # for who asks early; RunSetup logs to the run folder once it exists
        config["default_root_dir"] = config.get("default_root_dir") or str(self.folder.path)
        try:
            return self.trainer_class(**config)
        except (MisconfigurationException, RuntimeError, ValueError) as error:
            raise ConfigError(f"trainer: {' '.join(str(error).split())}") from error

    def _callbacks(self, config: dict[str, Any], *, log: bool) -> list[Any]:
        callbacks = trainer_defaults.as_list(config.get("callbacks"))
        self.history = History()
        if self.subcommand == "fit":
            resumes = bool(self._settings.get("ckpt_path")) or self._is_requeued
            data = self.datamodule if isinstance(self.datamodule, TokenDataModule) else None
            begin = RunSetup(self.folder, self._config_text, data=data, resumes=resumes, log=log)
            own = {kind for kind in (FiniteGuard, TrainabilityGuard) if any(isinstance(c, kind) for c in callbacks)}
            guards = [kind() for kind in (FiniteGuard, TrainabilityGuard) if kind not in own]
            self.resumption = Resumption()
            callbacks = [begin, Throughput(), *callbacks, *guards, self.resumption, self.history]
            if config.get("enable_checkpointing") is not False:
                callbacks = [*trainer_defaults.checkpoints(callbacks, self.folder), self._stop_on_signal()]
        else:
            callbacks.append(UseExport(self.folder))
        if isinstance(self.model, PeftModule) and self.model.problem is not None:
            callbacks.append(Predictions(self.folder.path / PREDICTIONS_FILE, self.model.problem))
        return trainer_defaults.progress(config, callbacks)

    def _stop_on_signal(self) -> StopOnSignal:
        config, run = (shlex.quote(str(path)) for path in (self.folder.config, self.folder.path))
        way_on = f"peftlit fit --config {config} --run_dir {run} --ckpt_path last"
        return StopOnSignal(self.folder.checkpoints, way_on)

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            with distributed.ending_together(self.trainer.strategy.launcher):
                super()._run_subcommand(subcommand)
        finally:
            self.folder.unlock()

    def fit(self, **arguments: Any) -> None:
        """Train, then export, prove and score.

        Args:
            **arguments: Arguments of ``Trainer.fit``.
        """
        started = time.perf_counter()
        os.environ[RUN_DIR_VARIABLE] = str(self.folder.path)
        try:
            with error_mapping.of_the_checkpoint(self._settings.get("ckpt_path"), self.resumption):
                self._run(self.trainer.fit, arguments)
        finally:
            os.environ.pop(RUN_DIR_VARIABLE)
        if not isinstance(self.model, PeftModule) or not isinstance(self.datamodule, TokenDataModule):
            return
        if self.trainer.fast_dev_run or self.trainer.interrupted:  # type: ignore[attr-defined]
            return
        seconds = time.perf_counter() - started
        known = {"trainer": self.trainer, "module": self.model, "data": self.datamodule, "folder": self.folder}
        self._run(finish_fit, {**known, "history": self.history, "seconds": seconds})

    def validate(self, **arguments: Any) -> None:
        """Score the validation split.

        Args:
            **arguments: Arguments of ``Trainer.validate``.
        """
        self._evaluate(self.trainer.validate, arguments, "validation")

    def test(self, **arguments: Any) -> None:
        """Score the test split.

        Args:
            **arguments: Arguments of ``Trainer.test``.
        """
        self._evaluate(self.trainer.test, arguments, "test")

    def _evaluate(self, method: Any, arguments: dict[str, Any], split: str) -> None:
        arguments["verbose"] = not isinstance(self.model, PeftModule)
        self._require_split(split)
        self._run(method, arguments)
        if isinstance(self.model, PeftModule) and isinstance(self.datamodule, TokenDataModule):
            known = {"trainer": self.trainer, "module": self.model, "data": self.datamodule, "folder": self.folder}
            self._run(finish_evaluation, {**known, "split": split})

    def _require_split(self, split: str) -> None:
        if isinstance(self.datamodule, TokenDataModule) and split not in self.datamodule.read():
            raise ConfigError(
                f"{self.subcommand}: the data has no {split} split; set data.init_args.{split}_share or a file"
            )

    def _run(self, method: Any, arguments: dict[str, Any]) -> None:
        with error_mapping.in_one_line(self.model, self.datamodule, self.trainer, self.folder):
            method(**arguments)


def _without(settings: Namespace, *keys: str) -> Namespace:
    return Namespace(**{k: v for k, v in vars(settings).items() if k not in keys})
