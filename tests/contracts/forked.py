"""Run peftlit in forked processes: as real as any other process, without its seconds of imports."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

import peftlit.commands  # before any fork, so that no child has to
import peftlit.run.load  # noqa: F401
from peftlit.__main__ import main

LIMIT_S = 300.0


@dataclass
class Outcome:
    """How a process ended.

    Attributes:
        code: Its exit code; minus the signal's number where one ended it.
        said: Everything it wrote.
        seconds: How long it ran.
        outlived: Whether processes that it had started had to be killed after it.
    """

    code: int
    said: str
    seconds: float
    outlived: bool

    @property
    def last_line(self) -> str:
        """The last of what it wrote."""
        return (self.said.splitlines() or [""])[-1]

    @property
    def has_traceback(self) -> bool:
        """Whether a raw traceback was shown."""
        return "Traceback (most recent call last)" in self.said


def peftlit_in(
    folder: Path,
    *arguments: str,
    prepare: Callable[[], None] | None = None,
    watch: Callable[[int, float], int | None] | None = None,
    others_may_take: float = 0.0,
) -> Outcome:
    """Run one command line in a forked process group of its own.

    Args:
        folder: Where.
        arguments: The command line without the program's name.
        prepare: Called in the child first.
        watch: Called every few milliseconds with the child's id and its age in seconds; a signal that it returns is
            sent.
        others_may_take: Seconds in which the processes that it started may end after it, before they are killed.
    """
    started = time.monotonic()
    said = folder / "said.txt"
    child = os.fork()
    if child == 0:
        _be_the_child(folder, said, arguments, prepare)
    code: int | None = None
    while code is None:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            break
        age = time.monotonic() - started
        number = signal.SIGKILL if age > LIMIT_S else watch(child, age) if watch else None
        if number is not None:
            os.kill(child, number)
        time.sleep(0.002)
    seconds, outlived = time.monotonic() - started, False
    with suppress(ProcessLookupError):
        while time.monotonic() < started + seconds + others_may_take:
            os.killpg(child, 0)
            time.sleep(0.002)
        os.killpg(child, signal.SIGKILL)  # loader workers of a killed process
        outlived = True
    return Outcome(code, said.read_text(encoding="utf-8", errors="replace"), seconds, outlived)


def _be_the_child(folder: Path, said: Path, arguments: tuple[str, ...], prepare: Callable[[], None] | None) -> None:
    code = 70
    try:
        os.setsid()
        os.chdir(folder)
        output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        # threads of the parent's are not here, and what waits for them would wait for ever
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        torch.set_num_threads(1)
        sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
        if prepare is not None:
            prepare()
        code = main(arguments)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def kill_at(seconds: float) -> Callable[[int, float], int | None]:
    """Return a watch that kills once, at an age.

    Args:
        seconds: The age.
    """
    return lambda child, age: signal.SIGKILL if age >= seconds else None
