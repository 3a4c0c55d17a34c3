"""kill -9: at random instants, and at every operation on a checkpoint's files."""

from __future__ import annotations

import random
import re
import signal
from collections import Counter
from functools import partial
from pathlib import Path

from tests.contracts.file_operations import was_killed, watch
from tests.forked import kill_at

from tools.faults.stage import Stage, Tried

_EARLIEST_S = 0.2
_OPERATIONS = 60
"""Operations of a process at which one is killed: those of its first four saves, and of what they replace."""


def at_random_instants(stage: Stage, kind: str, times: int) -> Tried:
    """Kill a run, go on, kill again, through its end and anew, until that many kills.

    Args:
        stage: The stage.
        kind: Name of the kind of run.
        times: Kills.
    """
    tried = Tried(f"kill -9 at random instants: {kind}")
    seeded, finished = random.Random(kind), 1
    folder = stage.fresh(tried.fault, kind)
    while tried.times < times and not tried.wrong:
        outcome = stage.attempt(folder, watch=kill_at(seeded.uniform(_EARLIEST_S, stage.seconds[kind])))
        if outcome.code == -signal.SIGKILL:
            tried.times += 1
            continue
        finished += 1
        stage.judge(outcome, folder, kind, tried)
        folder = stage.fresh(tried.fault, kind)
    if not tried.wrong:
        stage.finish(folder, kind, tried)
    tried.came = f"{finished} runs completed: the same result, bit for bit"
    return tried


def at_file_operations(stage: Stage, kind: str) -> Tried:
    """Kill at the first operation on a file of a checkpoint, go on, kill at the second, and so forth.

    Args:
        stage: The stage.
        kind: Name of the kind of run.
    """
    tried = Tried(f"kill -9 at each operation on checkpoint files: {kind}")
    seen: Counter[str] = Counter()
    folder = stage.fresh(tried.fault, kind)
    log = folder / "operations.txt"
    while tried.times < _OPERATIONS and not tried.wrong:
        prepare = partial(watch, Path("run/checkpoints"), log, tried.times + 1)
        outcome = stage.attempt(folder, prepare=prepare)
        if was_killed(outcome.code):
            tried.times += 1
            seen[re.split(r"\W", log.read_text().splitlines()[-1])[0]] += 1
            continue
        stage.judge(outcome, folder, kind, tried)
        folder = stage.fresh(tried.fault, kind)
    if not tried.wrong:
        stage.finish(folder, kind, tried)
    counts = ", ".join(f"{name} {count}" for name, count in seen.most_common())
    tried.came = f"before each operation, and in the middle of each write ({counts}): the same result, bit for bit"
    return tried
