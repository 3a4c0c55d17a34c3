"""What is said of a data loader worker: real workers, which end, break the connection, or raise."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from multiprocessing import Pipe
from types import SimpleNamespace
from typing import Any

import pytest
from torch.utils.data import DataLoader

from peftlit.cli.error_mapping import map_errors
from peftlit.errors import ProcessError

ADVICE = "set fewer data.num_workers where memory ran out, 0 to see its own error; then resume with --ckpt_path last"


class _Broken:
    """What the main process cannot read to its end, as where a worker closes the connection."""

    def __reduce__(self) -> tuple[Callable[[], Any], tuple[()]]:
        return _read_from_a_closed_connection, ()


def _read_from_a_closed_connection() -> Any:
    here, there = Pipe()
    there.close()
    return here.recv()


class _Rows:
    def __init__(self, get: Callable[[], Any]) -> None:
        self.get = get

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        return self.get()


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _exit() -> None:
    os._exit(3)


def _raise() -> None:
    raise RuntimeError("Connection reset by peer")


def _load(get: Callable[[], Any], workers: int = 1) -> None:
    trainer, folder = SimpleNamespace(), SimpleNamespace(path="run")
    with map_errors(None, None, trainer, folder):
        next(iter(DataLoader(_Rows(get), batch_size=None, num_workers=workers)))


@pytest.mark.parametrize(
    ("get", "said"),
    [
        (_kill, rf"worker ended \((killed by signal: Killed|exited unexpectedly)\); {ADVICE}"),
        (_exit, rf"worker ended \(exited unexpectedly.*\); {ADVICE}"),
        (_Broken, r"the connection to a data loader worker broke \(EOFError: EOFError\); set fewer data.num_workers"),
    ],
)
def test_a_worker_that_is_gone_is_told_as_such(get, said) -> None:
    with pytest.raises(ProcessError, match=said) as caught:
        _load(get)
    assert "\n" not in str(caught.value)


def test_an_error_in_a_worker_is_told_as_that_error() -> None:
    with pytest.raises(RuntimeError, match=r"^Caught RuntimeError in DataLoader worker process 0(.|\n)*reset by peer"):
        _load(_raise)


def test_an_error_of_the_data_without_workers_is_not_laid_to_one() -> None:
    with pytest.raises(EOFError):
        _load(_read_from_a_closed_connection, workers=0)
