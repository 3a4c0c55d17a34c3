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


@pytest.mark.parametrize("command", ["validate", "test"])
def test_a_checkpoint_is_not_what_is_scored(command, peftlit, finished_run) -> None:
    checkpoint = next((finished_run[0] / "checkpoints").glob("*.ckpt"))
    code, _, err = peftlit(command, "--run_dir", finished_run[0], "--ckpt_path", checkpoint)
    assert code == 2, err
    assert f"{command} scores RUN/adapter, not a checkpoint; leave it out" in errors_of(err)[0]


def test_rows_are_not_shared_out_again_in_an_evaluation_either(peftlit, finished_run) -> None:
    code, _, err = peftlit("test", "--run_dir", finished_run[0], "--trainer.use_distributed_sampler=true")
    assert code == 2, err
    assert "trainer.use_distributed_sampler: true would share" in errors_of(err)[0]


def test_what_no_validation_gives_cannot_be_monitored(peftlit, settings, write_config) -> None:
    settings["trainer"] |= {"limit_val_batches": 0, "callbacks": [{**OUTSIDE, "init_args": {"monitor": "val/loss"}}]}
    code, _, err = peftlit("fit", "--config", write_config(settings))
    assert code == 2, err
    assert "ModelCheckpoint.monitor: 'val/loss' needs a validation, and there is none" in err


def test_a_guard_of_the_users_takes_the_place_of_ours(model_folder, toy_data, tmp_path) -> None:
    own = ["TrainabilityGuard", "FiniteGuard"]
    more = [f"--trainer.callbacks+=peftlit.plugins.{name}" for name in own]
    cli = command_line(Case("bert", "lora"), model_folder("bert"), toy_data, tmp_path / "run", *more)
    names = [type(callback).__name__ for callback in cli.trainer.callbacks]
    assert [names.count(name) for name in own] == [1, 1]


def test_a_setting_that_is_one_of_a_few_is_saved_by_its_name(model_folder, toy_data, tmp_path) -> None:
    more = ["--trainer.callbacks+=Timer", "--trainer.callbacks.interval=epoch"]
    cli = command_line(Case("bert", "lora"), model_folder("bert"), toy_data, tmp_path / "run", *more)
    assert "interval: epoch" in cli._config_text


@pytest.mark.parametrize("seed", ["false", "7"])
def test_a_run_without_a_seed_of_its_own_may_be_asked_for(seed, model_folder, toy_data, tmp_path) -> None:
    more = [f"--seed_everything={seed}"]
    cli = command_line(Case("bert", "lora"), model_folder("bert"), toy_data, tmp_path / "run", *more)
    assert cli.datamodule.seed == (None if seed == "false" else 7)
