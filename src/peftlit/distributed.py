"""The processes of one run: rank 0 logs for all, and all of them end when one fails."""

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
from typing import Any, TypeVar

from peftlit.errors import ProcessError, ReloadError, Stopped

_T = TypeVar("_T")

_RANK_VARIABLES = (
    *("LOCAL_RANK", "NODE_RANK", "GROUP_RANK"),  # Lightning's own launcher, or a user who starts each process
    *("SLURM_PROCID", "JSM_NAMESPACE_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK"),  # srun, jsrun, mpirun
)
"""What Lightning's cluster environments read where there is no RANK: all that are set are 0 on global rank 0 alone."""

_LEADER_VARIABLE = "PEFTLIT_FIRST_PROCESS"
"""``PID:FOLDER`` of the process that started this one; the first process to fail claims that in the folder."""

_CLAIM = "failed_first"

_LOST_CONNECTION_MARKS = ("third_party/gloo", "NCCL", "TCPStore")
"""In the messages of torch's collectives, which raise plain RuntimeErrors when another process is gone."""

_RAISED_ON_ALL_RANKS = (Stopped, ReloadError, KeyboardInterrupt)
"""Errors that end all processes alike; rank 0 reports them."""

_POLL_SECONDS = 0.1
_SECONDS_TO_NOTICE = 5.0
"""How long a process may take to find out by itself that another one has ended, and why."""

_SECONDS_TO_END = 30.0
"""How long a process that failed may take to report its error and to end."""


def is_rank_zero() -> bool:
    """Tell whether this process is global rank 0, or the only one, before Lightning is imported."""
    names = ("RANK", "LOCAL_RANK") if "RANK" in os.environ else _RANK_VARIABLES
    return all(int(os.environ.get(name) or 0) == 0 for name in names)


def gather(values: list[_T]) -> list[_T]:
    """Join the lists of all ranks, in their order; all ranks have to ask."""
    import torch  # is_rank_zero has to work before heavy imports

    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return values
    ranks = [values] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(ranks, values)
    return [value for rank in ranks for value in rank]


def ignore_interrupts_in_children() -> None:
    """Let the leader alone handle Ctrl-C, which a terminal sends to all processes of a run."""
    if _LEADER_VARIABLE in os.environ:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def fail_together(launcher: Any) -> Iterator[None]:
    """End every process of a run when one of them fails, and let exactly one report why.

    The other processes fail with errors that only follow from the first, and end silently. A process that was killed
    reports nothing; another one then does. Processes that torchrun or srun started are ended by them.

    Raises:
        ProcessError: Another process was killed.
        SystemExit: Another process failed and reported why; with its exit code.
    """
    if _LEADER_VARIABLE in os.environ:
        pid, _, folder = os.environ[_LEADER_VARIABLE].partition(":")
        with _Child(int(pid), Path(folder)).watch():
            yield
        return
    with tempfile.TemporaryDirectory(prefix="peftlit-") as folder:
        os.environ[_LEADER_VARIABLE] = f"{os.getpid()}:{folder}"
        try:
            with _Leader(launcher, Path(folder)).watch():
                yield
        finally:
            del os.environ[_LEADER_VARIABLE]


class _Leader:
    """The process that started the others on its node, and ends them."""

    def __init__(self, launcher: Any, folder: Path) -> None:
        self.launcher = launcher
        self.folder = folder
        self.children: list[subprocess.Popen[bytes]] = []
        self.done = threading.Event()

    @contextmanager
    def watch(self) -> Iterator[None]:
        watcher = threading.Thread(target=self._poll, daemon=True)
        watcher.start()
        try:
            try:
                yield
            finally:
                self.done.set()
                watcher.join()
                self._take_children()
        except BaseException as error:
            if not _is_lost_connection(error) and _claim_failure(self.folder, 0):
                self._kill_children()
                raise
            message, code = self._diagnose()
            self._kill_children()
            if message:
                raise ProcessError(message) from error
            raise SystemExit(code) from error
        for process in self.children:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_SECONDS_TO_END)
        self._kill_children()

    def _take_children(self) -> None:
        """Take the processes from Lightning, which kills the whole run silently when one has failed."""
        started = getattr(self.launcher, "procs", [])
        while started and isinstance(started[0], subprocess.Popen):
            self.children.append(started.pop(0))

    def _poll(self) -> None:
        """End the run when a child has failed while the main thread is not communicating and does not notice."""
        while not self.done.wait(_POLL_SECONDS):
            self._take_children()
            if any(process.poll() for process in self.children):
                if self.done.wait(_SECONDS_TO_NOTICE):
                    return
                message, code = self._diagnose()
                self._kill_children()
                _exit_now(message, code)

    def _diagnose(self) -> tuple[str, int]:
        """Return what to report of another process's end, nothing where it reported it itself; and the exit code."""
        end = time.monotonic() + _SECONDS_TO_NOTICE
        while time.monotonic() < end:
            if (rank := _first_failed_rank(self.folder)) is not None:
                code = 1
                with suppress(subprocess.TimeoutExpired):
                    code = self.children[rank - 1].wait(_SECONDS_TO_END)
                return "", code if code > 0 else 1
            for rank, process in enumerate(self.children, 1):
                code = process.poll() or 0
                if code < 0:
                    name = signal.Signals(-code).name
                    hint = "; the system does that where memory runs out" * (-code == signal.SIGKILL)
                    return f"process {rank} of the run was ended by {name}{hint}", 1
                if code > 0:  # it failed before fail_together, and has reported why
                    return "", code
            time.sleep(_POLL_SECONDS)
        return "another process of the run has ended, or cannot be reached; its own message says why", 1

    def _kill_children(self) -> None:
        for process in self.children:
            process.kill()
        for process in self.children:
            process.wait()


class _Child:
    """A process that the leader started; it ends when the leader does."""

    def __init__(self, leader: int, folder: Path) -> None:
        self.leader = leader
        self.folder = folder
        self.done = threading.Event()

    @contextmanager
    def watch(self) -> Iterator[None]:
        watcher = threading.Thread(target=self._poll, daemon=True)
        watcher.start()
        try:
            yield
        except BaseException as error:
            follows = isinstance(error, _RAISED_ON_ALL_RANKS) or _is_lost_connection(error)
            if follows or not _claim_failure(self.folder, _local_rank()):
                watcher.join(_SECONDS_TO_END)  # the leader ends this process, or is found to have ended
                raise SystemExit(1) from error
            self.done.set()
            raise
        self.done.set()

    def _poll(self) -> None:
        while not self.done.wait(_POLL_SECONDS):
            if os.getppid() != self.leader:
                if not self.folder.exists():  # the run has ended well
                    return
                reports = _claim_failure(self.folder, _local_rank())
                _exit_now("the first process of the run has ended without a message" if reports else "", 1)


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", 0))


def _claim_failure(folder: Path, rank: int) -> bool:
    """Claim to be the first process to fail; only one can."""
    try:
        (folder / _CLAIM).symlink_to(str(rank))  # made with its content, or not at all
    except OSError:  # taken; or the folder is gone, and with it the leader
        return False
    return True


def _first_failed_rank(folder: Path) -> int | None:
    with suppress(FileNotFoundError):
        return int(os.readlink(folder / _CLAIM))
    return None


def _is_lost_connection(error: BaseException) -> bool:
    """Tell whether torch's collectives raised an error because another process of the run cannot be reached."""
    if any(f"{kind.__module__}.{kind.__name__}" == "torch.distributed.DistError" for kind in type(error).__mro__):
        return True
    return type(error) is RuntimeError and any(mark in str(error) for mark in _LOST_CONNECTION_MARKS)


def _exit_now(message: str, code: int) -> None:
    """End this process although its main thread may be waiting for another process that is gone."""
    if message:
        sys.stderr.write(f"peftlit: error: {message}\n")
        sys.stderr.flush()
    os._exit(code)
