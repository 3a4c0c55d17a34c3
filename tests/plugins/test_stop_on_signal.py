"""A signal ends the step, not the process: a checkpoint, a line, an exit code that names the signal."""

from __future__ import annotations

import os
import signal
from datetime import timedelta
from typing import Any

import pytest
import torch
from lightning import Callback
from lightning.pytorch.callbacks import LambdaCallback, ModelCheckpoint, Timer

from peftlit.errors import Stopped
from peftlit.plugins import AdapterCheckpointIO, AdapterPrecision, StopOnSignal, stop_on_signal
from tests.modules.cases import Case, loader, make_module, make_trainer


class Send(Callback):
    """Send this process signals when a training batch starts."""

    def __init__(self, batch: int, *numbers: int) -> None:
        self.batch, self.numbers = batch, numbers

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.batch:
            for number in self.numbers:
                os.kill(os.getpid(), number)


def train(folder, checkpoints, *callbacks: Any, **arguments: Any) -> Any:
    plugins = [AdapterCheckpointIO(), AdapterPrecision("32-true", "cpu")]
    stop = StopOnSignal(checkpoints, "peftlit fit --ckpt_path last")
    trainer = make_trainer(-1, *callbacks, stop, plugins=plugins, max_epochs=1, enable_checkpointing=True, **arguments)
    trainer.fit(make_module(Case("bert", "lora"), folder), loader(folder, 8), loader(folder, 1))
    return trainer


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_window_ends_and_a_checkpoint_is_written(number, model_folder, tmp_path) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Stopped) as stopped:
        train(model_folder("bert"), tmp_path, Send(2, number), accumulate_grad_batches=4)
    assert stopped.value.exit_code == 128 + number
    said = f"stopped by {signal.Signals(number).name} after step 1; go on with: peftlit fit --ckpt_path last"
    assert str(stopped.value) == said
    assert AdapterCheckpointIO().load_checkpoint(tmp_path / stop_on_signal.CHECKPOINT_NAME)["global_step"] == 1
    assert signal.getsignal(number) is before


class TimeIsUp(Timer):
    """``trainer.max_time`` that is over in one batch."""

    def __init__(self, batch: int) -> None:
        super().__init__(timedelta(hours=1))
        self.batch = batch

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._offset = 7200 if batch_idx >= self.batch else 0
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)


@pytest.mark.parametrize(("batch", "steps"), [(0, 1), (1, 1), (3, 1), (4, 2), (7, 2)])
def test_a_window_ends_before_a_run_that_has_no_time_left(batch, steps, model_folder, tmp_path) -> None:
    best = ModelCheckpoint(tmp_path / "best", monitor="val/loss")
    listened = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    trainer = train(model_folder("bert"), tmp_path, TimeIsUp(batch), best, accumulate_grad_batches=4)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == listened
    assert trainer.global_step == steps
    assert trainer.fit_loop.epoch_loop.total_batch_idx == 4 * steps - 1
    assert AdapterCheckpointIO().load_checkpoint(best.best_model_path)["global_step"] == steps


def test_a_second_ctrl_c_ends_at_once(model_folder, tmp_path) -> None:
    with pytest.raises(SystemExit) as stopped:  # which Lightning makes of it
        train(model_folder("bert"), tmp_path, Send(1, signal.SIGINT, signal.SIGINT))
    assert isinstance(stopped.value.__context__, KeyboardInterrupt)
    assert not list(tmp_path.iterdir())


def test_one_that_comes_after_the_last_step_is_heard(model_folder, tmp_path) -> None:
    at_the_end = LambdaCallback(on_train_epoch_end=lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped, match="after step 8"):
        train(model_folder("bert"), tmp_path, at_the_end)


ARRAY = {"SLURM_ARRAY_JOB_ID": "16", "SLURM_ARRAY_TASK_ID": "3"}
REFUSED = "job 17 is not requeued (scontrol: "


@pytest.mark.parametrize(
    ("variables", "script", "said"),
    [
        ({}, "echo asked $@ >&2; exit 1", f"{REFUSED}asked requeue 17)"),
        (ARRAY, "[ requeue,16_3 = $1,$2 ]", "job 16_3 is requeued"),
        ({}, "[ requeue,17 = $1,$2 ]", "job 17 is requeued"),
        ({}, None, REFUSED),
    ],
)
def test_slurm_is_asked_for_the_job_by_its_name(variables, script, said, monkeypatch, tmp_path, caplog) -> None:
    for name, value in {"SLURM_JOB_ID": "17", "PATH": str(tmp_path), **variables}.items():
        monkeypatch.setenv(name, value)
    if script is not None:
        (tmp_path / "scontrol").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "scontrol").chmod(0o755)
    with caplog.at_level("INFO", "peftlit"):
        stop_on_signal._requeue()
    assert said in caplog.text


def test_the_other_ranks_are_asked_after_a_step_and_not_before_each_batch(monkeypatch, tmp_path) -> None:
    """Lightning asks them before every batch where there are several, and waits for the answer."""
    asked: list[Any] = []
    monkeypatch.setattr(torch.distributed, "broadcast", lambda *arguments, **_: asked.append(arguments))
    trainer, stop = make_trainer(1), StopOnSignal(tmp_path, "")
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor()
    assert len(asked) == 1
    stop.on_train_start(trainer, None)
    stop._stop_listening()
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor()
    assert len(asked) == 1
