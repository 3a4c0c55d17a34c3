"""Files: written atomically, and checked before they are read where they come from untrusted folders."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from peftlit.errors import PeftlitError

RECORD_LIMIT = 16 << 20
"""Bytes of the largest JSON record that is parsed; its objects take some thirty times that."""

FILE_LIMIT = 64 << 20
"""Bytes of the largest file that another library may read whole; the largest vocabularies take half of it."""

WEIGHTS_SUFFIX = ".safetensors"
"""Files of this kind are mapped, not read whole, and may be of any size."""

_REFUSED = {number: os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)}


@contextmanager
def open_aside(path: Path) -> Iterator[TextIO]:
    """Open a text file that takes its name when it is complete, and is removed after an error."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.unlink(missing_ok=True)
        with aside.open("x", encoding="utf-8") as file:  # never through a link of that name
            yield file
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file aside, then rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_aside(path) as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write JSON aside, then rename it into place."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def check_folder(folder: Path, error: type[PeftlitError]) -> None:
    """Refuse what could lead a reader out of an untrusted folder, block it, or fill its memory.

    The folder itself may be a link, and so may the files of the hub's cache, which lie in ``blobs``.

    Raises:
        PeftlitError: Of class ``error``; for the first link, special file, or file too large to be read whole.
    """
    for parent, folders, files in os.walk(folder):
        for path in (Path(parent, name) for name in (*folders, *files)):
            if path.is_symlink() and not _in_hub_cache(path):
                raise error(f"{path}: is a symbolic link; put the file itself there if you trust it")
            found = path.stat()
            if stat.S_ISDIR(found.st_mode):
                continue
            if not stat.S_ISREG(found.st_mode):
                raise error(f"{path}: is neither a file nor a folder; remove it")
            if found.st_size > FILE_LIMIT and path.suffix != WEIGHTS_SUFFIX:
                raise error(
                    f"{path}: has {found.st_size:,} bytes, too many for a file that is read whole "
                    f"({FILE_LIMIT:,}); remove it if it does not belong there"
                )


def _in_hub_cache(link: Path) -> bool:
    """Tell whether a link is one that huggingface_hub makes: from ``snapshots/COMMIT`` to a file in ``blobs``."""
    target = Path(os.path.realpath(link))
    snapshots = [p for p in Path(os.path.realpath(link.parent)).parents if p.name == "snapshots"]
    return target.is_file() and any(target.parent == p.parent / "blobs" for p in snapshots)


def read_record(path: Path, error: type[PeftlitError]) -> dict[str, Any]:
    """Return the object that a JSON file of an untrusted folder holds.

    Raises:
        PeftlitError: Of class ``error``; the file is missing, too large, no JSON, or not an object.
    """
    if not path.is_file():
        raise error(f"{path.parent}: holds no {path.name}; copy the whole folder")
    size = path.stat().st_size
    if size > RECORD_LIMIT:
        raise error(f"{path}: has {size:,} bytes, too many for a record ({RECORD_LIMIT:,}); copy the folder again")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as cause:
        raise error(f"{path}: damaged ({cause}); copy the folder again") from cause
    if not isinstance(content, dict):
        raise error(f"{path}: holds a {type(content).__name__}, needs an object; copy the folder again")
    return content


def disk_problem(error: BaseException) -> str | None:
    """Say which file cannot be written to the disk, and what to do; None for any other error."""
    quoted = (words for words in _REFUSED.values() if f"I/O error: {words}" in str(error))  # by safetensors
    reason = _REFUSED.get(getattr(error, "errno", None) or 0) or next(quoted, None)
    if reason is None:
        return None
    file = getattr(error, "filename", None) or "a file of the run"
    return f"{file} cannot be written ({reason}); fix this, then resume with --ckpt_path last"
