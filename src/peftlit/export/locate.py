"""Find an export: the folder that is named, or ``adapter/`` in a finished run."""

from __future__ import annotations

import difflib
from pathlib import Path

from peftlit.errors import RunFolderError
from peftlit.export.records import BACKBONE_FILE

ADAPTER_FOLDER = "adapter"
METRICS_FILE = "metrics.json"


def find_export(folder: Path) -> Path:
    """Return the exported folder.

    Args:
        folder: The exported folder itself, or the run's.

    Raises:
        RunFolderError: There is none; similar names are listed.
    """
    if (folder / BACKBONE_FILE).is_file():
        return folder
    if not folder.is_dir():
        siblings = [path.name for path in folder.parent.iterdir()] if folder.parent.is_dir() else []
        near = difflib.get_close_matches(folder.name, siblings, n=3, cutoff=0.4)
        hint = f"; there are {', '.join(near)}" if near else ""
        raise RunFolderError(f"--run_dir {folder}: no such folder{hint}")
    exported = folder / ADAPTER_FOLDER
    if not exported.is_dir() or not (folder / METRICS_FILE).is_file():
        raise RunFolderError(f"--run_dir {folder}: its fit did not finish (no {ADAPTER_FOLDER}/ with {METRICS_FILE})")
    if not (exported / BACKBONE_FILE).is_file():
        raise RunFolderError(f"{exported}: holds no {BACKBONE_FILE}; this is not a folder that peftlit exported")
    return exported
