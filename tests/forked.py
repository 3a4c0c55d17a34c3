"""Run functions and command lines in forked processes: as real as any other, without their seconds of imports."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lightning.fabric.strategies.launchers import subprocess_script as fabric_launcher
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.strategies.launchers import subprocess_script as launcher

import peftlit.cli.commands  # before any fork, so that no child has to
import peftlit.export.load  # noqa: F401
from peftlit.__main__ import main
from tests.fork_server import become_a_process, leave_with

LIMIT_S = 300.0


@dataclass
class Outcome:
    """How a process ended."""

    code: int  # minus the signal's number where one ended it
    said: str
    seconds: float
    outlived: bool  # whether processes that it had started had to be killed after it

    @property
    def last_line(self) -> str:
        """The last of what it wrote."""
        return (self.said.splitlines() or [""])[-1]

    @property
    def has_traceback(self) -> bool:
        """Whether a raw traceback was shown."""
        return "Traceback (most recent call last)" in self.said


def peftlit_in(
    folder: Path, *arguments: str, prepare: Callable[[], None] | None = None, ranks: int = 1, **options: Any
) -> Outcome:
    """Run one command line; ``prepare`` is called in the child first, the rest is as in :func:`forked`."""

    def begin() -> int:
        sys.argv = ["peftlit", *arguments]
        if prepare is not None:
            prepare()
        return main(arguments)

    return forked(partial(on_ranks, begin) if ranks > 1 else begin, folder, **options)


def on_ranks(begin: Callable[[], Any]) -> Any:
    """Call a function whose Trainer has several ranks: each process that Lightning starts is a fork that calls it."""

    class Fork(subprocess.Popen):  # type: ignore[type-arg]
        def _execute_child(self, *arguments: Any) -> None:
            environment = next(argument for argument in arguments if isinstance(argument, dict))
            sys.stdout.flush()
            sys.stderr.flush()
            self.pid = os.fork()
            if self.pid == 0:
                os.environ.clear()
                os.environ.update(environment)
                rank_zero_only.rank = int(environment["LOCAL_RANK"])
                leave_with(begin)
            self._child_created = True

    for module in (fabric_launcher, launcher):
        module.subprocess = type("subprocess", (), {"Popen": Fork})
    return begin()


def forked(
    begin: Callable[[], Any],
    folder: Path,
    *,
    watch: Callable[[int, float], int | None] | None = None,
    others_may_take: float = 0.0,
) -> Outcome:
    """Call a function in a forked process group of its own, and end it with what the function returns.

    Args:
        begin: The function.
        folder: Where; what is written to the terminal goes to ``said.txt`` there.
        watch: Called every few milliseconds with the child's id and its age in seconds; a signal that it returns is
            sent.
        others_may_take: Seconds in which the processes that it started may end after it, before they are killed.
    """
    started = time.monotonic()
    said = folder / "said.txt"
    child = os.fork()
    if child == 0:
        output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.chdir(folder)
        # a seed that a test has left there would be set again by DDP, and give the head other weights
        os.environ.pop("PL_GLOBAL_SEED", None)
        become_a_process(output, output)
        leave_with(begin)
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


def kill_at(seconds: float) -> Callable[[int, float], int | None]:
    """Return a watch that kills at an age."""
    return lambda child, age: signal.SIGKILL if age >= seconds else None
