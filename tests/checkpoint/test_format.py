from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
from collections.abc import Callable
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

IO = AdapterCheckpointIO()


def same(a: Any, b: Any, path: str = "") -> None:
    """Equal throughout, tensors bit by bit."""
    if isinstance(a, torch.Tensor):
        assert (a.dtype, torch.equal(a, b)) == (b.dtype, True), path
    elif isinstance(a, dict | list | tuple):
        pairs = (list(x.items() if isinstance(a, dict) else enumerate(x)) for x in (a, b))
        for (key, x), (other, y) in zip(*pairs, strict=True):
            assert key == other, path
            same(x, y, f"{path}/{key}")
    else:
        assert a == b or a != a, path


class Remember(AdapterCheckpointIO):
    """Keep what Lightning handed over, to compare."""

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        self.handed_over = checkpoint
        super().save_checkpoint(checkpoint, path, storage_options)


@pytest.mark.parametrize(
    ("case", "arguments", "precision"),
    [
        (Case("bert", "lora"), {}, "32-true"),
        (Case("gpt2", "none"), {}, "16-mixed"),
        (Case("llama", "lora", NF4), {"optimizer": PagedAdamW8bit}, "32-true"),
    ],
    ids=["lora", "head with float16 scaler", "nf4 with 8-bit state"],
)
def test_a_real_checkpoint_comes_back_as_it_was_and_unpickled(
    case, arguments, precision, model_folder, tmp_path, monkeypatch
):
    for owner, name in ((pickle, "Pickler"), (torch, "save"), (torch, "load")):
        monkeypatch.setattr(owner, name, None)
    io, folder, own = Remember(), model_folder(case.family), tmp_path / "own"
    trainer = make_trainer(
        4, ModelCheckpoint(tmp_path / "ckpt", save_last=True, monitor="val/loss", every_n_train_steps=2),
        enable_checkpointing=True, plugins=[io, AdapterPrecision(precision, "cpu")], val_check_interval=2,
    )  # fmt: skip
    module = make_module(case, folder, **arguments)
    trainer.fit(module, loader(folder, 4), loader(folder, 1))
    trainer.save_checkpoint(own)
    back = io.load_checkpoint(own)
    same(io.handed_over, back)
    assert set(back["state_dict"]) == {n for n, p in module.named_parameters() if p.requires_grad}
    assert back["global_step"] == 4
    assert sorted(own.iterdir()) == [own / TREE_FILE, tensors_of(own)]


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
    plugins = [IO, AdapterPrecision("32-true", "cpu")]
    trainer = make_trainer(-1, told, best, plugins=plugins, max_epochs=5, enable_checkpointing=True)
    trainer.fit(make_module(Case("bert", "lora"), folder), loader(folder, 2), loader(folder, 1))
    assert len(set(told.losses)) == 5
    sign, kept, last = 1 if mode == "min" else -1, [0], 0
    for epoch in range(1, 5):
        better = sorted([*kept, epoch], key=lambda e: sign * told.losses[e])[:count]
        last = epoch if epoch in better else last  # Lightning's last one is the last that was worth keeping
        kept = better
    found = {path.name: IO.load_checkpoint(path)["epoch"] for path in tmp_path.iterdir()}
    assert found == {"last.ckpt": last, **{f"epoch={epoch}.ckpt": epoch for epoch in kept}}


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "last.ckpt"
    IO.save_checkpoint({"state_dict": {"a": torch.arange(64.0)}, "epoch": 3}, path)
    return path


def tensors_of(path: Path) -> Path:
    return next(path.glob("tensors-*.safetensors"))


Spoil = Callable[[Path], Any]


def tensors(change: Callable[[bytes], bytes]) -> Spoil:
    return lambda saved: tensors_of(saved).write_bytes(change(tensors_of(saved).read_bytes()))


def text(content: str | bytes) -> Spoil:
    raw = content if isinstance(content, bytes) else content.encode()
    return lambda saved: (saved / TREE_FILE).write_bytes(raw)


def tree(**changes: Any) -> Spoil:
    """Change the JSON as somebody would who knows the format."""

    def spoil(saved: Path) -> None:
        header = {**json.loads((saved / TREE_FILE).read_text()), **changes}
        header["tree_sha256"] = sha256(json.dumps(header["tree"]).encode()).hexdigest()
        text(json.dumps(header))(saved)

    return spoil


def led_out(of_tensors: bool, by: Callable[[Path, Path], Any]) -> Spoil:
    """Put something else in a file's place that leads out of the folder, or never ends."""

    def spoil(saved: Path) -> None:
        file, elsewhere = tensors_of(saved) if of_tensors else saved / TREE_FILE, saved.parent / "elsewhere"
        file.rename(elsewhere)
        by(file, elsewhere)

    return spoil


def pipe(file: Path, elsewhere: Path) -> None:
    os.mkfifo(file)


def header_of_ten_gigabytes(saved: Path) -> None:
    content = (10 << 30).to_bytes(8, "little") + tensors_of(saved).read_bytes()[8:]
    digest = sha256(content).hexdigest()
    (saved / f"tensors-{digest[:16]}.safetensors").write_bytes(content)
    tree(tensors_sha256=digest)(saved)


def a_pickle(saved: Path) -> None:
    shutil.rmtree(saved)
    torch.save({"state_dict": {}}, saved)


def edited(saved: Path) -> None:
    content = (saved / TREE_FILE).read_text()
    assert '["epoch", 3]' in content
    text(content.replace('["epoch", 3]', '["epoch", 4]'))(saved)


FOREIGN = ("../../etc/passwd", "/etc/passwd", "", 5, None, "A" * 64)
FORMS = (5, [], {"dict": 3}, {"dict": [[{"dict": []}, 1]]}, {"float": "no"}, {"pickle": "x"}, {"dtype": "save"})
DAMAGES: list[tuple[Spoil, str]] = [
    *((tensors(lambda raw, at=at: raw[:at] + bytes([raw[at] ^ 1]) + raw[at:][1:]), "checksum") for at in (0, 30, -1)),
    (
        tensors(lambda raw: raw[:-8]),
        r"tensors-\w+\.safetensors: not what was written .checksum.; use another checkpoint",
    ),
    (lambda saved: tensors_of(saved).unlink(), r"holds no tensors-.*; use another checkpoint"),
    *(
        (gone, "no peftlit checkpoint")
        for gone in (lambda saved: (saved / TREE_FILE).unlink(), shutil.rmtree, a_pickle)
    ),
    *((text(raw), "checkpoint.json is damaged") for raw in ("", "{", "[]", "{}", '{"format_version": 1}', "null")),
    (text(b"\xff\xfe{}"), "damaged"),
    (text("[" * 100_000), "damaged"),
    (edited, "checksum"),
    (tree(format_version=99), "format 99, this peftlit reads 2"),
    *((tree(tensors_sha256=name), "damaged") for name in FOREIGN),
    *((tree(tree=form), "damaged|cannot read an entry") for form in FORMS),
    *((led_out(of_tensors, Path.symlink_to), "is a symbolic link") for of_tensors in (False, True)),
    *((led_out(of_tensors, pipe), "is neither a file nor a folder") for of_tensors in (False, True)),
    (lambda saved: os.truncate(saved / TREE_FILE, 10 << 30), "has 10,737,418,240 bytes, too many for a file"),
    (header_of_ten_gigabytes, r"damaged \(.*header"),
]


@pytest.mark.parametrize(("spoil", "said"), DAMAGES)
def test_what_is_damaged_or_leads_elsewhere_is_refused(spoil, said, saved):
    spoil(saved)
    with pytest.raises(CheckpointError, match=said):
        IO.load_checkpoint(saved)


def test_saving_again_replaces_and_leaves_nothing_beside(saved):
    IO.save_checkpoint({"epoch": 4}, saved)
    assert IO.load_checkpoint(saved) == {"epoch": 4}
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("epoch", "fsync", "said"),
    [
        (object(), os.fsync, "cannot store object"),
        (4, full, r"cannot be written \(.*No space left on device\); earlier checkpoints are whole"),
    ],
    ids=["pickle", "full disk"],
)
def test_a_save_that_fails_is_one_line_and_leaves_the_last_one(epoch, fsync, said, saved, monkeypatch):
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(CheckpointError, match=said):
        IO.save_checkpoint({"epoch": epoch}, saved)
    assert IO.load_checkpoint(saved)["epoch"] == 3
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_removing_one_removes_all_of_it_and_nothing_that_is_none(saved, tmp_path, caplog):
    other = tmp_path / "home"
    other.mkdir()
    for file in (saved / "notes.txt", other / "thesis.tex"):
        file.write_text("mine")
        IO.remove_checkpoint(file.parent)
        assert file.exists()
    assert is_checkpoint(saved)
    assert caplog.text.count("not deleted; it holds other things than a checkpoint") == 2
    (saved / "notes.txt").unlink()
    for _ in range(2):
        IO.remove_checkpoint(saved)
        assert not saved.exists()
