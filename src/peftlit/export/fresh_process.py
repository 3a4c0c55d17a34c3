"""Run a script in a fresh Python process, and say in one line how it failed."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peftlit.backbone.hardware import says_out_of_memory
from peftlit.errors import ReloadError, Stopped

_TIMEOUT_S = 1500.0
"""The other ranks wait half an hour at most."""


def run_in_fresh_process(script: str, arguments: list[str], cwd: Path) -> None:
    """Run a script to its end.

    Args:
        script: Python code.
        arguments: Its ``sys.argv[1:]``.
        cwd: Where it runs.

    Raises:
        ReloadError: It failed, was killed, or took too long.
    """
    try:
        command = [sys.executable, "-c", script, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise ReloadError(f"it did not answer within {_TIMEOUT_S:.0f} seconds") from error
    if done.returncode == 0:
        return
    raised = re.findall(r"^[\w.]*(?:Error|Exception): .*$", done.stderr, re.MULTILINE)
    reason = raised[-1] if raised else (done.stderr.strip().splitlines() or ["no message"])[-1]
    if done.returncode < 0:
        reason = f"ended by {signal.Signals(-done.returncode).name}"
    if done.returncode == -signal.SIGKILL or says_out_of_memory(reason):
        raise ReloadError(f"out of memory in the fresh process ({reason})")
    raise ReloadError(f"it cannot load what was exported: {reason}")


@contextmanager
def stopping_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM into an error, which ends the fresh process too."""

    def stop(number: int, frame: Any) -> None:
        raise Stopped("stopped by SIGTERM", number)

    if threading.current_thread() is not threading.main_thread():  # Python handles signals in the main thread alone
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
