"""A full disk and a folder that cannot be written: real file systems, mounted in a namespace of this command's own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

from tests.contracts import toy_runs as toy
from tests.contracts.file_operations import watch
from tests.forked import peftlit_in

from tools.faults.stage import Stage, Tried, files

_NAMESPACE = "PEFTLIT_FAULTS_MOUNTS"
_AFTER_TWO_SAVES = 30


def enter_namespace() -> None:
    """Start this command again where it may mount, if the system lets it; mounts end with it."""
    command = ["unshare", "--user", "--map-root-user", "--mount"]
    if _NAMESPACE in os.environ or shutil.which(command[0]) is None:
        return
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
        os.environ[_NAMESPACE] = "1"
        os.execvp(command[0], [*command, sys.executable, "-m", "tools.faults", *sys.argv[1:]])


def can_mount() -> bool:
    """Tell whether this process may mount."""
    return _NAMESPACE in os.environ


def _mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", folder], check=True)


def _begun(stage: Stage, kind: str, tried: Tried) -> Path:
    """Return the folder of a run that was killed after two saves."""
    folder = stage.fresh(tried.fault, kind)
    stage.attempt(folder, prepare=partial(watch, Path("run/checkpoints"), folder / "log.txt", _AFTER_TWO_SAVES))
    return folder


def full(stage: Stage, kind: str) -> Tried:
    """Go on where the disk has room for one more checkpoint and a half.

    Args:
        stage: The stage.
        kind: Name of the kind of run.
    """
    tried = Tried(f"disk full while saving (small tmpfs): {kind}")
    folder = _begun(stage, kind, tried)
    checkpoints, aside = folder / "run/checkpoints", folder / "aside"
    size = sum(map(len, files(checkpoints).values()))
    checkpoints.rename(aside)
    checkpoints.mkdir()
    _mount("-t", "tmpfs", "-o", f"size={int(size * 1.6) // 1024}k", "tmpfs", checkpoints)
    shutil.copytree(aside, checkpoints, dirs_exist_ok=True)
    stage.expect_one_line(stage.attempt(folder), "No space left on device", tried)
    stage.expect_one_line(stage.attempt(folder), "No space left on device", tried)
    _mount("-o", "remount,size=64m", "tmpfs", checkpoints)
    stage.finish(folder, kind, tried)
    _unmount(checkpoints)
    tried.came += "; with room again, the same result"
    return tried


def read_only(stage: Stage, kind: str) -> Tried:
    """Go on where checkpoints cannot be written, then begin where nothing can.

    Args:
        stage: The stage.
        kind: Name of the kind of run.
    """
    tried = Tried(f"read-only folder: {kind}")
    folder = _begun(stage, kind, tried)
    checkpoints, shut = folder / "run/checkpoints", folder / "shut"
    _mount("--bind", checkpoints, checkpoints)
    _mount("-o", "remount,ro,bind", checkpoints)
    before = files(checkpoints)
    stage.expect_one_line(stage.attempt(folder), "Read-only file system", tried)
    if files(checkpoints) != before:
        tried.wrong.append("files changed")
    _mount("-o", "remount,rw,bind", checkpoints)
    shut.mkdir()
    _mount("--bind", shut, shut)
    _mount("-o", "remount,ro,bind", shut)
    stage.expect_one_line(peftlit_in(folder, *toy.FIT[:-1], "--run_dir=shut/run"), "cannot be written", tried)
    stage.finish(folder, kind, tried)
    _unmount(checkpoints)
    _unmount(shut)
    tried.came += "; writable again, the same result"
    return tried
