"""Run folders: numbers, use, the last checkpoint."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from peftlit.checkpoint.format import TREE_FILE, AdapterCheckpointIO
from peftlit.checkpoint.resume import RECORD
from peftlit.errors import CheckpointError, RunFolderError
from peftlit.run.folder import RunFolder, next_run_folder
from tests import fork_server


def test_numbers_go_on_after_the_highest(tmp_path: Path) -> None:
    assert next_run_folder(tmp_path / "runs") == tmp_path / "runs/001"
    for name in ("003", "012", "notes", "12b"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert next_run_folder(tmp_path / "runs") == tmp_path / "runs/013"


def test_a_folder_with_anything_of_a_run_is_used(tmp_path: Path) -> None:
    for name in ("config.yaml", "adapter", "checkpoints"):
        folder = RunFolder(tmp_path / f"run with {name}")
        assert not folder.is_used
        (folder.path / name).mkdir(parents=True)
        assert folder.is_used


def save(path: Path, step: int, number: int | None = None, **content: object) -> None:
    record = {} if number is None else {RECORD: {"number": number}}
    AdapterCheckpointIO().save_checkpoint({"global_step": step, "optimizer_states": [], **record, **content}, path)


def test_the_last_checkpoint_is_the_one_that_says_so_whenever_its_files_were_written(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(RunFolderError, match="holds no checkpoint to continue from"):
        folder.last_checkpoint()
    save(folder.checkpoints / "best-val/loss=0.693.ckpt", 100, 7)  # of a file name with {val/loss}
    save(folder.checkpoints / "stopped.ckpt", 100, 8)
    save(folder.checkpoints / "last.ckpt", 100, 6)
    save(folder.checkpoints / "epoch=9-step=90.ckpt", 90, 9)
    save(folder.checkpoints / ".half.ckpt.123", 110, 10)
    (folder.checkpoints / "epoch=11-step=110.ckpt").mkdir()  # a kill while it was deleted
    saved = [path.relative_to(folder.checkpoints).as_posix() for path in folder.resumable_checkpoints()]
    assert saved == ["epoch=9-step=90.ckpt", "last.ckpt", "best-val/loss=0.693.ckpt", "stopped.ckpt"]
    assert folder.last_checkpoint().name == "stopped.ckpt"


def test_the_last_checkpoint_of_an_older_version_is_that_of_the_last_step(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for step in (10, 9):
        save(folder.checkpoints / f"epoch=0-step={step}.ckpt", step)
    assert folder.last_checkpoint().name == "epoch=0-step=10.ckpt"


def test_weights_alone_are_not_the_last_checkpoint(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    weights = {"global_step": 20, "state_dict": {"head": torch.ones(3)}}
    AdapterCheckpointIO().save_checkpoint(weights, folder.checkpoints / "weights.ckpt")
    with pytest.raises(RunFolderError, match="no checkpoint to continue from .save_weights_only leaves out"):
        folder.last_checkpoint()
    save(folder.checkpoints / "whole.ckpt", 10, 1, state_dict={"head": torch.ones(3)})
    assert folder.last_checkpoint().name == "whole.ckpt"


def test_a_damaged_checkpoint_is_not_passed_over_for_an_earlier_one(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for step in (1, 2):
        save(folder.checkpoints / f"{step}.ckpt", step, step)
    (folder.checkpoints / "2.ckpt" / TREE_FILE).write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"2\.ckpt: checkpoint\.json is damaged"):
        folder.last_checkpoint()


@pytest.mark.slow
def test_two_processes_do_not_write_into_one_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.lock()
    folder.lock()
    code = f"""
from pathlib import Path
from peftlit.run import folder
folder._LOCK_TIMEOUT_S = 0.1
folder.RunFolder(Path({str(tmp_path)!r})).lock()
"""
    second = fork_server.run([sys.executable, "-c", code])
    assert "another process is writing into it; wait for it, or name another folder" in second.stderr
    folder.unlock()
    third = fork_server.run([sys.executable, "-c", code])
    assert third.returncode == 0, third.stderr


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_loaded(tmp_path: Path, monkeypatch) -> None:
    RunFolder(tmp_path / "new/run").require_writable()
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root may write everywhere
    with pytest.raises(RunFolderError, match="cannot be written; name another folder"):
        RunFolder(tmp_path / "new/run").require_writable()
