"""The checkpoint format: a folder with safetensors and JSON, written aside and renamed; nothing is pickled."""

from __future__ import annotations

import json
import os
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

from lightning.pytorch.plugins import CheckpointIO
from safetensors.torch import load_file, save_file
from torch import Tensor

from peftlit.digest import sha256_of_file
from peftlit.errors import CheckpointError
from peftlit.plugins.tensor_tree import join_tensors, split_tensors

TENSORS_FILE = "tensors.safetensors"
TREE_FILE = "checkpoint.json"
FORMAT_VERSION = 1


class AdapterCheckpointIO(CheckpointIO):
    """Save what trains, the optimizer and the loops as ``tensors.safetensors`` + ``checkpoint.json``."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint folder; the final name appears only when all of it is on disk.

        Args:
            checkpoint: What Lightning hands over.
            path: The folder.
            storage_options: Not used.

        Raises:
            CheckpointError: Something in it cannot be stored without pickle.
        """
        final = Path(path)
        tree, tensors = split_tensors(checkpoint)
        aside = final.with_name(f".{final.name}.{os.getpid()}")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        save_file(tensors, aside / TENSORS_FILE)
        header = {
            "format_version": FORMAT_VERSION,
            "tensors_sha256": sha256_of_file(aside / TENSORS_FILE),
            "tree_sha256": _tree_digest(tree),
            "tree": tree,
        }
        (aside / TREE_FILE).write_text(json.dumps(header), encoding="utf-8")
        for name in (TENSORS_FILE, TREE_FILE):
            _sync(aside / name)
        _sync(aside)
        if final.exists():
            previous = _previous(final)
            shutil.rmtree(previous, ignore_errors=True)
            final.rename(previous)
            aside.rename(final)
            shutil.rmtree(previous)
        else:
            aside.rename(final)
        _sync(final.parent)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint folder.

        Args:
            path: The folder.
            map_location: Not used; Lightning moves tensors where they belong.
            weights_only: Not used; nothing else than values can be in one.

        Raises:
            CheckpointError: It is missing, damaged, or of another format.
        """
        tree, tensors = read_checkpoint(Path(path))
        checkpoint: dict[str, Any] = join_tensors(tree, tensors)
        return checkpoint

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a checkpoint folder.

        Args:
            path: The folder.
        """
        shutil.rmtree(path, ignore_errors=True)


def read_checkpoint(path: Path) -> tuple[Any, dict[str, Tensor]]:
    """Read and verify the two files of a checkpoint.

    Args:
        path: The folder.

    Raises:
        CheckpointError: It is missing, damaged, or of another format.
    """
    if not path.exists() and _previous(path).exists():
        path = _previous(path)  # a kill between the two renames of an overwrite left the older one there
    if not (path / TREE_FILE).is_file() or not (path / TENSORS_FILE).is_file():
        raise CheckpointError(f"{path}: no peftlit checkpoint (needs {TREE_FILE} and {TENSORS_FILE})")
    try:
        header = json.loads((path / TREE_FILE).read_text(encoding="utf-8"))
        version, digest, tree = header["format_version"], header["tensors_sha256"], header["tree"]
        tree_digest = header["tree_sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: {TREE_FILE} is damaged; use another checkpoint") from error
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{path}: written in format {version}, this peftlit reads {FORMAT_VERSION}")
    if _tree_digest(tree) != tree_digest:
        raise CheckpointError(f"{path}: {TREE_FILE} is not what was written (checksum); use another checkpoint")
    if sha256_of_file(path / TENSORS_FILE) != digest:
        raise CheckpointError(f"{path}: {TENSORS_FILE} is not what was written (checksum); use another checkpoint")
    return tree, load_file(path / TENSORS_FILE)


def _tree_digest(tree: Any) -> str:
    return sha256(json.dumps(tree).encode()).hexdigest()


def _previous(path: Path) -> Path:
    return path.with_name(f".{path.name}.previous")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
