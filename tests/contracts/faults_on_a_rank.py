"""Things that break at one batch of one of two ranks, and guards that are taken away."""

import contextlib
import os
import signal
from typing import Any

from peftlit import distributed
from peftlit.checkpoint import random_states
from peftlit.data import TextDataModule
from peftlit.errors import DataError, ReloadError
from peftlit.export import reload_check as reload
from peftlit.modules.accumulation import AccumulationWindow
from peftlit.plugins import StopOnSignal


def break_as_asked(without: str | None = None, batch: int = 0, rank: int = 0, what: str = "") -> None:
    """Take a guard away and break one batch (from 1; 0 = none) of a rank, in this process and those that it forks."""
    if without is not None:
        setattr(*GUARDS[without])
    reload.compare_answers = _fail_check if what == "reload check" else lambda *_: reload.Reload(0.0, None)
    whole, seen = AccumulationWindow.accumulate, []

    def add(self: AccumulationWindow, total: Any, weight: Any, trainer: Any) -> Any:
        seen.append(total)
        if len(seen) == batch and trainer.global_rank == rank:
            total = _happen(what, total)
        return whole(self, total, weight, trainer)

    if batch and what != "reload check":
        AccumulationWindow.accumulate = add


def _happen(what: str, total: Any) -> Any:
    if what == "error":
        raise DataError("row 7: broken")
    if what == "loss":
        return total * float("nan")
    if what == "SIGKILL to all":
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.Signals[what])
    return total


def _fail_check(*_: Any) -> None:
    raise ReloadError("the folder answers otherwise")


_stop_if_asked = StopOnSignal._stop_if_asked


def _hear_the_first_alone(self: StopOnSignal, trainer: Any) -> None:
    self._asked *= trainer.is_global_zero
    _stop_if_asked(self, trainer)


GUARDS: dict[str, tuple[Any, str, Any]] = {
    "ending together": (distributed, "fail_together", lambda launcher: contextlib.nullcontext()),
    "one voice": (distributed, "is_rank_zero", lambda: True),
    "hearing each rank": (StopOnSignal, "_stop_if_asked", _hear_the_first_alone),
    "the place in the epoch": (TextDataModule, "load_state_dict", lambda self, state_dict: None),
    "the random states": (random_states, "restore", lambda states: None),
}
"""Each guard: where it is, and what stands there when it is taken away."""
