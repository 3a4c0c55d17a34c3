from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from safetensors import SafetensorError

from peftlit.errors import RunFolderError
from peftlit.files import FILE_LIMIT, check_folder, disk_problem, read_record, write_json, write_text


def test_nothing_is_written_through_a_link_of_the_temporary_name(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("kept")
    (tmp_path / f".metrics.json.{os.getpid()}").symlink_to(victim)
    write_text(tmp_path / "metrics.json", "new")
    assert victim.read_text() == "kept"
    assert (tmp_path / "metrics.json").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.json", "victim"]


def test_files_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_json(tmp_path / "new/a.json", {"name": "é", "value": [1, 2.5, None]})
    before = (tmp_path / "new/a.json").read_text(encoding="utf-8")
    assert '"é"' in before
    with pytest.raises(TypeError):
        write_json(tmp_path / "new/a.json", {"value": object()})
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "new/a.json", "\ud800")
    assert (tmp_path / "new/a.json").read_text(encoding="utf-8") == before


FULL = "cannot be written (No space left on device); fix this, then resume with --ckpt_path last"
FULL_BY_SAFETENSORS = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "run/metrics.json"), f"run/metrics.json {FULL}"),
        (FULL_BY_SAFETENSORS, f"a file of the run {FULL}"),
        (OSError(errno.ENOENT, os.strerror(errno.ENOENT), "model"), None),
        (OSError(errno.EACCES, os.strerror(errno.EACCES), "model"), None),
        (SafetensorError("Error while deserializing header: header too large"), None),
        (RuntimeError("shapes do not match"), None),
    ],
)
def test_a_full_disk_is_told_from_other_errors(error, said) -> None:
    assert disk_problem(error) == said


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


def test_links_of_the_hubs_cache_are_followed(snapshot: Path) -> None:
    check_folder(snapshot, RunFolderError)
    assert read_record(snapshot / "problem.json", RunFolderError) == {}


@pytest.mark.parametrize("target", ["/etc/passwd", "../../blobs/pipe"])
def test_other_links_in_the_hubs_cache_are_refused(snapshot: Path, target: str) -> None:
    os.mkfifo(snapshot.parents[1] / "blobs" / "pipe")
    (snapshot / "x").symlink_to(target)
    with pytest.raises(RunFolderError, match="symbolic link"):
        check_folder(snapshot, RunFolderError)


def test_only_weights_may_be_of_any_size(snapshot: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights" / "model.safetensors"
    weights.parent.mkdir()
    for file in (weights, snapshot.parents[1] / "blobs" / "problem.json"):
        file.touch()
        os.truncate(file, FILE_LIMIT + 1)
    check_folder(weights.parent, RunFolderError)
    with pytest.raises(RunFolderError, match="too many for a file"):
        check_folder(snapshot, RunFolderError)
