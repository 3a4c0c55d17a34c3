"""Where a run lives: a fresh numbered folder, or the one that was named."""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock, Timeout

from peftlit.checkpoint.format import is_checkpoint, read_without_tensors
from peftlit.checkpoint.resume import RECORD
from peftlit.errors import RunFolderError
from peftlit.export.write import ADAPTER_FOLDER

CONFIG_FILE = "config.yaml"
PREDICTIONS_FILE = "predictions.csv"
MANIFEST_FILE = "split_manifest.json"
CHECKPOINT_FOLDER = "checkpoints"
LOCK_FILE = ".lock"

_SECONDS_TO_END = 10.0
"""Loader workers hold the lock too, and may outlive a process that was killed by five seconds."""


class RunFolder:
    """The paths inside one run.

    Args:
        path: The folder; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / CONFIG_FILE
        self.manifest = path / MANIFEST_FILE
        self.adapter = path / ADAPTER_FOLDER
        self.checkpoints = path / CHECKPOINT_FOLDER
        self._lock = FileLock(path / LOCK_FILE, is_singleton=True)  # this process may write here more than once

    def require_writable(self) -> None:
        """Make sure that files can be made here, as far as that is known before one is.

        Raises:
            RunFolderError: They cannot.
        """
        found = next(path for path in (self.path, *self.path.absolute().parents) if path.exists())
        if not os.access(found, os.W_OK):
            raise RunFolderError(f"--run_dir {self.path}: {found} cannot be written; name another folder")

    def lock(self) -> None:
        """Keep other processes from writing here until :meth:`unlock`, or this one's end, however it ends.

        Raises:
            RunFolderError: Another one is writing.
        """
        try:
            self._lock.acquire(timeout=_SECONDS_TO_END)
        except Timeout as error:
            raise RunFolderError(
                f"--run_dir {self.path}: another process is writing into it; wait for it, or name another folder"
            ) from error

    def unlock(self) -> None:
        """Let others write here."""
        self._lock.release(force=True)

    @property
    def is_used(self) -> bool:
        """Whether a run has written into the folder."""
        return self.config.exists() or self.adapter.exists() or self.checkpoints.exists()

    def refuse_links(self) -> None:
        """Make sure that what is written here goes nowhere else.

        Raises:
            RunFolderError: Naming what is neither a plain file nor a folder.
        """
        for path in self.path.iterdir() if self.path.is_dir() else []:
            if not path.is_dir() and (path.is_symlink() or not path.is_file()):
                raise RunFolderError(
                    f"{path}: is no plain file, and what is written to it could go elsewhere; remove it"
                )

    def last_checkpoint(self) -> Path:
        """Return the checkpoint that a run goes on from, the last one that holds more than weights.

        Raises:
            CheckpointError: One is damaged, and so may be the last.
            RunFolderError: There is none.
        """
        found = self.resumable_checkpoints()
        if not found:
            raise RunFolderError(
                f"--ckpt_path last: {self.checkpoints} holds no checkpoint to continue from (save_weights_only leaves "
                "out what that needs)"
            )
        return found[-1]

    def resumable_checkpoints(self) -> list[Path]:
        """Return the checkpoints that hold more than weights, in the order in which the run saved them.

        They say so themselves, by step and number; times of files do not survive a copy. A metric's name in a
        checkpoint's file name, as ``{val/loss}``, makes a folder.

        Raises:
            CheckpointError: One is damaged.
        """
        found = []
        for path in self.checkpoints.rglob("[!.]*.ckpt"):
            if is_checkpoint(path) and "optimizer_states" in (content := read_without_tensors(path)):
                number = content.get(RECORD, {}).get("number", 0)  # older versions numbered none
                found.append((content["global_step"], number, path))
        return [path for _, _, path in sorted(found)]


def next_run_folder(parent: Path) -> Path:
    """Name the next free numbered folder, such as ``runs/007``; it is not created.

    Args:
        parent: The folder of all runs.
    """
    numbers = [int(p.name) for p in parent.glob("[0-9]*") if p.name.isdigit()] if parent.is_dir() else []
    return parent / f"{max(numbers, default=0) + 1:03d}"
