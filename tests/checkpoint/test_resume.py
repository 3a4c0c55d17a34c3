"""What a checkpoint remembers beside Lightning's own, and what it refuses to go on with."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from peftlit.checkpoint import random_states
from peftlit.checkpoint.resume import RECORD, _move_paths
from peftlit.errors import CheckpointError
from peftlit.plugins import AdapterCheckpointIO, AdapterPrecision, Resumption
from tests.modules.cases import Case, loader, make_module, make_trainer


def draw() -> list[Any]:
    return [random.random(), float(numpy.random.random()), torch.rand(3).tolist()]


def test_the_generators_of_python_numpy_and_torch_go_on_where_they_were() -> None:
    random.gauss(0, 1)  # which keeps a second number for the next call
    states = random_states.capture()
    drawn = draw()
    draw()
    random_states.restore(states)
    assert draw() == drawn


def test_states_that_are_not_put_back_yet_are_saved_again() -> None:
    resumption = Resumption()
    states = resumption.state_dict()
    resumption.load_state_dict(states)
    draw()
    assert resumption.state_dict() == states


def test_another_number_of_processes_is_refused() -> None:
    resumption = Resumption()
    resumption.load_state_dict({"ranks": [{}, {}]})
    with pytest.raises(CheckpointError, match=r"written by 2 processes.* by 1; set trainer.devices: 2"):
        resumption.on_train_start(SimpleNamespace(world_size=1), None)


def paths(folder: str, **changes: Any) -> dict[str, Any]:
    best = f"{folder}/best.ckpt"
    state = {"dirpath": folder, "best_model_path": best, "kth_best_model_path": best, "last_model_path": ""}
    return {**state, "best_k_models": {best: 0.5}, **changes}


def test_paths_follow_the_folder_that_the_run_is_in_and_are_dropped_elsewhere(tmp_path) -> None:
    state = paths("/gone/checkpoints")
    _move_paths(state, tmp_path)
    assert state == paths(str(tmp_path))
    for path in ("/etc/best.ckpt", "/gone/checkpoints/../../best.ckpt", "best.ckpt"):
        state = paths("/gone/checkpoints", best_model_path=path, best_k_models={path: 0.5})
        _move_paths(state, tmp_path)
        assert (state["best_model_path"], state["best_k_models"]) == ("", {}), path


def test_the_best_weights_so_far_have_to_be_there(tmp_path) -> None:
    callback = ModelCheckpoint(tmp_path, monitor="val/loss")
    trainer = SimpleNamespace(checkpoint_callbacks=[callback])
    checkpoint = {RECORD: {"waits": []}, "callbacks": {callback.state_key: paths("/gone/checkpoints")}}
    with pytest.raises(CheckpointError, match=r"/gone/checkpoints/best.ckpt: the best weights so far are not in"):
        Resumption().on_load_checkpoint(trainer, None, checkpoint)


def test_a_step_whose_metric_was_not_good_enough_is_not_asked_for_again_inside_the_next_window(model_folder, tmp_path):
    best = ModelCheckpoint(tmp_path / "best", monitor="train/loss", every_n_train_steps=1, save_top_k=1)
    plugins = [AdapterCheckpointIO(), AdapterPrecision("32-true", "cpu")]
    trainer = make_trainer(
        -1, best, Resumption(), plugins=plugins, max_epochs=3, accumulate_grad_batches=2, enable_checkpointing=True
    )
    folder = model_folder("bert")
    trainer.fit(make_module(Case("bert", "lora"), folder), loader(folder, 8), loader(folder, 1))
    assert trainer.global_step == 12
    (kept,) = (tmp_path / "best").iterdir()
    assert AdapterCheckpointIO().load_checkpoint(kept)["global_step"] <= 12
