"""The run folder: its paths, its lock, its ``metrics.json``, its checkpoints, and the next free number."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from peftlit.checkpoint.format import is_checkpoint, read_without_tensors
from peftlit.checkpoint.resume import RECORD
from peftlit.errors import RunFolderError
from peftlit.export.locate import ADAPTER_FOLDER, METRICS_FILE
from peftlit.files import read_record, write_json

_LOCK_TIMEOUT_S = 10.0
"""Loader workers hold the lock too, and may outlive a killed process by five seconds."""


class RunFolder:
    """The folder of one run.

    Args:
        path: The folder; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.manifest = path / "split_manifest.json"
        self.metrics = path / METRICS_FILE
        self.predictions = path / "predictions.csv"
        self.adapter = path / ADAPTER_FOLDER
        self.checkpoints = path / "checkpoints"
        self._lock = FileLock(path / ".lock", is_singleton=True)  # this process may write here more than once

    def require_writable(self) -> None:
        """Refuse a place that is known not to be writable."""
        found = next(path for path in (self.path, *self.path.absolute().parents) if path.exists())
        if not os.access(found, os.W_OK):
            raise RunFolderError(f"--run_dir {self.path}: {found} cannot be written; name another folder")

    def lock(self) -> None:
        """Keep other processes from writing here until :meth:`unlock`, or the end of this process."""
        try:
            self._lock.acquire(timeout=_LOCK_TIMEOUT_S)
        except Timeout as error:
            raise RunFolderError(
                f"--run_dir {self.path}: another process is writing into it; wait for it, or name another folder"
            ) from error

    def unlock(self) -> None:
        """Let other processes write here."""
        self._lock.release(force=True)

    @property
    def is_used(self) -> bool:
        """Whether a run has written into the folder."""
        return self.config.exists() or self.adapter.exists() or self.checkpoints.exists()

    def refuse_links(self) -> None:
        """Refuse a folder from which a write could go elsewhere."""
        for path in self.path.iterdir() if self.path.is_dir() else []:
            if not path.is_dir() and (path.is_symlink() or not path.is_file()):
                raise RunFolderError(
                    f"{path}: is no plain file, and what is written to it could go elsewhere; remove it"
                )

    def read_metrics(self) -> dict[str, Any]:
        """Return what ``metrics.json`` holds; nothing where there is none."""
        return read_record(self.metrics, RunFolderError) if self.metrics.is_file() else {}

    def update_metrics(self, entries: dict[str, Any]) -> None:
        """Set entries of ``metrics.json`` and keep the others."""
        write_json(self.metrics, {**self.read_metrics(), **entries})

    def last_checkpoint(self) -> Path:
        """Return the checkpoint to resume from; raise a RunFolderError if there is none."""
        found = self.resumable_checkpoints()
        if not found:
            raise RunFolderError(
                f"--ckpt_path last: {self.checkpoints} holds no checkpoint to continue from (save_weights_only leaves "
                "out what that needs)"
            )
        return found[-1]

    def resumable_checkpoints(self) -> list[Path]:
        """Return the checkpoints that hold more than weights, in the order in which they were saved.

        The order is that of the step and number in their content: file times do not survive a copy. They may be in
        subfolders, which a metric's name in the file name, as ``{val/loss}``, makes.

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
    """Name the next free numbered folder, such as ``runs/007``, without creating it."""
    numbers = [int(p.name) for p in parent.glob("[0-9]*") if p.name.isdigit()] if parent.is_dir() else []
    return parent / f"{max(numbers, default=0) + 1:03d}"
