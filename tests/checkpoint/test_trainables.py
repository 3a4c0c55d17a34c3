"""What a module puts into a checkpoint, and what it refuses to take out of one."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256

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
def module(model_folder, tmp_path):
    shutil.copytree(model_folder("bert"), tmp_path / "bert")
    module = make_module(Case("bert", "lora"), tmp_path / "bert")
    module.configure_model()
    return module


def test_only_what_trains_is_kept_and_the_base_is_named(module, tmp_path) -> None:
    checkpoint = saved(module)
    assert set(checkpoint["state_dict"]) == {n for n, p in module.named_parameters() if p.requires_grad}
    digest = weights_sha256(str(tmp_path / "bert"), None)
    assert checkpoint[BACKBONE] == {
        "name_or_path": str(tmp_path / "bert"),
        "commit": None,
        "weights_sha256": digest,
        "config_sha256": sha256((tmp_path / "bert/config.json").read_bytes()).hexdigest(),
    }
    module.on_load_checkpoint(checkpoint)


def test_a_window_that_is_open_is_not_saved(module) -> None:
    module.window._sums = torch.ones(2)
    with pytest.raises(CheckpointError, match="inside an accumulation window"):
        saved(module)


@pytest.mark.parametrize("change", ["more", "less"])
def test_other_tensors_are_refused(change, module) -> None:
    checkpoint = saved(module)
    if change == "more":
        checkpoint["state_dict"]["model.extra"] = torch.ones(1)
    else:
        checkpoint["state_dict"].popitem()
    with pytest.raises(CheckpointError, match="does not hold what this config trains"):
        module.on_load_checkpoint(checkpoint)


def test_another_config_of_the_base_is_refused(module, tmp_path) -> None:
    checkpoint = saved(module)
    file = tmp_path / "bert/config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "hidden_act": "relu"}))
    with pytest.raises(CheckpointError, match=r"config\.json of .* is not the one that the checkpoint was"):
        module.on_load_checkpoint(checkpoint)


def test_another_base_is_refused(module, tmp_path) -> None:
    checkpoint = saved(module)
    file = tmp_path / "bert/model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(CheckpointError, match="are not those that the checkpoint was trained on"):
        module.on_load_checkpoint(checkpoint)
