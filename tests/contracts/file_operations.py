"""See every operation that a process makes on the files of a folder, and end it at one of them."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peftlit.checkpoint import format as checkpoint_io

_PATHS_OF = {"os.mkdir": 1, "os.rename": 2, "os.remove": 1, "os.rmdir": 1, "shutil.rmtree": 1}
"""Audit events, and how many of their arguments are paths; each comes before what it tells of."""

_WRITTEN = 64
"""Bytes of a file that are written before its writing is cut off."""


def watch(folder: Path, log: Path, kill_at: int = 0) -> None:
    """Write down each operation before it is made; it can be undone by the end of the process only.

    The log, outside of the folder, gets lines of an operation (``create``, ``write``, ``fsync``, ``rename``, ``mkdir``,
    ``remove``, ``rmdir``, ``rmtree``) and its paths. The process is killed at the operation of number ``kill_at``:
    before it, or, for ``write``, in the midst of it, by the system's limit on the size of files; 0 = at none.
    """
    inside, descriptor = os.path.abspath(folder), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    seen = 0

    def note(operation: str, *paths: Any) -> None:
        nonlocal seen
        full = [os.path.abspath(os.fsdecode(path)) for path in paths]
        if not any(path.startswith(f"{inside}{os.sep}") for path in full) and inside not in full:
            return
        seen += 1
        os.write(descriptor, f"{' '.join([operation, *(os.path.relpath(path, inside) for path in full)])}\n".encode())
        if seen == kill_at and operation == "write":
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (_WRITTEN, resource.RLIM_INFINITY))
        elif seen == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _PATHS_OF:
            note(event.split(".")[1], *arguments[: _PATHS_OF[event]])
        elif event == "open" and isinstance(arguments[0], str) and "w" in str(arguments[1]):
            note("create", arguments[0])
            note("write", arguments[0])

    def seen_fsync(number: int) -> None:
        note("fsync", os.readlink(f"/proc/self/fd/{number}"))
        fsync(number)

    def seen_save_file(tensors: Any, path: Any) -> None:
        note("create", path)
        note("write", path)
        save_file(tensors, path)

    fsync, os.fsync = os.fsync, seen_fsync
    save_file, checkpoint_io.save_file = checkpoint_io.save_file, seen_save_file
    sys.addaudithook(hook)


def was_killed(code: int) -> bool:
    """Tell whether an exit code, negative for a signal, is that of a process that :func:`watch` has ended."""
    return code in (-signal.SIGKILL, -signal.SIGXFSZ)


def in_child(action: Callable[[], None]) -> int:
    """Do something in a process of its own and return its exit code, negative for a signal."""
    child = os.fork()
    if child == 0:
        try:
            action()
        except BaseException:
            os._exit(70)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
