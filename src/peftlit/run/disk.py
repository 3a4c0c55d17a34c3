"""A disk that is full or cannot be written, told from what else may go wrong with files."""

from __future__ import annotations

import errno
import os

_REFUSED = {number: os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)}


def disk_problem(error: BaseException) -> str | None:
    """Say which file the disk does not take, and what to do; None where an error is about something else.

    Args:
        error: Python's error, or that of safetensors, which has the system's words in its text.
    """
    if isinstance(error, OSError) and error.errno in _REFUSED:
        what, reason = error.filename, _REFUSED[error.errno]
    else:
        what, reason = None, next((words for words in _REFUSED.values() if f"I/O error: {words}" in str(error)), "")
    if not reason:
        return None
    return f"{what or 'a file of the run'} cannot be written ({reason}); mend this, then go on with --ckpt_path last"
