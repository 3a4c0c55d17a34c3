"""Run folders: numbers, use, the last checkpoint."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from peftlit.errors import RunFolderError
from peftlit.plugins.checkpoint_io import TREE_FILE
from peftlit.run.files import write_json, write_text
from peftlit.run.folder import RunFolder, next_run_folder
from tests import fork_server


def test_numbers_go_on_after_the_highest(tmp_path: Path) -> None:
    assert next_run_folder(tmp_path / "runs") == tmp_path / "runs/001"
    for name in ("003", "012", "notes", "12b"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert next_run_folder(tmp_path / "runs") == tmp_path / "runs/013"


@pytest.mark.parametrize("name", ["config.yaml", "adapter", "checkpoints"])
def test_a_folder_with_anything_of_a_run_is_used(name: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert not folder.is_used
    (tmp_path / name).mkdir()
    assert folder.is_used


def test_the_last_checkpoint_is_the_one_written_last(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(RunFolderError, match="holds no checkpoint to continue from"):
        folder.last_checkpoint()
    for age, name in enumerate((".half.ckpt.123", "epoch=9-step=90.ckpt", "epoch=10-step=100.ckpt", "last.ckpt")):
        (folder.checkpoints / name).mkdir(parents=True)
        (folder.checkpoints / name / TREE_FILE).touch()
        os.utime(folder.checkpoints / name / TREE_FILE, (1000 - age, 1000 - age))
    (folder.checkpoints / "epoch=11-step=110.ckpt").mkdir()  # a kill while it was deleted
    assert folder.last_checkpoint().name == "epoch=9-step=90.ckpt"
    nested = folder.checkpoints / "best-val/loss=0.693.ckpt"  # of a file name with {val/loss}
    nested.mkdir(parents=True)
    (nested / TREE_FILE).touch()
    assert folder.last_checkpoint() == nested


@pytest.mark.slow
def test_two_processes_do_not_write_into_one_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.lock()
    folder.lock()
    code = f"""
from pathlib import Path
from peftlit.run import folder
folder._SECONDS_TO_END = 0.1
folder.RunFolder(Path({str(tmp_path)!r})).lock()
"""
    second = fork_server.run([sys.executable, "-c", code])
    assert "another process is writing into it; wait for it, or name another folder" in second.stderr
    folder.unlock()
    third = fork_server.run([sys.executable, "-c", code])
    assert third.returncode == 0, third.stderr


def test_files_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_json(tmp_path / "new/a.json", {"name": "é", "value": [1, 2.5, None]})
    before = (tmp_path / "new/a.json").read_text(encoding="utf-8")
    assert '"é"' in before
    with pytest.raises(TypeError):
        write_json(tmp_path / "new/a.json", {"value": object()})
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "new/a.json", "\ud800")
    assert (tmp_path / "new/a.json").read_text(encoding="utf-8") == before
