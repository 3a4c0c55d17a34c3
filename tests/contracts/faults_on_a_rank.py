"""Things that break at one batch of one of two ranks, and guards that are taken away."""

import contextlib
import json
import os
import signal
from typing import Any

from peftlit import ranks
from peftlit.data import TextDataModule
from peftlit.errors import DataError, ReloadError
from peftlit.modules.window import AccumulationWindow
from peftlit.plugins import StopOnSignal, random_states
from peftlit.run import reload

VARIABLE = "FAULT"
"""Holds a JSON object: ``what`` happens at which ``batch`` (from 1) of which ``rank``; ``without`` which guard."""


def break_as_asked() -> None:
    """Break what the variable asks for; the processes that this one starts inherit it."""
    fault = json.loads(os.environ.get(VARIABLE, "{}"))
    if "without" in fault:
        GUARDS[fault["without"]]()
    reload.prove_reload = _fail_proof if fault.get("what") == "proof" else lambda *_: 0.0
    if "batch" in fault:
        _break_batch(**{name: fault[name] for name in ("what", "rank", "batch")})


def _break_batch(what: str, rank: int, batch: int) -> None:
    whole, seen = AccumulationWindow.add, []

    def add(self: AccumulationWindow, total: Any, weight: Any, trainer: Any) -> Any:
        seen.append(total)
        if len(seen) == batch and trainer.global_rank == rank:
            total = _happen(what, total)
        return whole(self, total, weight, trainer)

    AccumulationWindow.add = add


def _happen(what: str, total: Any) -> Any:
    if what == "error":
        raise DataError("row 7: broken")
    if what == "loss":
        return total * float("nan")
    if what == "SIGKILL to all":
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.Signals[what])
    return total


def _fail_proof(*_: Any) -> None:
    raise ReloadError("the folder answers otherwise")


def _part_in_peace() -> None:
    ranks.ending_together = lambda launcher: contextlib.nullcontext()


def _speak_all() -> None:
    ranks.is_first = lambda: True


def _hear_the_first_alone() -> None:
    whole = StopOnSignal._stop_if_asked

    def stop_if_asked(self: StopOnSignal, trainer: Any) -> None:
        self._asked *= trainer.is_global_zero
        whole(self, trainer)

    StopOnSignal._stop_if_asked = stop_if_asked


def _begin_the_epoch_anew() -> None:
    TextDataModule.load_state_dict = lambda self, state_dict: None


def _draw_anew() -> None:
    random_states.restore = lambda states: None


GUARDS: dict[str, Any] = {
    "ending together": _part_in_peace,
    "one voice": _speak_all,
    "hearing each rank": _hear_the_first_alone,
    "the place in the epoch": _begin_the_epoch_anew,
    "the random states": _draw_anew,
}
"""What takes each guard away."""
