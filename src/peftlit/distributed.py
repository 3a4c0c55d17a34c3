"""The processes of one run: the first one speaks for all, and all of them end when one fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from peftlit.errors import ProcessError, ReloadError, Stopped

_RANK_VARIABLES = (
    *("LOCAL_RANK", "NODE_RANK", "GROUP_RANK"),  # Lightning's own launcher, or a user who starts each process
    *("SLURM_PROCID", "JSM_NAMESPACE_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK"),  # srun, jsrun, mpirun
)
"""What Lightning's cluster environments read where there is no RANK: all that are set are 0 on global rank 0 alone."""

_FIRST_VARIABLE = "PEFTLIT_FIRST_PROCESS"
"""Tells the processes that Lightning starts who started them, ``PID:FOLDER``: the one that fails first claims it."""

_CLAIM = "failed_first"

_MARKS_OF_LOST_TOUCH = ("third_party/gloo", "NCCL", "TCPStore")
"""In the messages of torch's collectives, where they raise plain RuntimeErrors when another process has gone."""

_TOLD_TO_ALL = (Stopped, ReloadError, KeyboardInterrupt)
"""What ends all processes alike; the first one speaks of it."""

_SECONDS_BETWEEN_LOOKS = 0.1
_SECONDS_TO_NOTICE = 5.0
"""How long a process may take to find out by itself that another one has ended, and why."""

_SECONDS_TO_END = 30.0
"""How long a process that failed may take to say why and to end."""


def is_rank_zero() -> bool:
    """Tell whether this process is global rank 0, or the only one, before Lightning is imported."""
    names = ("RANK",) if "RANK" in os.environ else _RANK_VARIABLES
    return all(int(os.environ.get(name, 0)) == 0 for name in names)


def leave_interrupts_to_the_first() -> None:
    """Ignore Ctrl-C, which a terminal sends to all processes of a run, in those that the first one has started."""
    if _FIRST_VARIABLE in os.environ:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def ending_together(launcher: Any) -> Iterator[None]:
    """End every process of a run when one of them fails, and let one say why.

    The others, who waited for it, fail with errors that only follow from the first: they end without a word. Whoever
    is killed leaves no word; then another process says so. Processes that were started from outside (torchrun, srun)
    are ended from there.

    Args:
        launcher: Lightning's, which starts the other processes; None where there are none.

    Raises:
        ProcessError: Another process was killed.
        SystemExit: Another process failed, and said why; with its exit code.
    """
    if _FIRST_VARIABLE in os.environ:
        pid, _, folder = os.environ[_FIRST_VARIABLE].partition(":")
        with _Follower(int(pid), Path(folder)).ending():
            yield
        return
    with tempfile.TemporaryDirectory(prefix="peftlit-") as folder:
        os.environ[_FIRST_VARIABLE] = f"{os.getpid()}:{folder}"
        try:
            with _Leader(launcher, Path(folder)).ending():
                yield
        finally:
            del os.environ[_FIRST_VARIABLE]


class _Leader:
    """The first process: it has started the others, and ends them."""

    def __init__(self, launcher: Any, folder: Path) -> None:
        self.launcher = launcher
        self.folder = folder
        self.started: list[subprocess.Popen[bytes]] = []
        self.done = threading.Event()

    @contextmanager
    def ending(self) -> Iterator[None]:
        watch = threading.Thread(target=self._watch, daemon=True)
        watch.start()
        try:
            yield
        except BaseException as error:
            self._stop_watching(watch)
            if not _has_lost_touch(error) and _claim(self.folder, 0):
                self._end()
                raise
            word, code = self._find_out()
            self._end()
            if word:
                raise ProcessError(word) from error
            raise SystemExit(code) from error
        self._stop_watching(watch)
        for process in self.started:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_SECONDS_TO_END)
        self._end()

    def _take_over(self) -> None:
        """Take the processes from Lightning, which kills the whole run, without a word, where one has failed."""
        waiting = getattr(self.launcher, "procs", [])
        while waiting and isinstance(waiting[0], subprocess.Popen):
            self.started.append(waiting.pop(0))

    def _watch(self) -> None:
        """End the run where another process has ended, and this one does not find out: it talks to nobody just now."""
        while not self.done.wait(_SECONDS_BETWEEN_LOOKS):
            self._take_over()
            if any(process.poll() for process in self.started):
                if self.done.wait(_SECONDS_TO_NOTICE):
                    return
                word, code = self._find_out()
                self._end()
                _say_and_end(word, code)

    def _stop_watching(self, watch: threading.Thread) -> None:
        self.done.set()
        watch.join()
        self._take_over()

    def _find_out(self) -> tuple[str, int]:
        """Return what is to be said of another process's end, nothing where it said it itself; and the exit code."""
        end = time.monotonic() + _SECONDS_TO_NOTICE
        while time.monotonic() < end:
            if (rank := _claimant(self.folder)) is not None:
                code = 1
                with suppress(subprocess.TimeoutExpired):
                    code = self.started[rank - 1].wait(_SECONDS_TO_END)
                return "", code if code > 0 else 1
            for rank, process in enumerate(self.started, 1):
                code = process.poll() or 0
                if code < 0:
                    name = signal.Signals(-code).name
                    hint = "; the system does that where memory runs out" * (-code == signal.SIGKILL)
                    return f"process {rank} of the run was ended by {name}{hint}", 1
                if code > 0:  # before it came here; it has said why
                    return "", code
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        return "another process of the run has ended, or cannot be reached; what it said tells why", 1

    def _end(self) -> None:
        for process in self.started:
            process.kill()
        for process in self.started:
            process.wait()


class _Follower:
    """A process that the first one has started: it ends when that one does."""

    def __init__(self, first: int, folder: Path) -> None:
        self.first = first
        self.folder = folder
        self.done = threading.Event()

    @contextmanager
    def ending(self) -> Iterator[None]:
        watch = threading.Thread(target=self._watch, daemon=True)
        watch.start()
        try:
            yield
        except BaseException as error:
            # what follows from another's end, and what all are told alike, is not for this one to say
            if isinstance(error, _TOLD_TO_ALL) or _has_lost_touch(error) or not _claim(self.folder, _local_rank()):
                watch.join(_SECONDS_TO_END)  # the first one ends this process, or is found to have ended
                raise SystemExit(1) from error
            self.done.set()
            raise
        self.done.set()

    def _watch(self) -> None:
        while not self.done.wait(_SECONDS_BETWEEN_LOOKS):
            if os.getppid() != self.first:
                if not self.folder.exists():  # the run has ended well
                    return
                speaks = _claim(self.folder, _local_rank())
                _say_and_end("the first process of the run has ended without a word" if speaks else "", 1)


def _local_rank() -> int:
    """Return which of the processes this is that were started on its node by the first one there."""
    return int(os.environ.get("LOCAL_RANK", 0))


def _claim(folder: Path, rank: int) -> bool:
    """Claim to be the first to fail; only one process can."""
    try:
        (folder / _CLAIM).symlink_to(str(rank))  # made with its content, or not at all
    except OSError:  # taken; or the folder is gone, and with it the first process
        return False
    return True


def _claimant(folder: Path) -> int | None:
    with suppress(FileNotFoundError):
        return int(os.readlink(folder / _CLAIM))
    return None


def _has_lost_touch(error: BaseException) -> bool:
    """Tell whether torch's collectives raised an error because they do not reach another process of the run."""
    if any(f"{kind.__module__}.{kind.__name__}" == "torch.distributed.DistError" for kind in type(error).__mro__):
        return True
    return type(error) is RuntimeError and any(mark in str(error) for mark in _MARKS_OF_LOST_TOUCH)


def _say_and_end(word: str, code: int) -> None:
    """End this process at once; its main thread may be waiting for another process that is no more."""
    if word:
        sys.stderr.write(f"peftlit: error: {word}\n")
        sys.stderr.flush()
    os._exit(code)
