from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from peftlit.checkpoint.compatibility import FREE, PLACES, check_same_run, describe
from peftlit.checkpoint.resume import RECORD
from peftlit.errors import CheckpointError, RunFolderError
from peftlit.plugins import AdapterCheckpointIO
from tests.conftest import change

MANIFEST = {"sha256": "a", "splits": {"train": {"sha256": "1"}, "test": {"sha256": "2"}}}
OTHER_TEST = {"sha256": "b", "splits": {**MANIFEST["splits"], "test": {"sha256": "3"}}}
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
R, SCHEDULER, EPOCHS = "model.init_args.adapter.init_args.r", "model.init_args.scheduler", "trainer.max_epochs"
CONSTANT = {"class_path": "peftlit.modules.optim.ConstantWarmup", "init_args": {"num_warmup_steps": 5}}
BOARDS = {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "boards"}}


def record(
    settings: dict[str, Any] | None = None,
    manifest: dict[str, Any] = MANIFEST,
    tokenizer: str = "t",
    precision: str = "32-true",
) -> dict[str, Any]:
    """What is recorded of a run, with some settings changed."""
    changed: Any = copy.deepcopy(SETTINGS)
    for path, value in (settings or {}).items():
        change(changed, path, value)
    data: Any = SimpleNamespace(manifest=lambda: manifest, tokenizer_sha256=tokenizer)
    return describe(yaml.safe_dump(changed), data, precision)


@pytest.fixture
def save(tmp_path: Path):
    """Return a function that writes the checkpoint of a run with this record and gives its path."""

    def write(record: dict[str, Any], without: str = "") -> Path:
        content = {name: [] for name in ("state_dict", "loops", "callbacks", "optimizer_states", "lr_schedulers")}
        content.pop(without, None)
        AdapterCheckpointIO().save_checkpoint({**content, RECORD: record}, tmp_path / "last.ckpt")
        return tmp_path / "last.ckpt"

    return write


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({}, {"trainer.logger": BOARDS}),
        ({}, {"data.init_args.num_workers": 4}),
        ({}, {"data.init_args.data_dir": "elsewhere"}),
        ({}, {EPOCHS: 3}),
        *(({SCHEDULER: kind}, {SCHEDULER: kind, EPOCHS: 5}) for kind in (None, CONSTANT)),  # which know no end
    ],
)
def test_what_changes_no_weight_may_differ(before, now, save):
    check_same_run(save(record(before)), record(now))


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({"settings": {R: 16}}, "continue it as another run: model.adapter.r 8 -> 16; set"),
        ({"settings": {EPOCHS: 5}}, "continue it as another run: trainer.max_epochs 3 -> 5; set"),
        ({"settings": {"seed_everything": 43}}, "continue it as another run: seed_everything 42 -> 43; set"),
        ({"settings": {"data.init_args.batch_size": 4}}, "continue it as another run: data.batch_size 8 -> 4; set"),
        ({"manifest": OTHER_TEST}, r"the data has changed since the run began \(test differs\)"),
        ({"tokenizer": "other"}, "the tokenizer has changed since the run began"),
        ({"precision": "bf16-mixed"}, "the run computed in 32-true, and would go on in bf16-mixed"),
    ],
)
def test_what_changes_the_result_is_refused_with_the_difference(now, said, save):
    with pytest.raises(RunFolderError, match=said):
        check_same_run(save(record()), record(**now))


SAVER = "lightning.pytorch.callbacks.ModelCheckpoint"
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
    "trainer.callbacks": [{"class_path": SAVER, "init_args": {"monitor": "val/f1", "mode": "max", "save_top_k": 1}}],
    "trainer.max_epochs": 6,
}
"""What a checkpoint of an earlier release recorded, but for the settings that are like these."""

SAME_NOW: dict[str, Any] = {
    **{key: value for key, value in OLDER.items() if key not in ("data.min_chars", "trainer.callbacks")},
    "data.class_path": "peftlit.data.datasets.tweet_sentiment.TweetSentiment",
    "data.batch_size": 16,
    "model.loss.gamma": 2.0,
    "model.optimizer.betas": [0.9, 0.999],
    "trainer.callbacks.0.class_path": SAVER,
    "trainer.callbacks.0.monitor": "val/f1",
    "trainer.callbacks.0.mode": "max",
    "trainer.callbacks.0.save_top_k": 1,
    "trainer.callbacks.0.save_on_exception": False,
    "trainer.num_nodes": 1,
}
"""What this release records of the same run: classes have moved, settings are new and have their defaults."""


@pytest.mark.parametrize(
    ("older", "now", "said"),
    [
        ({}, {}, None),
        ({}, {"model.scheduler.class_path": "peftlit.modules.optim.CosineWarmup"}, "model.scheduler.class_path .*Lin"),
        ({}, {"model.loss.gamma": 1.0}, "model.loss.gamma None -> 1.0"),
        ({}, {"model.optimizer.lr": None}, "model.optimizer.lr 0.001 -> None"),
        ({}, {"data.rank_pattern.query": 0}, "data.rank_pattern.query None -> 0"),
        ({}, {"trainer.callbacks.0.monitor": "val/loss"}, "trainer.callbacks.0.monitor 'val/f1' -> 'val/loss'"),
        ({}, {"trainer.num_nodes": 2}, "trainer.num_nodes None -> 2"),
        ({"data.min_chars": 3}, {}, "data.min_chars 3 -> None"),  # gone, and was on
    ],
)
def test_the_record_of_an_earlier_release_is_compared_by_what_it_means(older, now, said, save):
    path = save({**record(), "settings": {**OLDER, **older}})
    present = {**record(), "settings": {**SAME_NOW, **now}}
    if said is None:
        check_same_run(path, present)
        return
    with pytest.raises(RunFolderError, match=f"as another run: {said}.*; set"):
        check_same_run(path, present)


def test_what_was_read_for_the_check_is_not_read_again(save, monkeypatch):
    path, io = save(record()), AdapterCheckpointIO()
    check_same_run(path, record(), io)
    with monkeypatch.context() as closed:
        closed.setattr("peftlit.checkpoint.format.sha256_of_file", None)
        assert io.load_checkpoint(str(path)).keys() >= {RECORD, "loops"}
    (path / "checkpoint.json").unlink()
    with pytest.raises(CheckpointError):  # once
        io.load_checkpoint(path)


def test_a_checkpoint_of_weights_alone_is_no_place_to_go_on_from(save):
    with pytest.raises(CheckpointError, match="holds no optimizer_states, so no run can go on from it"):
        check_same_run(save(record(), without="optimizer_states"), record())


def test_the_docs_list_what_may_differ():
    page = (Path(__file__).parents[2] / "docs/resume.md").read_text(encoding="utf-8")
    assert all(f"`{key}`" in page for key in (*FREE, *(f"data.{name}" for name in PLACES)))
