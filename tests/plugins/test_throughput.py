"""The clock of a run: what it counts and what it leaves out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.profilers import SimpleProfiler
from torch.utils.data import DataLoader

from peftlit.plugins import AdapterCheckpointIO, throughput
from peftlit.plugins.throughput import Throughput, throughput_of
from tests.modules.cases import make_trainer

FETCH, STEP, VALIDATION, SAVING = 3.0, 1.0, 100.0, 10.0
"""Seconds, on a clock that nothing else moves."""


class Clock:
    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def fetch(self, _: Any) -> dict[str, torch.Tensor]:
        """A batch of four rows."""
        self.now += FETCH
        return {"input_ids": torch.zeros(4, 2)}


class Module(LightningModule):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock, self.layer = clock, torch.nn.Linear(2, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.clock.now += STEP
        return self.layer(batch["input_ids"]).sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.clock.now += VALIDATION

    def on_save_checkpoint(self, checkpoint: Any) -> None:
        self.clock.now += SAVING

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(throughput, "time", clock)
    return clock


def fit(clock: Clock, folder: Any, epochs: int, ckpt_path: Any = None, **arguments: Any) -> Throughput:
    saving = ModelCheckpoint(folder, filename="{step}", save_top_k=-1)
    trainer = make_trainer(
        -1, Throughput(), saving, max_epochs=epochs, enable_checkpointing=True, num_sanity_val_steps=1,
        plugins=[AdapterCheckpointIO()], **arguments,
    )  # fmt: skip
    loaders = [DataLoader(range(batches), batch_size=None, collate_fn=clock.fetch) for batches in (5, 2)]
    trainer.fit(Module(clock), *loaders, ckpt_path=ckpt_path)
    found = throughput_of(trainer)
    assert found is not None
    return found


def test_training_counts_with_its_data_and_checkpoints_and_validation_does_not(clock, tmp_path) -> None:
    for profiler in (None, SimpleProfiler()):
        whole = fit(clock, tmp_path / "whole", 2, profiler=profiler)
        seconds = 10 * (FETCH + STEP) + 2 * SAVING
        assert (whole.rows, whole.seconds) == (40, seconds)
        assert whole.summary() == {"samples_per_second": round(40 / seconds, 2), "data_wait_fraction": 30 / seconds}
        clock.now += 1000  # it stands still when training is over
        assert whole.rate() == 40 / seconds
    fit(clock, tmp_path / "parts", 1)
    rest = fit(clock, tmp_path / "parts", 2, ckpt_path=tmp_path / "parts/step=5.ckpt")
    assert rest.rows == 40
    assert whole.seconds - rest.seconds == SAVING  # a checkpoint does not know how long it takes to write
    assert rest.summary()["data_wait_fraction"] == round(30 / rest.seconds, 4)


def test_the_device_is_waited_for_where_the_clock_stops_and_nowhere_else(clock, monkeypatch) -> None:
    def finish() -> None:
        clock.now += 7.0

    monkeypatch.setattr(torch.accelerator, "synchronize", finish)
    device = SimpleNamespace(root_device=torch.device("cuda"))
    profiler = SimpleNamespace(start=lambda name: None, stop=lambda name: None)
    trainer: Any = SimpleNamespace(strategy=device, profiler=profiler, world_size=2, sanity_checking=False)
    module, found = Module(clock), Throughput()
    found.on_train_start(trainer, module)
    for _ in range(3):
        clock.now += 1.0
        found.on_train_batch_end(trainer, module, None, {"input_ids": torch.zeros(4, 2)}, 0)
    assert (found.rows, found.seconds) == (24, 3.0)
    found.on_validation_start(trainer, module)
    clock.now += 100.0
    found.on_validation_end(trainer, module)
    assert found.seconds == 10.0  # what the device still had to do belongs to training
    found.on_train_end(trainer, module)
    assert found.seconds == 17.0


def test_before_the_first_batch_there_is_no_rate() -> None:
    assert Throughput().summary() == {"samples_per_second": 0.0, "data_wait_fraction": 0.0}
