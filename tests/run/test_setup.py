"""The run folder is made at the first step, by one run only."""

from __future__ import annotations

from pathlib import Path

import pytest
from lightning import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger

from peftlit.errors import ConfigError, RunFolderError
from peftlit.run.folder import RunFolder
from peftlit.run.setup import RunSetup
from tests.modules.test_window_checks import trainer


def setup(path: Path, *, resumes: bool = False, log: bool = True) -> RunSetup:
    return RunSetup(RunFolder(path), "a: 1\n", data=None, resumes=resumes, log=log)


def test_of_two_runs_that_chose_the_same_folder_one_gets_it(tmp_path: Path) -> None:
    first, second = setup(tmp_path / "runs/001"), setup(tmp_path / "runs/001")
    first.on_train_start(trainer(), None)
    with pytest.raises(RunFolderError, match="another run has taken it"):
        second.on_train_start(trainer(), None)
    assert (tmp_path / "runs/001/config.yaml").read_text() == "a: 1\n"


def test_an_empty_folder_of_the_users_may_be_filled(tmp_path: Path) -> None:
    setup(tmp_path).on_train_start(trainer(), None)
    assert (tmp_path / "config.yaml").is_file()


def test_a_resumed_run_goes_on_in_its_folder_and_keeps_its_log(tmp_path: Path) -> None:
    setup(tmp_path / "run").on_train_start(trainer(), None)
    (tmp_path / "run/metrics.csv").write_text("step\n1\n")
    second = trainer()
    setup(tmp_path / "run", resumes=True).on_train_start(second, None)
    assert Path(second.loggers[0].log_dir) == tmp_path / "run/resumed_1"


def test_a_trial_run_and_another_rank_write_nothing(tmp_path: Path) -> None:
    for changes, log in (({"fast_dev_run": 5}, True), ({"is_global_zero": False}, False)):
        setup(tmp_path / "run", log=log).on_train_start(trainer(**changes), None)
        assert not (tmp_path / "run").exists()


def test_windows_are_checked_before_the_folder_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="falls inside a window"):
        setup(tmp_path / "run").on_train_start(trainer(val_check_batch=3, accumulate_grad_batches=2), None)
    assert not (tmp_path / "run").exists()


def fit(tmp_path: Path, *, log: bool, logger: object, steps: int) -> Trainer:
    """Train Lightning's own toy, and let Lightning do to callbacks whatever it does."""
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    ours = setup(tmp_path / "run", log=log)
    real = Trainer(max_steps=steps, limit_val_batches=0, accelerator="cpu", logger=logger, callbacks=[ours], **quiet)
    real.fit(BoringModel())
    return real


@pytest.mark.parametrize("own", [True, False])
def test_a_logger_of_the_users_is_left_alone_and_so_is_none_at_all(own: bool, tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path / "mine") if own else False
    assert fit(tmp_path, log=False, logger=logger, steps=2).loggers == ([logger] if own else [])
    assert not list((tmp_path / "run").glob("**/metrics.csv"))


def test_without_one_it_logs_into_the_folder(tmp_path: Path) -> None:
    assert Path(fit(tmp_path, log=True, logger=False, steps=2).loggers[0].log_dir) == tmp_path / "run"


def test_a_run_without_a_step_has_its_config_all_the_same(tmp_path: Path) -> None:
    fit(tmp_path, log=True, logger=False, steps=0)
    assert (tmp_path / "run/config.yaml").read_text() == "a: 1\n"
