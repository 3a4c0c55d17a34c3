"""Run folders: numbers, use, the last checkpoint."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from peftlit.errors import RunFolderError
from peftlit.run.files import write_json, write_text
from peftlit.run.folder import RunFolder, next_run_folder


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
        os.utime(folder.checkpoints / name, (1000 - age, 1000 - age))
    assert folder.last_checkpoint().name == "epoch=9-step=90.ckpt"


def test_files_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_json(tmp_path / "new/a.json", {"name": "é", "value": [1, 2.5, None]})
    before = (tmp_path / "new/a.json").read_text(encoding="utf-8")
    assert '"é"' in before
    with pytest.raises(TypeError):
        write_json(tmp_path / "new/a.json", {"value": object()})
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "new/a.json", "\ud800")
    assert (tmp_path / "new/a.json").read_text(encoding="utf-8") == before
