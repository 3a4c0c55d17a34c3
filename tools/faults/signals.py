"""SIGTERM, Ctrl-C, and the signal by which SLURM announces the end of a job's time."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint
from tests.contracts import toy_runs as toy
from tests.forked import peftlit_in

from peftlit.modules import SequenceClassification
from peftlit.modules.accumulation import AccumulationWindow
from tools.faults.stage import Stage, Tried

_SCONTROL = '#!/bin/sh\necho "$@" >> "$(dirname "$0")/asked.txt"\n'


def _at_call(owner: Any, name: str, number: int, call: int) -> Callable[[], None]:
    """Return what makes a process send itself a signal when a method is called for the n-th time."""

    def prepare() -> None:
        whole, calls = getattr(owner, name), []

        def counted(*arguments: Any) -> Any:
            calls.append(1)
            if len(calls) == call:
                os.kill(os.getpid(), number)
            return whole(*arguments)

        setattr(owner, name, counted)

    return prepare


def inside_a_window(stage: Stage, kind: str, number: signal.Signals) -> Tried:
    """Send a signal inside windows, during a validation, and when all is trained, and go on each time.

    Args:
        stage: The stage.
        kind: Name of the kind of run.
        number: The signal.
    """
    tried = Tried(f"{number.name} inside windows, in validation, at the end: {kind}")
    folder = stage.fresh(tried.fault, kind)
    for owner, name, call in (
        (AccumulationWindow, "accumulate", 5),
        (SequenceClassification, "validation_step", 1),
        (SequenceClassification, "validation_step", 2),  # of the same validation, which is done anew
        (AccumulationWindow, "accumulate", 6),
        (ModelCheckpoint, "on_train_end", 1),
    ):
        outcome = stage.attempt(folder, prepare=_at_call(owner, name, number, call))
        tried.times += 1
        if outcome.code != 128 + number or "go on with: peftlit fit" not in outcome.last_line:
            tried.wrong.append(f"exit code {outcome.code}: {outcome.said[-400:]}")
    stage.finish(folder, kind, tried)
    tried.came = f"exit code {128 + number}, one line with the command that resumes; the same result, bit for bit"
    return tried


def requeued(stage: Stage, kind: str) -> Tried:
    """Let SLURM's signal come, then start the very same command again, as SLURM does.

    Args:
        stage: The stage.
        kind: Name of the kind of run.
    """
    tried = Tried(f"SLURM's requeue signal, then the same command: {kind}")
    folder = stage.fresh(tried.fault, kind)
    (folder / "bin").mkdir()
    (folder / "bin/scontrol").write_text(_SCONTROL)
    (folder / "bin/scontrol").chmod(0o755)

    def job(restarts: int, then: Callable[[], None] | None) -> Callable[[], None]:
        def prepare() -> None:
            here = Path.cwd() / "bin"
            os.environ |= {"SLURM_NTASKS": "1", "SLURM_JOB_ID": "17", "SLURM_JOB_NAME": "toy", "SLURM_NODELIST": "node"}
            os.environ |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
            os.environ |= {"SLURM_RESTART_COUNT": str(restarts), "PATH": f"{here}:{os.environ['PATH']}"}
            if then is not None:
                then()

        return prepare

    stopped = peftlit_in(
        folder, *toy.FIT, prepare=job(0, _at_call(AccumulationWindow, "accumulate", signal.SIGUSR1, 7))
    )
    tried.times = 1
    asked = (folder / "bin/asked.txt").read_text() if (folder / "bin/asked.txt").exists() else ""
    if stopped.code != 128 + signal.SIGUSR1 or asked != "requeue 17\n":
        tried.wrong.append(f"exit code {stopped.code}, scontrol was asked {asked!r}: {stopped.said[-400:]}")
    stage.judge(peftlit_in(folder, *toy.FIT, prepare=job(1, None)), folder, kind, tried)
    tried.came = "`scontrol requeue` was called, and the same command resumed by itself: the same result, bit for bit"
    return tried
