from __future__ import annotations

import os
from pathlib import Path

import pytest

from peftlit import files as foreign
from peftlit.errors import RunFolderError
from peftlit.files import check_folder, read_record


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """A download in the layout of the hub's cache."""
    folder = tmp_path / "models--a--b" / "snapshots" / ("0" * 40)
    blobs = tmp_path / "models--a--b" / "blobs"
    (folder / "sub").mkdir(parents=True)
    blobs.mkdir()
    for name, up in (("problem.json", "../.."), ("sub/config.json", "../../..")):
        (blobs / name.replace("/", "_")).write_text("{}")
        (folder / name).symlink_to(f"{up}/blobs/{name.replace('/', '_')}")
    return folder


def test_the_links_of_the_hubs_cache_are_followed(snapshot: Path) -> None:
    check_folder(snapshot, RunFolderError)
    assert read_record(snapshot / "problem.json", RunFolderError) == {}


def test_a_link_in_the_hubs_cache_to_elsewhere_is_refused(snapshot: Path) -> None:
    (snapshot / "x").symlink_to("/etc/passwd")
    with pytest.raises(RunFolderError, match="symbolic link"):
        check_folder(snapshot, RunFolderError)


def test_a_link_to_a_pipe_among_the_blobs_is_refused(snapshot: Path) -> None:
    os.mkfifo(snapshot.parents[1] / "blobs" / "pipe")
    (snapshot / "x").symlink_to("../../blobs/pipe")
    with pytest.raises(RunFolderError, match="symbolic link"):
        check_folder(snapshot, RunFolderError)


def test_a_link_to_a_large_blob_is_refused(snapshot: Path) -> None:
    os.truncate(snapshot.parents[1] / "blobs" / "problem.json", foreign.FILE_LIMIT + 1)
    with pytest.raises(RunFolderError, match="too many for a file"):
        check_folder(snapshot, RunFolderError)


def test_weights_may_be_of_any_size(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    os.truncate(tmp_path / "model.safetensors", foreign.FILE_LIMIT + 1)
    check_folder(tmp_path, RunFolderError)
