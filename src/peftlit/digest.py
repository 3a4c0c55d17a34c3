"""SHA-256 of files and tensors, which names weights, adapters and splits."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from torch import Tensor
from transformers.utils import CONFIG_NAME

_CHUNK = 1 << 20
_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def sha256_of_file(path: Path) -> str:
    """Return the hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return one hex digest over names, shapes, dtypes and values, whatever the order or device."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}|".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def weights_sha256(location: str | None, commit: str | None) -> str | None:
    """Return one digest of the weights in a folder or of a hub id; None for random ones, and where none are cached."""
    folder = _folder(location, commit)
    if folder is None:
        return None
    files = [file for file in sorted(folder.glob("*.safetensors")) if _WEIGHTS.fullmatch(file.name)]
    lines = [f"{file.name} {_file_sha256(file)}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest() if files else None


def config_sha256(location: str | None, commit: str | None) -> str | None:
    """Return the digest of a model's ``config.json``; see :func:`weights_sha256`."""
    folder = _folder(location, commit)
    return None if folder is None else sha256_of_file(folder / CONFIG_NAME)


def commit_of(location: str | None, revision: str | None) -> str | None:
    """Return the commit of a hub model's cached files; the revision itself for a folder, and where none are cached."""
    folder = _folder(location, revision)
    return revision if folder is None or folder == Path(location or "") else folder.name  # snapshots/COMMIT


def _folder(location: str | None, commit: str | None) -> Path | None:
    """Return where a model's files are; None for random weights, and where the hub's cache has no files."""
    if location is None or Path(location).is_dir():
        return None if location is None else Path(location)
    try:
        return Path(snapshot_download(location, revision=commit, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _file_sha256(file: Path) -> str:
    """Return a file's digest; the hub's cache names large files by theirs."""
    name, state = file.resolve().name, file.stat()
    return name if _SHA256.fullmatch(name) else _hashed_once(file, state.st_size, state.st_mtime_ns)


@lru_cache
def _hashed_once(file: Path, size: int, mtime_ns: int) -> str:
    return sha256_of_file(file)
