"""A disk that is full is told from other errors."""

from __future__ import annotations

import errno
import os

import pytest
from safetensors import SafetensorError

from peftlit.errors import RunFolderError
from peftlit.files import disk_problem
from peftlit.run.folder import RunFolder

FULL = "cannot be written (No space left on device); fix this, then resume with --ckpt_path last"


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
def test_what_is_said(error, said) -> None:
    assert disk_problem(error) == said


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_loaded(tmp_path, monkeypatch) -> None:
    RunFolder(tmp_path / "new/run").require_writable()
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root may write everywhere
    with pytest.raises(RunFolderError, match="cannot be written; name another folder"):
        RunFolder(tmp_path / "new/run").require_writable()
