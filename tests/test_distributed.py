from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.fabric.plugins.environments import LightningEnvironment

from peftlit import distributed
from peftlit.errors import DataError, ProcessError

LOST_CONNECTION = RuntimeError("[third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer")
CLAIM = "import os, sys; os.symlink('1', os.environ['PEFTLIT_FIRST_PROCESS'].partition(':')[2] + '/failed_first');"
FOLLOW = """
from peftlit import distributed
from peftlit.errors import DataError
with distributed.fail_together(None):
    print("follows", flush=True)
"""
"""What a process does that the first one has started; what follows is its own."""


def python(code: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, **options)


def shared_folder() -> Path:
    return Path(os.environ["PEFTLIT_FIRST_PROCESS"].partition(":")[2])


@pytest.fixture
def launcher():
    """Like Lightning's: what it has started is in ``procs``."""
    launcher = SimpleNamespace(procs=[], started=[])

    def start(code: str, **pipes: int) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "LOCAL_RANK": "1"}, **pipes)
        launcher.procs.append(process)
        launcher.started.append(process)
        return process

    launcher.start = start
    yield launcher
    for process in launcher.started:
        process.kill()
        process.wait()


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    for name in ("RANK", *distributed._RANK_VARIABLES, "PEFTLIT_FIRST_PROCESS"):
        monkeypatch.delenv(name, raising=False)


RANKS = (
    ("", True),
    ("LOCAL_RANK=0", True),
    ("LOCAL_RANK=1", False),
    ("SLURM_PROCID=3", False),
    ("RANK=2 LOCAL_RANK=0", False),  # torchrun
    ("RANK=0 LOCAL_RANK=0 GROUP_RANK=0 SLURM_PROCID=1", True),  # torchrun in srun
    ("RANK=0 LOCAL_RANK=1", False),  # RANK is the shell's, which Lightning's children inherit
    ("NODE_RANK=", True),
    ("NODE_RANK=0", True),  # a user's command on each node, which starts the others there
    ("NODE_RANK=1", False),
    ("NODE_RANK=1 LOCAL_RANK=0", False),
    ("NODE_RANK=0 LOCAL_RANK=1", False),
    ("GROUP_RANK=1 LOCAL_RANK=0", False),
    ("SLURM_PROCID=0 LOCAL_RANK=1", False),  # started by Lightning in a batch job without srun
    *((f"{name}=1", False) for name in ("JSM_NAMESPACE_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")),
)


def test_rank_zero_is_known_before_any_library_is_imported(monkeypatch):
    for variables, first in RANKS:
        with monkeypatch.context() as patch:
            for name, value in (variable.split("=") for variable in variables.split()):
                patch.setenv(name, value)
            assert distributed.is_rank_zero() is first, variables


def test_lightning_reads_the_same_variables_on_several_nodes(monkeypatch):
    for node in (0, 1):
        monkeypatch.setenv("NODE_RANK", str(node))
        assert (LightningEnvironment().node_rank(), LightningEnvironment().local_rank()) == (node, 0)


LOST = (
    LOST_CONNECTION,
    torch.distributed.DistNetworkError("Connection reset by peer"),
    torch.distributed.DistBackendError("NCCL communicator was aborted"),
)
OTHERS = (
    RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nConnection reset by peer"),
    RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
    ConnectionResetError(104, "Connection reset by peer"),
    DataError("row 7"),
)


def test_a_lost_connection_to_another_process_of_the_run_is_told_from_that_to_a_worker():
    for error in LOST + OTHERS:
        assert distributed._is_lost_connection(error) is (error in LOST), error


def lead(launcher, error: BaseException, *others: str) -> None:
    """Start others, and fail; the error tells the folder that was shared."""
    with distributed.fail_together(launcher):
        for code in others:
            launcher.start(code)
        if any("symlink" in code for code in others):
            launcher.started[0].wait()
        error.folder = shared_folder()
        raise error


def test_the_first_fails_with_its_own_error_ends_the_others_and_leaves_nothing_behind(launcher):
    with pytest.raises(DataError) as caught:
        lead(launcher, DataError("row 7"), "import time; time.sleep(600)")
    assert launcher.started[0].returncode == -signal.SIGKILL
    assert not caught.value.folder.exists()
    assert "PEFTLIT_FIRST_PROCESS" not in os.environ
    with pytest.raises(DataError):
        lead(None, DataError("row 7"))


@pytest.mark.parametrize("error", [LOST_CONNECTION, DataError("row 7")])
def test_another_fails_first_and_the_first_is_silent_with_its_exit_code(error, launcher):
    with pytest.raises(SystemExit) as stop:
        lead(launcher, error, CLAIM + "sys.exit(2)")
    assert stop.value.code == 2


def test_another_is_killed_and_the_first_says_so(launcher):
    with pytest.raises(ProcessError, match="process 1 of the run was ended by SIGTERM"):
        lead(launcher, LOST_CONNECTION, "import os, signal; os.kill(os.getpid(), signal.SIGTERM)")


def test_the_first_waits_for_others_that_end_well(launcher):
    with distributed.fail_together(launcher):
        other = launcher.start("pass")
    assert other.returncode == 0
    assert launcher.procs == [], "Lightning kills the run silently where one in this list has failed"


def test_a_process_that_talks_to_nobody_ends_when_another_has():
    done = python(
        "import subprocess, sys, threading\nfrom types import SimpleNamespace\nfrom peftlit import distributed\n"
        "distributed._SECONDS_TO_NOTICE = 0.2\n"
        "other = subprocess.Popen([sys.executable, '-c', 'raise SystemExit(3)'])\n"
        "with distributed.fail_together(SimpleNamespace(procs=[other])):\n"
        "    threading.Event().wait()\n"
    )
    assert (done.returncode, done.stderr) == (3, "")


ORPHAN = "peftlit: error: the first process of the run has ended without a message\n"


@pytest.mark.parametrize(("folder", "waits", "ended"), [("", "", (1, ORPHAN)), ("gone", "0.5", (0, ""))])
def test_an_orphan_ends_and_one_says_so(folder, waits, ended, tmp_path):
    """The folder is there still where the first process was killed; it takes the folder along where it ends well."""
    first = subprocess.Popen([sys.executable, "-c", "pass"])
    first.wait()
    environment = {"LOCAL_RANK": "1", "PEFTLIT_FIRST_PROCESS": f"{first.pid}:{tmp_path / folder}"}
    done = python(f"{FOLLOW}    import threading; threading.Event().wait({waits})\n", env={**os.environ, **environment})
    assert (done.returncode, done.stderr) == ended


@pytest.mark.parametrize(
    ("raised", "claims"), [("DataError('row 7')", True), ("KeyboardInterrupt", False), (repr(LOST_CONNECTION), False)]
)
def test_a_follower_speaks_of_its_own_errors_only(launcher, raised, claims):
    with distributed.fail_together(launcher):
        folder = shared_folder()
        other = launcher.start(FOLLOW + f"    raise {raised}\n", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        launcher.procs.clear()  # it is watched here
        assert other.stdout.readline() == b"follows\n"
        if claims:
            assert b"row 7" in other.communicate()[1]
            assert os.readlink(folder / "failed_first") == "1"
        else:
            with pytest.raises(subprocess.TimeoutExpired):
                other.wait(1.0)
            assert not (folder / "failed_first").is_symlink()


def test_ctrl_c_is_left_to_the_first(monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    distributed.ignore_interrupts_in_children()
    assert signal.getsignal(signal.SIGINT) is before
    monkeypatch.setenv("PEFTLIT_FIRST_PROCESS", "1:/")
    try:
        distributed.ignore_interrupts_in_children()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
