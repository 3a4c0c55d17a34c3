"""Arrow files that rows are mapped from, a folder for each key in the cache of ``datasets``.

The least recently used ones are removed. What a process has mapped stays readable when its file is gone.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import datasets
import tokenizers
import transformers

from peftlit.errors import DataError

log = logging.getLogger(__name__)

MAX_BYTES = 20 << 30
"""Beyond so many bytes, what was not used for the longest time is removed."""

MAX_AGE_S = 30 * 24 * 3600.0
"""What was not used for so many seconds is removed."""

MIN_AGE_S = 24 * 3600.0
"""What was used within so many seconds stays: its file may be named, but not yet mapped."""


_PRIVATE = "process-"
"""Names of folders whose process may still write into them."""


def cache_file(key: list[Any]) -> Path:
    """Name the file of what is made from a key.

    Args:
        key: All that the content depends on, as JSON; the versions of the code that makes it are added.
    """
    return _use(_folder() / sha256(json.dumps([_versions(), key]).encode()).hexdigest()) / "rows.arrow"


def private_file() -> Path:
    """Name a new file that no other process looks for; it is removed when this process ends."""
    return _use(_private_folder(_folder(), os.getpid())) / f"{uuid.uuid4().hex}.arrow"


def clean_cache() -> None:
    """Remove what was not used lately, beyond ``MAX_AGE_S`` or ``MAX_BYTES``; once in a process."""
    _clean(_folder(), os.getpid())


@cache
def _clean(folder: Path, pid: int) -> None:
    removed = freed = 0
    entries = sorted(_entries(folder))
    total = sum(size for _, size, _ in entries)
    for used_at, size, entry in entries:
        age, is_private = time.time() - used_at, entry.name.startswith(_PRIVATE)
        if age > MAX_AGE_S or (total > MAX_BYTES and age > MIN_AGE_S and not is_private):
            with suppress(OSError):  # another process has removed it, or its files are another user's
                if entry.stat().st_mtime != used_at:
                    continue  # it was used meanwhile
                entry.unlink() if entry.is_file() else shutil.rmtree(entry)
                removed, freed, total = removed + 1, freed + size, total - size
    if removed:
        log.info("cache: removed %d sets of rows not used lately (%.1f MiB), %s", removed, freed / 2**20, folder)


def _use(entry: Path) -> Path:
    """Make an entry if it is not there, and note that it is used now."""
    try:
        entry.mkdir(parents=True, exist_ok=True)
        os.utime(entry)
    except OSError as error:
        raise DataError(
            f"{entry.parent}: rows cannot be cached ({error.strerror}); set HF_DATASETS_CACHE to a folder that can be "
            "written"
        ) from error
    return entry


def _folder() -> Path:
    return Path(datasets.config.HF_DATASETS_CACHE, "peftlit")


@cache
def _private_folder(folder: Path, pid: int) -> Path:
    private = folder / f"{_PRIVATE}{uuid.uuid4().hex}"

    def remove() -> None:
        if os.getpid() == pid:  # not in a forked child; what a killed process leaves is clean_cache's
            shutil.rmtree(private, ignore_errors=True)

    atexit.register(remove)
    return private


def _entries(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """Yield when each entry was used last, its bytes, and where it is; files were entries of older versions."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        with suppress(OSError):  # other processes make and remove files meanwhile
            if entry.is_dir() or entry.suffix == ".arrow":
                files = [*entry.iterdir()] if entry.is_dir() else [entry]
                yield entry.stat().st_mtime, sum(file.stat().st_size for file in files), entry


@cache
def _versions() -> list[str]:
    """Name the code that makes tokens of rows: ours by its text, which changes more often than its version."""
    code = sha256(b"".join(file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.py"))))
    return [code.hexdigest(), tokenizers.__version__, transformers.__version__]
