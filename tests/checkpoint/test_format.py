from __future__ import annotations

import errno
import json
import os
import pickle
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from peftlit.checkpoint.format import TREE_FILE, is_checkpoint
from peftlit.errors import CheckpointError
from peftlit.plugins import AdapterCheckpointIO, AdapterPrecision, PagedAdamW8bit
from tests.modules.cases import NF4, Case, loader, make_module, make_trainer


def same(a, b, path: str = "") -> None:
    """Equal throughout, tensors bit by bit."""
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, path
        assert torch.equal(a, b), path
    elif isinstance(a, dict):
        assert list(a) == list(b), path
        for key in a:
            same(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{path}/{i}")
    else:
        assert a == b or a != a, path


class Remember(AdapterCheckpointIO):
    """Keep what Lightning handed over, to compare."""

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        self.handed_over = checkpoint
        super().save_checkpoint(checkpoint, path, storage_options)


def train(case: Case, folder: Path, out: Path, io: AdapterCheckpointIO, precision: str = "32-true", **arguments):
    callback = ModelCheckpoint(out, save_last=True, monitor="val/loss", every_n_train_steps=2)
    trainer = make_trainer(
        4, callback, enable_checkpointing=True, plugins=[io, AdapterPrecision(precision, "cpu")], val_check_interval=2
    )
    module = make_module(case, folder, **arguments)
    trainer.fit(module, loader(folder, 4), loader(folder, 1))
    return module, trainer, callback


@pytest.mark.parametrize(
    ("case", "arguments", "precision"),
    [
        (Case("bert", "lora"), {}, "32-true"),
        (Case("gpt2", "none"), {}, "16-mixed"),
        (Case("llama", "lora", NF4), {"optimizer": PagedAdamW8bit}, "32-true"),
    ],
    ids=["lora", "head with float16 scaler", "nf4 with 8-bit state"],
)
def test_a_real_checkpoint_comes_back_as_it_was(case, arguments, precision, model_folder, tmp_path):
    io = Remember()
    module, trainer, _ = train(case, model_folder(case.family), tmp_path / "ckpt", io, precision, **arguments)
    trainer.save_checkpoint(tmp_path / "own")
    back = io.load_checkpoint(tmp_path / "own")
    same(io.handed_over, back)
    assert set(back["state_dict"]) == {n for n, p in module.named_parameters() if p.requires_grad}
    assert back["global_step"] == 4


def test_training_goes_on_from_one(model_folder, tmp_path):
    module, _, callback = train(Case("bert", "lora"), model_folder("bert"), tmp_path / "ckpt", AdapterCheckpointIO())
    again = make_module(Case("bert", "lora"), model_folder("bert"))
    trainer = make_trainer(6, plugins=[AdapterCheckpointIO(), AdapterPrecision("32-true", "cpu")])
    trainer.fit(again, loader(model_folder("bert"), 6), ckpt_path=callback.last_model_path)
    assert trainer.global_step == 6
    moved = dict(module.named_parameters())
    assert any(not torch.equal(p, moved[n]) for n, p in again.named_parameters())


class Told(Callback):
    """The validation loss of each epoch."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self.losses.append(trainer.callback_metrics["val/loss"].item())


@pytest.mark.parametrize(("count", "mode"), [(1, "min"), (2, "min"), (2, "max"), (3, "max")])
def test_the_best_by_a_metric_stay_and_the_last(count, mode, model_folder, tmp_path):
    told, folder = Told(), model_folder("bert")
    best = ModelCheckpoint(
        tmp_path, monitor="val/loss", mode=mode, save_top_k=count, save_last=True, filename="{epoch}"
    )
    plugins = [AdapterCheckpointIO(), AdapterPrecision("32-true", "cpu")]
    trainer = make_trainer(-1, told, best, plugins=plugins, max_epochs=5, enable_checkpointing=True)
    trainer.fit(make_module(Case("bert", "lora"), folder), loader(folder, 2), loader(folder, 1))
    assert len(set(told.losses)) == 5
    sign, kept, last = 1 if mode == "min" else -1, [0], 0
    for epoch in range(1, 5):
        better = sorted([*kept, epoch], key=lambda e: sign * told.losses[e])[:count]
        last = epoch if epoch in better else last  # Lightning's last one is the last that was worth keeping
        kept = better
    assert {path.name for path in tmp_path.iterdir()} == {"last.ckpt", *(f"epoch={epoch}.ckpt" for epoch in kept)}
    for epoch in kept:
        assert AdapterCheckpointIO().load_checkpoint(tmp_path / f"epoch={epoch}.ckpt")["epoch"] == epoch
    assert AdapterCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")["epoch"] == last


def test_nothing_in_it_is_pickled(model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(pickle, "Pickler", None)
    monkeypatch.setattr(torch, "save", None)
    monkeypatch.setattr(torch, "load", None)
    io = AdapterCheckpointIO()
    _, trainer, _ = train(Case("bert", "lora"), model_folder("bert"), tmp_path / "ckpt", io)
    trainer.save_checkpoint(tmp_path / "own")
    io.load_checkpoint(tmp_path / "own")
    assert sorted((tmp_path / "own").iterdir()) == [tmp_path / "own" / TREE_FILE, tensors_of(tmp_path / "own")]
    json.loads((tmp_path / "own" / TREE_FILE).read_text())


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "last.ckpt"
    AdapterCheckpointIO().save_checkpoint({"state_dict": {"a": torch.arange(64.0)}, "epoch": 3}, path)
    return path


def tensors_of(path: Path) -> Path:
    return next(path.glob("tensors-*.safetensors"))


def edit(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(bytes(content))


@pytest.mark.parametrize("position", [0, 30, -1])
def test_one_bit_changed_in_the_tensors_is_refused(saved, position):
    edit(tensors_of(saved), position)
    with pytest.raises(CheckpointError, match="not what was written .checksum.; use another checkpoint"):
        AdapterCheckpointIO().load_checkpoint(saved)


def test_truncated_tensors_are_refused(saved):
    content = (tensors_of(saved)).read_bytes()
    (tensors_of(saved)).write_bytes(content[:-8])
    with pytest.raises(CheckpointError, match="checksum"):
        AdapterCheckpointIO().load_checkpoint(saved)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format_version": 1}', "null"], ids=repr)
def test_a_damaged_tree_is_refused(saved, content):
    (saved / TREE_FILE).write_text(content)
    with pytest.raises(CheckpointError, match="checkpoint.json is damaged"):
        AdapterCheckpointIO().load_checkpoint(saved)


def test_a_tree_that_was_edited_is_refused(saved):
    text = (saved / TREE_FILE).read_text()
    assert '["epoch", 3]' in text
    (saved / TREE_FILE).write_text(text.replace('["epoch", 3]', '["epoch", 4]'))
    with pytest.raises(CheckpointError):
        AdapterCheckpointIO().load_checkpoint(saved)


def test_a_tree_that_is_not_utf_8_is_refused(saved):
    (saved / TREE_FILE).write_bytes(b"\xff\xfe{}")
    with pytest.raises(CheckpointError, match="damaged"):
        AdapterCheckpointIO().load_checkpoint(saved)


def test_another_format_is_refused(saved):
    header = json.loads((saved / TREE_FILE).read_text())
    (saved / TREE_FILE).write_text(json.dumps({**header, "format_version": 99}))
    with pytest.raises(CheckpointError, match="format 99, this peftlit reads 2"):
        AdapterCheckpointIO().load_checkpoint(saved)


def test_a_missing_file_is_said(saved):
    tensors_of(saved).unlink()
    with pytest.raises(CheckpointError, match=r"holds no tensors-.*; use another checkpoint"):
        AdapterCheckpointIO().load_checkpoint(saved)
    (saved / TREE_FILE).unlink()
    for path in (saved, saved / "elsewhere"):
        with pytest.raises(CheckpointError, match="no peftlit checkpoint"):
            AdapterCheckpointIO().load_checkpoint(path)


def test_a_pickled_checkpoint_is_refused_unread(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    with pytest.raises(CheckpointError, match="no peftlit checkpoint"):
        AdapterCheckpointIO().load_checkpoint(tmp_path / "foreign.ckpt")


def test_saving_again_replaces_and_leaves_nothing_beside(saved):
    AdapterCheckpointIO().save_checkpoint({"epoch": 4}, saved)
    assert AdapterCheckpointIO().load_checkpoint(saved) == {"epoch": 4}
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_a_save_that_fails_leaves_the_last_one(saved):
    with pytest.raises(CheckpointError, match="cannot store object"):
        AdapterCheckpointIO().save_checkpoint({"epoch": object()}, saved)
    assert AdapterCheckpointIO().load_checkpoint(saved)["epoch"] == 3
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


@pytest.mark.parametrize("step", ["save_file", "_sync", "sha256_of_file"])
def test_a_save_that_dies_midway_leaves_the_last_one(saved, step, monkeypatch):
    def die(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"peftlit.checkpoint.format.{step}", die)
    with pytest.raises(KeyboardInterrupt):
        AdapterCheckpointIO().save_checkpoint({"epoch": 4}, saved)
    monkeypatch.undo()
    assert AdapterCheckpointIO().load_checkpoint(saved)["epoch"] == 3


def test_a_disk_that_takes_no_more_is_one_line_and_the_last_one_stays(saved, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        CheckpointError, match=r"cannot be written \(No space left on device\); earlier checkpoints are"
    ):
        AdapterCheckpointIO().save_checkpoint({"epoch": 4}, saved)
    monkeypatch.undo()
    assert AdapterCheckpointIO().load_checkpoint(saved)["epoch"] == 3
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def write_tree(saved: Path, **changes: object) -> None:
    """Change the JSON as somebody would who knows the format."""
    header = {**json.loads((saved / TREE_FILE).read_text()), **changes}
    header["tree_sha256"] = sha256(json.dumps(header["tree"]).encode()).hexdigest()
    (saved / TREE_FILE).write_text(json.dumps(header))


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "", 5, None, "A" * 64], ids=repr)
def test_a_digest_that_would_lead_elsewhere_is_refused(saved, name):
    write_tree(saved, tensors_sha256=name)
    with pytest.raises(CheckpointError, match="damaged"):
        AdapterCheckpointIO().load_checkpoint(saved)


@pytest.mark.parametrize(
    "tree",
    [5, [], {"dict": 3}, {"dict": [[{"dict": []}, 1]]}, {"float": "no"}, {"pickle": "x"}, {"dtype": "save"}],
    ids=repr,
)
def test_a_tree_of_another_form_is_refused(saved, tree):
    write_tree(saved, tree=tree)
    with pytest.raises(CheckpointError, match="damaged|cannot read an entry"):
        AdapterCheckpointIO().load_checkpoint(saved)


def test_a_tree_without_end_is_refused(saved):
    (saved / TREE_FILE).write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match="damaged"):
        AdapterCheckpointIO().load_checkpoint(saved)


@pytest.mark.parametrize("which", ["tree", "tensors"])
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_leads_out_of_the_folder_is_refused(saved, which, kind, tmp_path):
    file = saved / TREE_FILE if which == "tree" else tensors_of(saved)
    file.rename(tmp_path / "elsewhere")
    if kind == "link":
        file.symlink_to(tmp_path / "elsewhere")
    else:
        os.mkfifo(file)
    with pytest.raises(CheckpointError, match="no plain file"):
        AdapterCheckpointIO().load_checkpoint(saved)


def test_ten_gigabytes_of_json_are_refused_unread(saved):
    os.truncate(saved / TREE_FILE, 10 << 30)
    with pytest.raises(CheckpointError, match="has 10,737,418,240 bytes, more than any checkpoint"):
        AdapterCheckpointIO().load_checkpoint(saved)


def test_a_header_of_ten_gigabytes_is_refused(saved):
    file = tensors_of(saved)
    content = (10 << 30).to_bytes(8, "little") + file.read_bytes()[8:]
    digest = sha256(content).hexdigest()
    file.unlink()
    (saved / f"tensors-{digest[:16]}.safetensors").write_bytes(content)
    write_tree(saved, tensors_sha256=digest)
    with pytest.raises(CheckpointError, match=r"damaged \(.*header"):
        AdapterCheckpointIO().load_checkpoint(saved)


def test_nothing_is_deleted_that_is_not_a_checkpoint(saved, tmp_path, caplog):
    (saved / "notes.txt").write_text("mine")
    other = tmp_path / "home"
    other.mkdir()
    (other / "thesis.tex").write_text("mine")
    for path in (saved, other):
        AdapterCheckpointIO().remove_checkpoint(path)
    assert is_checkpoint(saved)
    assert (other / "thesis.tex").exists()
    assert caplog.text.count("not deleted; it holds other things than a checkpoint") == 2


def test_removing_one_removes_all_of_it(saved):
    AdapterCheckpointIO().remove_checkpoint(saved)
    assert not saved.exists()
    AdapterCheckpointIO().remove_checkpoint(saved)
