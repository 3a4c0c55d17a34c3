"""A checkpoint as files: a folder with safetensors and JSON, written aside and renamed; nothing is pickled."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

from lightning.pytorch.plugins import CheckpointIO
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from peftlit.checkpoint.tensor_tree import join_tensors, split_tensors
from peftlit.digest import sha256_of_file
from peftlit.errors import CheckpointError, first_line
from peftlit.files import check_folder

log = logging.getLogger(__name__)

TREE_FILE = "checkpoint.json"
FORMAT_VERSION = 2

_TENSORS_FILE = re.compile(r"tensors-[0-9a-f]{16}\.safetensors")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class AdapterCheckpointIO(CheckpointIO):
    """Save what trains, the optimizer and the loops as ``tensors-<hash>.safetensors`` + ``checkpoint.json``.

    The JSON names the tensors by their hash, so that a checkpoint is replaced by the renaming of one file: at every
    instant a folder with a ``checkpoint.json`` is a whole checkpoint, the older one or the newer one.
    """

    def __init__(self) -> None:
        self._ahead: dict[Path, dict[str, Any]] = {}

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint folder; an older one of that name stays whole until the new one is.

        Raises:
            CheckpointError: Something in it cannot be stored without pickle, or the disk does not take it.
        """
        final = Path(path)
        aside = final.with_name(f".{final.name}.writing")
        tree, tensors = split_tensors(checkpoint)
        try:
            shutil.rmtree(aside, ignore_errors=True)  # of a run that was killed while it wrote
            _make_folder(final.parent)
            aside.mkdir()
            save_file(tensors, aside / "tensors")
            digest = sha256_of_file(aside / "tensors")
            header = {
                "format_version": FORMAT_VERSION,
                "tensors_sha256": digest,
                "tree_sha256": _tree_digest(tree),
                "tree": tree,
            }
            (aside / TREE_FILE).write_text(json.dumps(header), encoding="utf-8")
            (aside / "tensors").rename(aside / _tensors_name(digest))
            for file in aside.iterdir():
                _sync(file)
            _sync(aside)
            if final.exists():
                _replace(final, aside, _tensors_name(digest))
            else:
                aside.rename(final)
            _sync(final.parent)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(aside, ignore_errors=True)
            raise CheckpointError(
                f"{final}: cannot be written ({first_line(error)}); earlier checkpoints are whole: fix this, then "
                "resume with --ckpt_path last"
            ) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read and verify a checkpoint folder; its tensors are on the CPU.

        Raises:
            CheckpointError: It is missing, damaged, or of another format.
        """
        ahead = self._ahead.pop(Path(path), None)
        return ahead if ahead is not None else self._read(Path(path))

    def read_ahead(self, path: Path) -> dict[str, Any]:
        """Load a checkpoint before its time: when the Trainer loads it, it is not read and hashed once more."""
        self._ahead = {path: self._read(path)}
        return self._ahead[path]

    def _read(self, folder: Path) -> dict[str, Any]:
        header = _read_header(folder)
        tensors_file = folder / _tensors_name(header["tensors_sha256"])
        if not tensors_file.exists():
            raise CheckpointError(f"{folder}: holds no {tensors_file.name}; use another checkpoint")
        if sha256_of_file(tensors_file) != header["tensors_sha256"]:
            raise CheckpointError(f"{tensors_file}: not what was written (checksum); use another checkpoint")
        try:
            tensors = load_file(tensors_file)
        except (SafetensorError, ValueError) as error:
            raise CheckpointError(f"{folder}: damaged ({first_line(error)}); use another checkpoint") from error
        return _join(folder, header, tensors)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a checkpoint folder, and nothing that is not one."""
        folder = Path(path)
        if not folder.is_dir():
            return
        files = list(folder.iterdir())
        if not is_checkpoint(folder) or not all(f.name == TREE_FILE or _TENSORS_FILE.fullmatch(f.name) for f in files):
            log.warning("%s: not deleted; it holds other things than a checkpoint", folder)
            return
        (folder / TREE_FILE).unlink()  # without it, what a kill leaves here is no checkpoint
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


def is_checkpoint(folder: Path) -> bool:
    """Tell whether a whole checkpoint was written here; reading it tells whether it is still good."""
    return (folder / TREE_FILE).is_file()


def read_without_tensors(folder: Path) -> dict[str, Any]:
    """Read a checkpoint with None in place of its tensors, which are neither read nor verified.

    Raises:
        CheckpointError: It is missing, damaged, or of another format.
    """
    return _join(folder, _read_header(folder), None)


def _join(folder: Path, header: dict[str, Any], tensors: dict[str, Any] | None) -> dict[str, Any]:
    try:
        checkpoint = join_tensors(header["tree"], tensors)
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{folder}: damaged ({first_line(error)}); use another checkpoint") from error
    if not isinstance(checkpoint, dict):
        raise _damaged_tree(folder)
    return checkpoint


def _make_folder(folder: Path) -> None:
    """Make a folder and its parents, and sync each parent, so that all of them survive a crash."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        _sync(path.parent)


def _replace(final: Path, aside: Path, tensors_name: str) -> None:
    """Replace a checkpoint: one rename switches from the old one to the new one."""
    (aside / tensors_name).replace(final / tensors_name)
    _sync(final)
    (aside / TREE_FILE).replace(final / TREE_FILE)
    _sync(final)
    for file in final.iterdir():
        if _TENSORS_FILE.fullmatch(file.name) and file.name != tensors_name:
            file.unlink()
    aside.rmdir()


def _read_header(folder: Path) -> dict[str, Any]:
    file = folder / TREE_FILE
    if not file.exists():
        raise CheckpointError(f"{folder}: no peftlit checkpoint (needs {TREE_FILE})")
    check_folder(folder, CheckpointError)
    try:
        header: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        version, digest, tree_digest = header["format_version"], header["tensors_sha256"], header["tree_sha256"]
        tree = header["tree"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged_tree(folder) from error
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{folder}: written in format {version}, this peftlit reads {FORMAT_VERSION}")
    if _tree_digest(tree) != tree_digest:
        raise CheckpointError(f"{file}: not what was written (checksum); use another checkpoint")
    if not (isinstance(digest, str) and _DIGEST.fullmatch(digest)):
        raise _damaged_tree(folder)
    return header


def _damaged_tree(folder: Path) -> CheckpointError:
    return CheckpointError(f"{folder}: {TREE_FILE} is damaged; use another checkpoint")


def _tensors_name(digest: str) -> str:
    return f"tensors-{digest[:16]}.safetensors"


def _tree_digest(tree: Any) -> str:
    return sha256(json.dumps(tree).encode()).hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
