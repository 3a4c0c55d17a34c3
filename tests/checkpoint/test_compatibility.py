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


OLDER: dict[str, Any] = {
    "data.class_path": "peftlit.data.TweetSentiment",
    "data.min_chars": 0,  # never was; stands for a setting that is gone, and was off
    "model.class_path": "peftlit.modules.SequenceClassification",
    "model.loss.class_path": "peftlit.modules.losses.FocalLoss",
    "model.loss.class_weights": None,
    "model.optimizer.class_path": "peftlit.plugins.PagedAdamW8bit",
    "model.optimizer.lr": 0.001,
    "model.scheduler.class_path": "peftlit.modules.optim.LinearWarmup",
    "model.scheduler.num_warmup_steps": None,
    "model.scheduler.warmup_ratio": 0.1,
    "trainer.callbacks": [
        {
            "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
            "init_args": {"monitor": "val/f1", "mode": "max", "save_top_k": 1},
        }
    ],
    "trainer.max_epochs": 6,
}
"""What a checkpoint of an earlier release recorded, but for the settings that are like these."""

SAME_NOW: dict[str, Any] = {
    **{key: value for key, value in OLDER.items() if key not in ("data.min_chars", "trainer.callbacks")},
    "data.class_path": "peftlit.data.datasets.tweet_sentiment.TweetSentiment",
    "data.batch_size": 16,
    "model.loss.class_path": "peftlit.modules.losses.FocalLoss",
    "model.loss.gamma": 2.0,
    "model.optimizer.betas": [0.9, 0.999],
    "model.scheduler.class_path": "peftlit.modules.optim.LinearWarmup",
    "trainer.callbacks.0.class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
    "trainer.callbacks.0.monitor": "val/f1",
    "trainer.callbacks.0.mode": "max",
    "trainer.callbacks.0.save_top_k": 1,
    "trainer.callbacks.0.save_on_exception": False,
    "trainer.num_nodes": 1,
}
"""What this release records of the same run: classes have moved, settings are new and have their defaults."""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"model.scheduler.class_path": "peftlit.modules.optim.CosineWarmup"}, "model.scheduler.class_path '.*Linear"),
        ({"model.loss.gamma": 1.0}, "model.loss.gamma None -> 1.0"),
        ({"model.optimizer.lr": None}, "model.optimizer.lr 0.001 -> None"),
        ({"data.rank_pattern.query": 0}, "data.rank_pattern.query None -> 0"),
        ({"trainer.callbacks.0.monitor": "val/loss"}, "trainer.callbacks.0.monitor 'val/f1' -> 'val/loss'"),
        ({"trainer.num_nodes": 2}, "trainer.num_nodes None -> 2"),
    ],
)
def test_the_record_of_an_earlier_release_is_compared_by_what_it_means(changes, said, save):
    path = save(SETTINGS)
    record = {**AdapterCheckpointIO().load_checkpoint(path)[RECORD], "settings": OLDER}
    path, now = save(SETTINGS, **{RECORD: record}), {**record, "settings": {**SAME_NOW, **changes}}
    if said is None:
        check_same_run(path, now)
        return
    with pytest.raises(RunFolderError, match=f"as another run: {said}.*; set"):
        check_same_run(path, now)


def test_a_setting_that_is_gone_and_was_on_is_refused(save):
    record = describe(yaml.safe_dump(SETTINGS), MANIFEST, "t", "32-true")
    path = save(SETTINGS, **{RECORD: {**record, "settings": {**OLDER, "data.min_chars": 3}}})
    with pytest.raises(RunFolderError, match="data.min_chars 3 -> None"):
        check_same_run(path, {**record, "settings": SAME_NOW})


def test_what_was_read_for_the_check_is_not_read_again(save, monkeypatch):
    path, io = save(SETTINGS), AdapterCheckpointIO()
    check_same_run(path, describe(yaml.safe_dump(SETTINGS), MANIFEST, "t", "32-true"), io)
    with monkeypatch.context() as closed:
        closed.setattr("peftlit.checkpoint.format.sha256_of_file", None)
        assert io.load_checkpoint(str(path)).keys() >= {RECORD, "loops"}
    (path / "checkpoint.json").unlink()
    with pytest.raises(CheckpointError):  # once
        io.load_checkpoint(path)


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
