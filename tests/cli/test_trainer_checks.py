"""What Lightning would take and peftlit could not keep its promises under is one line, before weights load."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftlit.modules import build
from tests.conftest import errors_of
from tests.modules.cases import Case, command_line

EMA = {"class_path": "EMAWeightAveraging"}
SWA = {"class_path": "StochasticWeightAveraging", "init_args": {"swa_lrs": 1e-3}}
THAWING = {"class_path": "BackboneFinetuning"}
OUTSIDE = {"class_path": "ModelCheckpoint", "init_args": {"monitor": "val/loss", "dirpath": "elsewhere"}}
INSIDE = {"class_path": "ModelCheckpoint", "init_args": {"monitor": "val/loss", "dirpath": "run/checkpoints/best"}}
PICKLES = {"class_path": "lightning.pytorch.plugins.io.TorchCheckpointIO"}
SPAWNS = {"class_path": "lightning.pytorch.strategies.DDPStrategy", "init_args": {"start_method": "spawn"}}


@pytest.mark.parametrize(
    ("trainer", "said"),
    [
        ({"callbacks": [SWA]}, "trainer.callbacks: StochasticWeightAveraging averages a copy that"),
        ({"callbacks": [EMA]}, "trainer.callbacks: EMAWeightAveraging keeps a second copy of the whole backbone"),
        ({"callbacks": [THAWING]}, "trainer.callbacks: BackboneFinetuning freezes and thaws layers"),
        ({"callbacks": [{"class_path": "BatchSizeFinder"}]}, "trainer.callbacks: BatchSizeFinder would train with"),
        ({"callbacks": [{"class_path": "LearningRateFinder"}]}, "trainer.callbacks: LearningRateFinder would train"),
        ({"callbacks": [OUTSIDE]}, "ModelCheckpoint.dirpath: {}/elsewhere is outside run/checkpoints, where a run"),
        ({"callbacks": [INSIDE, INSIDE]}, "trainer: Found more than one stateful callback of type `ModelCheckpoint`"),
        ({"plugins": [PICKLES]}, "trainer.plugins: no run can resume from what TorchCheckpointIO writes; leave it out"),
        ({"use_distributed_sampler": True}, "trainer.use_distributed_sampler: true would share each process's rows"),
        ({"overfit_batches": 2}, "trainer.overfit_batches: Lightning would take the rows in another order"),
        ({"strategy": "ddp_spawn", "devices": 2}, "trainer.strategy: ddp_spawn copies a process"),
        ({"strategy": "ddp_notebook_find_unused_parameters_true"}, "trainer.strategy: ddp_notebook_find_unused_para"),
        ({"strategy": SPAWNS, "devices": 2}, "trainer.strategy: spawn copies a process"),
        ({"limit_val_batches": 0}, "ModelCheckpoint.monitor: 'val/f1' needs a validation, and there is none"),
        ({"callbacks": [{"class_path": "EarlyStopping"}]}, "trainer.callbacks: EarlyStopping: not given: monitor"),
        ({"callbacks": [{"class_path": "nowhere.Found"}]}, "trainer.callbacks: Found: No module named 'nowhere'"),
        ({"logger": {"class_path": "CometLogger"}}, "CometLogger: "),
    ],
)
def test_it_is_refused(trainer, said, peftlit, settings, write_config, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(build, "load_weights", lambda *_, **__: pytest.fail("weights were loaded"))
    settings["trainer"] |= trainer
    code, _, err = peftlit("fit", "--config", write_config(settings), "--run_dir", "run")
    assert code == 2, err
    assert len(errors_of(err)) == 1
    assert said.format(tmp_path) in err
    assert not (tmp_path / "run").exists()


CHECKPOINT = "--ckpt_path=checkpoints/last.ckpt"


@pytest.mark.parametrize(
    ("command", "argument", "said"),
    [
        ("validate", CHECKPOINT, "validate scores RUN/adapter, not a checkpoint; leave it out"),
        ("test", CHECKPOINT, "test scores RUN/adapter, not a checkpoint; leave it out"),
        ("test", "--trainer.use_distributed_sampler=true", "trainer.use_distributed_sampler: true would share"),
    ],
)
def test_an_evaluation_is_held_to_it_too(command, argument, said, peftlit, finished_run) -> None:
    code, _, err = peftlit(command, "--run_dir", finished_run[0], argument)
    assert code == 2, err
    assert said in errors_of(err)[0]


@pytest.fixture
def parsed(model_folder, toy_data, tmp_path):
    """Return a function that builds what a command line asks for."""
    return lambda *more: command_line(Case("bert", "lora"), model_folder("bert"), toy_data, tmp_path / "run", *more)


def test_a_guard_of_the_users_takes_the_place_of_ours(parsed) -> None:
    own = ["TrainabilityGuard", "FiniteGuard"]
    callbacks = parsed(*(f"--trainer.callbacks+=peftlit.plugins.{name}" for name in own)).trainer.callbacks
    names = [type(callback).__name__ for callback in callbacks]
    assert [names.count(name) for name in own] == [1, 1]


def test_a_setting_that_is_one_of_a_few_is_saved_by_its_name(parsed) -> None:
    cli = parsed("--trainer.callbacks+=Timer", "--trainer.callbacks.interval=epoch")
    assert "interval: epoch" in cli._config_text


@pytest.mark.parametrize(("asked", "seed"), [("false", None), ("7", 7)])
def test_a_run_without_a_seed_of_its_own_may_be_asked_for(asked, seed, parsed) -> None:
    assert parsed(f"--seed_everything={asked}").datamodule.seed == seed
