"""Which run folder a command works on, and which checkpoint a fit resumes from."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from jsonargparse import Namespace

from peftlit import distributed
from peftlit.errors import ConfigError, RunFolderError
from peftlit.export.locate import find_export
from peftlit.run.folder import RunFolder, next_run_folder

log = logging.getLogger(__name__)

NO_RUN_DIR = "{} needs --run_dir RUN, the folder of a finished run"
RUN_DIR_VARIABLE = "PEFTLIT_RUN_DIR"
"""Tells the processes that Lightning launches which folder the first one chose."""


def select_run(command: str, settings: Namespace) -> RunFolder:
    """Choose the run folder, lock it for a fit that resumes, and replace ``ckpt_path: last`` by that file's path.

    Raises:
        PeftlitError: The folder or checkpoint does not fit the command.
    """
    chosen = settings.pop("run_dir", None) or os.environ.get(RUN_DIR_VARIABLE)
    if chosen is None and (settings.get("trainer.num_nodes", 1) > 1 or not distributed.is_rank_zero()):
        raise RunFolderError(
            f"{command}: several processes are started, and each would look for a folder of its own; name one: "
            "--run_dir RUN"
        )
    folder = RunFolder(Path(chosen) if chosen else next_run_folder(Path("runs")))
    folder.refuse_links()
    if command == "fit":
        _select_checkpoint(folder, settings)
        return folder
    if chosen is None:
        raise RunFolderError(NO_RUN_DIR.format(command))
    if settings.get("ckpt_path"):
        raise ConfigError(
            f"--ckpt_path {settings['ckpt_path']}: {command} scores RUN/adapter, not a checkpoint; leave it out"
        )
    find_export(folder.path)
    return folder


def is_requeued(folder: RunFolder) -> bool:
    """Tell whether SLURM has started this very command again, after a run of it used the folder."""
    return int(os.environ.get("SLURM_RESTART_COUNT", 0)) > 0 and folder.is_used


def _select_checkpoint(folder: RunFolder, settings: Namespace) -> None:
    folder.require_writable()
    requeued = is_requeued(folder)
    if settings.get("ckpt_path") is None and requeued:
        resumes = bool(folder.resumable_checkpoints())
        settings["ckpt_path"] = "last" if resumes else None
        how = "resuming from the last checkpoint of" if resumes else "no checkpoint yet, starting again in"
        log.info("job was requeued: %s %s", how, folder.path)
    if settings.get("ckpt_path") == "last":
        settings["ckpt_path"] = str(folder.last_checkpoint())
    if not folder.is_used or not distributed.is_rank_zero():
        return
    folder.lock()
    if not settings.get("ckpt_path") and (folder.adapter.exists() or not requeued):
        folder.unlock()
        raise RunFolderError(
            f"--run_dir {folder.path}: already holds a run; name another folder, or continue it with --ckpt_path last"
        )
