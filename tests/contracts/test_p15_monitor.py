"""P15: a monitor or mode that the head will not log fails at start, with near matches."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from peftlit.cli import lightning_cli as cli
from peftlit.cli.trainer_checks import check_monitors
from peftlit.errors import ConfigError
from peftlit.modules import build
from tests.modules.cases import RED, Case, command_line, fit, make_module

CASE = Case("bert", "none")


@pytest.fixture
def run(bert, toy_data, tmp_path):
    """Return a function that makes one step with these arguments of the command line."""
    return partial(command_line, CASE, bert, toy_data, tmp_path / "run", steps=1)


def contract_monitor(run: Callable[..., Any], arguments: list[str], words: str) -> None:
    """The command line refuses with these words, before weights load, and leaves no run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "load_weights", lambda *_, **__: pytest.fail("weights were loaded"))
        with pytest.raises(ConfigError, match=words):
            run(*arguments)
    assert not run.args[-1].exists(), "left something behind"


def watch(callback: str, monitor: str, mode: str | None = None) -> list[str]:
    arguments = [f"--trainer.callbacks+={callback}", f"--trainer.callbacks.monitor={monitor}"]
    return arguments + [f"--trainer.callbacks.mode={mode}"] * bool(mode)


WRONG = [
    (watch("EarlyStopping", "val_loss"), r"EarlyStopping.monitor: 'val_loss' is not logged; did you mean val/loss"),
    (
        watch("ModelCheckpoint", "val/acc", "max"),
        r"ModelCheckpoint.monitor: 'val/acc' is not logged; did you mean .*val/accuracy",
    ),
    (watch("ModelCheckpoint", "val/f1_good", "max"), r"did you mean .*val/f1_0"),
    (watch("EarlyStopping", "test/loss"), r"'test/loss' is not logged; did you mean"),
    (watch("EarlyStopping", "perplexity"), r"'perplexity' is not logged; did you mean"),
    (watch("ModelCheckpoint", "val/f1"), r"ModelCheckpoint.mode: 'min' would keep the worst val/f1; set mode: max"),
    (watch("EarlyStopping", "val/loss", "max"), r"EarlyStopping.mode: 'max'.*set mode: min"),
    (watch("EarlyStopping", "val/calibration_error", "max"), r"set mode: min"),
]


@pytest.mark.parametrize(("arguments", "words"), WRONG, ids=lambda value: None if isinstance(value, str) else value[1])
def test_p15_what_will_not_be_logged_fails_at_start(arguments, words, run):
    contract_monitor(run, arguments, words)


def test_p15_what_will_be_logged_passes(run):
    early = [watch("EarlyStopping", "val/loss"), watch("EarlyStopping", "train/loss", "min")]
    kept = [watch("ModelCheckpoint", "val/f1_weighted", "max"), watch("ModelCheckpoint", "val/recall_1", "max")]
    run(*(argument for arguments in (*early, *kept) for argument in arguments), "--data.label_names=['0','1']")


@pytest.mark.parametrize(
    ("monitor", "mode", "words"),
    [("val/acc", "max", "did you mean val/accuracy"), ("val/accuracy", "min", "set mode: max")],
)
def test_p15_a_schedule_that_monitors_is_held_to_it_too(monitor, mode, words, run):
    scheduler = ["--model.scheduler=lightning.pytorch.cli.ReduceLROnPlateau", f"--model.scheduler.monitor={monitor}",
                 f"--model.scheduler.mode={mode}"]  # fmt: skip
    with pytest.raises(ConfigError, match=words):
        run(*scheduler)


def test_p15_without_a_validation_split_its_values_cannot_be_monitored(run):
    no_validation = ["--data.validation_file=null", "--data.validation_share=0"]
    contract_monitor(run, [*watch("EarlyStopping", "val/loss"), *no_validation], "val/loss.*validation")


def test_p15_what_is_promised_is_logged_and_what_is_logged_is_promised(bert):
    module = make_module(CASE, bert)
    assert set(fit(module, bert, 2).callback_metrics) == set(module.monitors())


def test_p15_callbacks_without_a_monitor_pass():
    check_monitors([ModelCheckpoint(), object()], {"val/loss": "min"})  # type: ignore[list-item]


def test_p15_the_nearest_names_come_first():
    monitors = {"val/loss": "min", "val/f1": "max", "train/loss": "min"}
    with pytest.raises(ConfigError, match=r"did you mean val/f1"):
        check_monitors([EarlyStopping("val/F1", mode="max")], monitors)


@pytest.mark.parametrize(("arguments", "words"), WRONG[:1] + WRONG[5:6], ids=["monitor", "mode"])
def test_p15_goes_red_when_monitors_are_not_checked(arguments, words, run, monkeypatch):
    monkeypatch.setattr(cli, "check_monitors", lambda *_, **__: None)
    with pytest.raises(RED):
        contract_monitor(run, arguments, words)
