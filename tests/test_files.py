from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from safetensors import SafetensorError

from peftlit.files import disk_problem, write_json, write_text


def test_nothing_is_written_through_a_link_that_lies_in_wait(tmp_path: Path) -> None:
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


FULL = "cannot be written (No space left on device); mend this, then go on with --ckpt_path last"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "run/metrics.json"), f"run/metrics.json {FULL}"),
        (
            SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
            f"a file of the run {FULL}",
        ),
        (OSError(errno.ENOENT, os.strerror(errno.ENOENT), "model"), None),
        (OSError(errno.EACCES, os.strerror(errno.EACCES), "model"), None),
        (SafetensorError("Error while deserializing header: header too large"), None),
        (RuntimeError("shapes do not match"), None),
    ],
)
def test_a_full_disk_is_told_from_other_errors(error, said) -> None:
    assert disk_problem(error) == said
