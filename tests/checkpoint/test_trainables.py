"""What a module puts into a checkpoint, and what it refuses to take out of one."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

from peftlit.checkpoint.trainables import BACKBONE
from peftlit.digest import weights_sha256
from peftlit.errors import CheckpointError
from tests.modules.cases import Case, make_module


def saved(module) -> dict:
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    return checkpoint


@pytest.fixture
def folder(model_folder, tmp_path) -> Path:
    return shutil.copytree(model_folder("bert"), tmp_path / "bert")


@pytest.fixture
def module(folder):
    module = make_module(Case("bert", "lora"), folder)
    module.configure_model()
    return module


def test_only_what_trains_is_kept_and_the_base_is_named(module, folder) -> None:
    checkpoint = saved(module)
    assert set(checkpoint["state_dict"]) == {n for n, p in module.named_parameters() if p.requires_grad}
    assert checkpoint[BACKBONE] == {
        "name_or_path": str(folder),
        "commit": None,
        "weights_sha256": weights_sha256(str(folder), None),
        "config_sha256": sha256((folder / "config.json").read_bytes()).hexdigest(),
    }
    module.on_load_checkpoint(checkpoint)


def test_a_window_that_is_open_is_not_saved(module) -> None:
    module.window._sums = torch.ones(2)
    with pytest.raises(CheckpointError, match="inside an accumulation window"):
        saved(module)


def more(checkpoint: dict[str, Any], folder: Path) -> None:
    checkpoint["state_dict"]["model.extra"] = torch.ones(1)


def less(checkpoint: dict[str, Any], folder: Path) -> None:
    checkpoint["state_dict"].popitem()


def other_config(checkpoint: dict[str, Any], folder: Path) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "hidden_act": "relu"}))


def other_weights(checkpoint: dict[str, Any], folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (more, "does not hold what this config trains"),
        (less, "does not hold what this config trains"),
        (other_config, r"config\.json of .* is not the one that the checkpoint was"),
        (other_weights, "are not those that the checkpoint was trained on"),
    ],
)
def test_other_tensors_or_another_base_are_refused(change, said, module, folder) -> None:
    checkpoint = saved(module)
    change(checkpoint, folder)
    with pytest.raises(CheckpointError, match=said):
        module.on_load_checkpoint(checkpoint)
