"""The run folder is made at the first step, by one run only."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger

from peftlit.errors import ConfigError, RunFolderError
from peftlit.run.folder import RunFolder
from peftlit.run.setup import RunSetup


def trainer(**changes: object) -> SimpleNamespace:
    return SimpleNamespace(
        **{
            "fast_dev_run": 0,
            "is_global_zero": True,
            "loggers": [],
            "callbacks": [],
            "checkpoint_callbacks": [],
            "val_check_batch": float("inf"),
            "check_val_every_n_epoch": 1,
            "accumulate_grad_batches": 1,
            "num_training_batches": 10,
            **changes,
        }
    )


def begin(path: Path, *, resumes: bool = False, log: bool = True) -> RunSetup:
    return RunSetup(RunFolder(path), "a: 1\n", data=None, resumes=resumes, log=log)


def test_of_two_runs_that_chose_the_same_folder_one_gets_it(tmp_path: Path) -> None:
    first, second = begin(tmp_path / "runs/001"), begin(tmp_path / "runs/001")
    first.on_train_start(trainer(), None)
    with pytest.raises(RunFolderError, match="another run has taken it meanwhile"):
        second.on_train_start(trainer(), None)
    assert (tmp_path / "runs/001/config.yaml").read_text() == "a: 1\n"


def test_an_empty_folder_of_the_users_may_be_filled(tmp_path: Path) -> None:
    begin(tmp_path).on_train_start(trainer(), None)
    assert (tmp_path / "config.yaml").is_file()


def test_a_resumed_run_goes_on_in_its_folder_and_keeps_its_log(tmp_path: Path) -> None:
    begin(tmp_path / "run").on_train_start(trainer(), None)
    (tmp_path / "run/metrics.csv").write_text("step\n1\n")
    second = trainer()
    begin(tmp_path / "run", resumes=True).on_train_start(second, None)
    assert Path(second.loggers[0].log_dir) == tmp_path / "run/resumed_1"


@pytest.mark.parametrize(("changes", "log"), [({"fast_dev_run": 5}, True), ({"is_global_zero": False}, False)])
def test_a_trial_run_and_another_rank_write_nothing(changes, log, tmp_path: Path) -> None:
    begin(tmp_path / "run", log=log).on_train_start(trainer(**changes), None)
    assert not (tmp_path / "run").exists()


def run(tmp_path: Path, *, log: bool, logger: object, steps: int) -> Trainer:
    """Train Lightning's own toy, and let Lightning do to callbacks whatever it does."""
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    begins = begin(tmp_path / "run", log=log)
    real = Trainer(max_steps=steps, limit_val_batches=0, accelerator="cpu", logger=logger, callbacks=[begins], **quiet)
    real.fit(BoringModel())
    return real


@pytest.mark.parametrize("own", [True, False])
def test_a_logger_of_the_users_is_left_alone_and_so_is_none_at_all(own: bool, tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path / "mine") if own else False
    assert run(tmp_path, log=False, logger=logger, steps=2).loggers == ([logger] if own else [])
    assert not list((tmp_path / "run").glob("**/metrics.csv"))


def test_without_one_it_logs_into_the_folder(tmp_path: Path) -> None:
    assert Path(run(tmp_path, log=True, logger=False, steps=2).loggers[0].log_dir) == tmp_path / "run"


def test_a_run_without_a_step_has_its_config_all_the_same(tmp_path: Path) -> None:
    run(tmp_path, log=True, logger=False, steps=0)
    assert (tmp_path / "run/config.yaml").read_text() == "a: 1\n"


@pytest.mark.parametrize(("every", "window", "good"), [(4, 2, True), (3, 2, False), (10, 4, True), (3, 3, True)])
def test_validation_inside_an_accumulation_window_is_refused(every, window, good, tmp_path: Path) -> None:
    asked = trainer(val_check_batch=every, accumulate_grad_batches=window)
    if good:
        begin(tmp_path / "run").on_train_start(asked, None)
    else:
        with pytest.raises(ConfigError, match="every 3 batches falls inside a window of 2 .*; use a multiple of 2"):
            begin(tmp_path / "run").on_train_start(asked, None)
        assert not (tmp_path / "run").exists()


ON = {"check_val_every_n_epoch": None}
"""Count batches on over the ends of epochs."""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {**ON, "num_training_batches": 7, "val_check_batch": 6},
            "windows of 2 batches .* do not fill one of 7",
        ),
        ({**ON, "num_training_batches": 8, "val_check_batch": 9}, "every 9 batches falls"),
        ({**ON, "num_training_batches": 8, "val_check_batch": 12}, None),
        ({"_val_check_time_interval": 60.0, "val_check_batch": None}, "a time would fall inside windows of 2 batches"),
    ],
)
def test_validation_that_counts_on_or_goes_by_the_clock_may_fall_inside_a_window(changes, said, tmp_path: Path) -> None:
    asked = trainer(accumulate_grad_batches=2, **changes)
    if said is None:
        begin(tmp_path / "run").on_train_start(asked, None)
        return
    with pytest.raises(ConfigError, match=said):
        begin(tmp_path / "run").on_train_start(asked, None)


def test_every_window_of_a_growing_schedule_counts(tmp_path: Path) -> None:
    growing = GradientAccumulationScheduler({0: 1, 1: 4})
    with pytest.raises(ConfigError, match="every 2 batches falls inside a window of 4"):
        begin(tmp_path / "run").on_train_start(trainer(val_check_batch=2, callbacks=[growing]), None)


@pytest.mark.parametrize(
    ("arguments", "window", "said"),
    [
        ({"train_time_interval": timedelta(minutes=5)}, 2, "train_time_interval: would save inside"),
        ({"train_time_interval": timedelta(minutes=5)}, 1, None),
        ({"save_on_exception": True}, 1, "save_on_exception: an error leaves a step half done"),
    ],
)
def test_checkpoints_inside_a_step_are_refused(arguments, window, said, tmp_path: Path) -> None:
    asked = trainer(checkpoint_callbacks=[ModelCheckpoint(**arguments)], accumulate_grad_batches=window)
    if said is None:
        begin(tmp_path / "run").on_train_start(asked, None)
        return
    with pytest.raises(ConfigError, match=said):
        begin(tmp_path / "run").on_train_start(asked, None)
