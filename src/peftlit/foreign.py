"""Files that may come from a stranger: plain ones inside the folder, of a size that can be read."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.peft_utils import find_adapter_config_file

from peftlit.errors import BackboneError, PeftlitError

RECORD_LIMIT = 16 << 20
"""Bytes of the largest JSON record that is parsed; the objects made of it take some thirty times that."""

FILE_LIMIT = 64 << 20
"""Bytes of the largest file that another library may read whole; the largest vocabularies take half of it."""

WEIGHTS_SUFFIX = ".safetensors"
"""Files of this kind are mapped, not read whole, and may be of any size."""


def check_folder(folder: Path, error: type[PeftlitError]) -> None:
    """Refuse what could lead a reader out of a folder, block it, or fill its memory.

    Links are refused, but for those of the hub's own cache, which keeps a download's files in ``blobs``.

    Args:
        folder: The folder; it may be a link itself.
        error: The class of error to raise.

    Raises:
        PeftlitError: Naming the first link, special file, or file too large to be read whole.
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
    """Return the object that a JSON file holds.

    Args:
        path: The file.
        error: The class of error to raise.

    Raises:
        PeftlitError: It is not there, too large, no JSON, or not an object.
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


def check_base(location: str, revision: str | None) -> None:
    """Refuse what transformers would follow from a base model to pickles, or to another model.

    Args:
        location: A folder or a hub id.
        revision: Commit of a hub id.

    Raises:
        BackboneError: It is an adapter, or its weights are not safetensors.
    """
    if find_adapter_config_file(location, revision=revision) is not None:
        raise BackboneError(f"backbone: {location} is an adapter; name the model that it belongs to")
    folder = Path(location)
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    if not folder.is_dir() or (folder / SAFE_WEIGHTS_NAME).is_file():
        return
    if not index.is_file():
        raise BackboneError(
            f"backbone: {folder} holds no {SAFE_WEIGHTS_NAME}; weights in another format are pickles, which can run "
            "code: save them with save_pretrained of a recent transformers"
        )
    parts = read_record(index, BackboneError).get("weight_map")
    names = list(parts.values()) if isinstance(parts, dict) else [None]
    if not all(isinstance(n, str) and Path(n).name == n and n.endswith(WEIGHTS_SUFFIX) for n in names):
        raise BackboneError(f"backbone: {index} names other files than safetensors beside it; do not use it")
