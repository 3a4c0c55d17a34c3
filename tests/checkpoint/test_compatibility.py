from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from peftlit.checkpoint.compatibility import FREE, PLACES, check_same_run, describe
from peftlit.checkpoint.resume import RECORD
from peftlit.errors import CheckpointError, RunFolderError
from peftlit.plugins import AdapterCheckpointIO

MANIFEST = {"sha256": "a", "splits": {"train": {"sha256": "1"}, "test": {"sha256": "2"}}}
SETTINGS: dict[str, Any] = {
    "seed_everything": 42,
    "model": {
        "class_path": "SequenceClassification",
        "init_args": {
            "adapter": {"class_path": "peft.LoraConfig", "init_args": {"r": 8}},
            "scheduler": {"class_path": "peftlit.modules.optim.LinearWarmup", "init_args": {"warmup_ratio": 0.1}},
        },
    },
    "data": {"class_path": "SST2", "init_args": {"data_dir": "here", "batch_size": 8, "num_workers": 0}},
    "trainer": {"max_epochs": 3, "logger": None},
}


@pytest.fixture
def save(tmp_path: Path):
    """Return a function that writes the checkpoint of a run with these settings and gives its path."""

    def write(settings: dict[str, Any], **changes: Any) -> Path:
        content = {name: [] for name in ("state_dict", "loops", "callbacks", "optimizer_states", "lr_schedulers")}
        content[RECORD] = describe(yaml.safe_dump(settings), MANIFEST, "t", "32-true")
        AdapterCheckpointIO().save_checkpoint({**content, **changes}, tmp_path / "last.ckpt")
        return tmp_path / "last.ckpt"

    return write


def changed(path: str, value: Any) -> str:
    settings = copy.deepcopy(SETTINGS)
    *parents, leaf = path.split(".")
    inside: Any = settings
    for name in parents:
        inside = inside[name]
    inside[leaf] = value
    return yaml.safe_dump(settings)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("trainer.logger", {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "boards"}}),
        ("data.init_args.num_workers", 4),
        ("data.init_args.data_dir", "elsewhere"),
        ("trainer.max_epochs", 3),
    ],
)
def test_what_changes_no_weight_may_differ(save, path, value):
    check_same_run(save(SETTINGS), describe(changed(path, value), MANIFEST, "t", "32-true"))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("model.init_args.adapter.init_args.r", 16, "model.adapter.r 8 -> 16"),
        ("trainer.max_epochs", 5, "trainer.max_epochs 3 -> 5"),
        ("seed_everything", 43, "seed_everything 42 -> 43"),
        ("data.init_args.batch_size", 4, "data.batch_size 8 -> 4"),
    ],
)
def test_what_changes_the_result_is_refused_with_the_difference(save, path, value, said):
    with pytest.raises(RunFolderError, match=f"continue it as another run: {said}; set"):
        check_same_run(save(SETTINGS), describe(changed(path, value), MANIFEST, "t", "32-true"))


def test_more_epochs_are_fine_where_the_schedule_knows_no_end(save):
    for scheduler in (
        None,
        {"class_path": "peftlit.modules.optim.ConstantWarmup", "init_args": {"num_warmup_steps": 5}},
    ):
        settings = yaml.safe_load(changed("model.init_args.scheduler", scheduler))
        path = save(settings)
        settings["trainer"]["max_epochs"] = 5
        check_same_run(path, describe(yaml.safe_dump(settings), MANIFEST, "t", "32-true"))


def test_other_rows_are_refused_whatever_their_path(save):
    other = {"sha256": "b", "splits": {**MANIFEST["splits"], "test": {"sha256": "3"}}}
    with pytest.raises(RunFolderError, match=r"the data has changed since the run began \(test differs\)"):
        check_same_run(save(SETTINGS), describe(yaml.safe_dump(SETTINGS), other, "t", "32-true"))


@pytest.mark.parametrize(
    ("tokenizer", "precision", "said"),
    [
        ("other", "32-true", "the tokenizer has changed since the run began"),
        ("t", "bf16-mixed", "the run computed in 32-true, and would go on in bf16-mixed"),
    ],
)
def test_what_the_configuration_does_not_say_is_compared_too(tokenizer, precision, said, save):
    with pytest.raises(RunFolderError, match=said):
        check_same_run(save(SETTINGS), describe(yaml.safe_dump(SETTINGS), MANIFEST, tokenizer, precision))


def test_a_checkpoint_of_weights_alone_is_no_place_to_go_on_from(save):
    path = save(SETTINGS)
    content = AdapterCheckpointIO().load_checkpoint(path)
    del content["optimizer_states"]
    AdapterCheckpointIO().save_checkpoint(content, path)
    with pytest.raises(CheckpointError, match="holds no optimizer_states, so no run can go on from it"):
        check_same_run(path, describe(yaml.safe_dump(SETTINGS), MANIFEST, "t", "32-true"))


def test_the_docs_list_what_may_differ():
    page = (Path(__file__).parents[2] / "docs/resume.md").read_text(encoding="utf-8")
    assert all(f"`{key}`" in page for key in (*FREE, *(f"data.{name}" for name in PLACES)))
