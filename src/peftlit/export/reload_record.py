"""What an export says of its own reload check: ``reload_check.json``."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from peftlit.errors import RunFolderError
from peftlit.files import read_record, write_json

log = logging.getLogger(__name__)

RELOAD_CHECK_FILE = "reload_check.json"
NEVER_FINISHED = "it never finished"

_FOLDERS = re.compile(r"(?<![\w:/.])/(?:[^\s/'\"]+/)+")
"""The folders of an absolute path: an export names none of the machine that made it."""


def write_outcome(folder: Path, *, reason: str | None = None, difference: float | None = None) -> None:
    """Record whether the export answers in a fresh process as the trained model does.

    Args:
        folder: The exported folder.
        reason: Why the check failed; None where it passed.
        difference: The largest difference of a logit, where the check passed.
    """
    said = None if reason is None else _FOLDERS.sub("", reason)
    write_json(folder / RELOAD_CHECK_FILE, {"passed": reason is None, "reason": said, "difference": difference})


def warn_unless_passed(folder: Path) -> None:
    """Warn of an export whose reload check failed or never finished; earlier versions exported no such folders.

    Args:
        folder: The exported folder.

    Raises:
        RunFolderError: The record is damaged.
    """
    path = folder / RELOAD_CHECK_FILE
    if not path.is_file():
        return
    record = read_record(path, RunFolderError)
    if record.get("passed") is not True:
        log.warning("%s: its reload check did not pass: %s", folder, record.get("reason"))
