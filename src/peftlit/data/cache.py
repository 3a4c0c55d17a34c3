"""Arrow files that rows are mapped from, a folder for each key in the cache of ``datasets``, and when they go.

Every process holds a lock while it lives, beside a list of the folders it uses; those are never removed.
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
from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

MAX_BYTES = 20 << 30
"""Beyond so many bytes, what was not used for the longest time is removed."""

MAX_AGE = 30 * 24 * 3600.0
"""What was not used for so many seconds is removed."""


def cache_file(key: list[Any]) -> Path:
    """Name the file of what is made from a key, which is JSON; other processes see that this one uses it."""
    name = sha256(json.dumps([_versions(), key]).encode()).hexdigest()
    return _this_process().use(name) / "rows.arrow"


def private_file() -> Path:
    """Name a new file that no other process looks for; it goes when this process ends."""
    process = _this_process()
    return process.use(process.name) / f"{uuid.uuid4().hex}.arrow"


def clean_cache() -> None:
    """Remove what was not used lately, beyond ``MAX_AGE`` or ``MAX_BYTES``; nothing in use. Once in a process."""
    process = _this_process()
    if process.has_cleaned:
        return
    process.has_cleaned = True
    removed = freed = 0
    with process.guard:
        used = _in_use(process)
        entries = sorted(_entries(process.folder))
        total = sum(size for _, size, _ in entries)
        for used_at, size, entry in entries:
            if entry.name not in used and (total > MAX_BYTES or used_at < time.time() - MAX_AGE):
                _remove(entry)
                removed, freed, total = removed + 1, freed + size, total - size
    if removed:
        log.info(
            "cache: removed %d sets of rows not used lately (%.1f MiB), %s", removed, freed / 2**20, process.folder
        )


class _Process:
    """What others see of this process: a lock that it holds, and the list of what it uses."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.name = f"process-{uuid.uuid4().hex}"
        self.has_cleaned = False
        self.guard = FileLock(folder / "cache.lock")
        self._list = folder / f"{self.name}.used"
        self._alive = FileLock(_lock_beside(self._list))
        with self.guard:
            self._alive.acquire()
            self._list.touch()
        atexit.register(self._end, os.getpid())

    def use(self, name: str) -> Path:
        """Return the folder of a name, which is now kept."""
        entry = self.folder / name
        with self.guard:
            with self._list.open("a") as file:
                file.write(f"{name}\n")
            entry.mkdir(exist_ok=True)
            os.utime(entry)
        return entry

    def _end(self, pid: int) -> None:
        if os.getpid() == pid:  # not in a forked child
            _remove(self.folder / self.name)
            self._list.unlink(missing_ok=True)
            self._alive.release()
            _lock_beside(self._list).unlink(missing_ok=True)


_processes: dict[Path, _Process] = {}


def _this_process() -> _Process:
    folder = Path(datasets.config.HF_DATASETS_CACHE, "peftlit")
    if folder not in _processes:
        _processes[folder] = _Process(folder)
    return _processes[folder]


def _lock_beside(file: Path) -> Path:
    return file.with_suffix(".alive")


def _in_use(process: _Process) -> set[str]:
    """Return the names in use; remove what is left of processes that were killed."""
    used = set(process.folder.joinpath(f"{process.name}.used").read_text().split())
    for listed in process.folder.glob("*.used"):
        if listed.stem == process.name:
            continue
        lock = _lock_beside(listed)
        try:
            with FileLock(lock, timeout=0):
                _remove(process.folder / listed.stem)
                listed.unlink(missing_ok=True)
            lock.unlink(missing_ok=True)
        except Timeout:
            with suppress(FileNotFoundError):  # it is just ending
                used |= set(listed.read_text().split())
    return used


def _entries(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """Yield when each entry was used last, its bytes, and where it is; files were entries of older versions."""
    for entry in folder.iterdir():
        if entry.is_dir() or entry.suffix == ".arrow":
            files = [*entry.iterdir()] if entry.is_dir() else [entry]
            yield entry.stat().st_mtime, sum(file.stat().st_size for file in files), entry


def _remove(entry: Path) -> None:
    if entry.is_file():
        entry.unlink()
    else:
        shutil.rmtree(entry, ignore_errors=True)


@cache
def _versions() -> list[str]:
    """Name the code that makes tokens of rows: ours by its text, which changes more often than its version."""
    code = sha256(b"".join(file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.py"))))
    return [code.hexdigest(), tokenizers.__version__, transformers.__version__]
