"""What a call from Python changes for its whole process is put back."""

from __future__ import annotations

import logging
import os
import random
import signal
import warnings
from typing import Any

import numpy
import pyarrow
import pytest
import torch

from peftlit.cli.console import quiet_libraries
from peftlit.cli.process_state import preserve_process_state


def state() -> dict[str, Any]:
    """What is the same for all that runs in this process."""
    loggers = [logging.root, *(x for x in logging.root.manager.loggerDict.values() if isinstance(x, logging.Logger))]
    return {
        "environment": dict(os.environ),
        "warnings": list(warnings.filters),
        "loggers": {x.name: (x.level, x.propagate, x.disabled, [*x.handlers], [*x.filters]) for x in loggers},
        "signals": {n: signal.getsignal(n) for n in signal.valid_signals() - {signal.SIGCHLD}},
        "matmul": torch.get_float32_matmul_precision(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.get_deterministic_debug_mode(),
        "benchmark": torch.backends.cudnn.benchmark,
        "arrow": pyarrow.default_memory_pool().backend_name,
        "random": (random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()),
    }


def differing(before: dict[str, Any]) -> list[str]:
    """What is not as it was; loggers that are new are nobody's."""
    now = state()
    now["loggers"] = {name: now["loggers"][name] for name in before["loggers"]}
    return [name for name in before if now[name] != before[name]]


def change_everything() -> None:
    os.environ.update({"PL_GLOBAL_SEED": "7", "LOCAL_RANK": "0"})
    os.environ.pop("OF_THE_CALLER")
    warnings.filterwarnings("ignore", message="anything")
    quiet_libraries()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    torch.set_float32_matmul_precision("medium")
    torch.set_num_threads(torch.get_num_threads() + 1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark
    pyarrow.set_memory_pool(pyarrow.system_memory_pool())
    random.seed(7), numpy.random.seed(7), torch.manual_seed(7)


def fail(before: dict[str, Any]) -> None:
    with preserve_process_state():
        change_everything()
        assert differing(before) == list(before)
        raise KeyError


def test_everything_is_put_back_after_an_error_too(monkeypatch) -> None:
    monkeypatch.setenv("OF_THE_CALLER", "kept")
    logging.getLogger("lightning.pytorch").setLevel(logging.DEBUG)
    pool = pyarrow.default_memory_pool()
    other = next(name for name in pyarrow.supported_memory_backends() if name != "system")
    pyarrow.set_memory_pool(getattr(pyarrow, f"{other}_memory_pool")())
    before = state()
    try:
        with pytest.raises(KeyError):
            fail(before)
        assert differing(before) == []
    finally:
        pyarrow.set_memory_pool(pool)


def test_what_torch_listens_to_for_its_workers_stays() -> None:
    before = signal.getsignal(signal.SIGCHLD)
    try:
        with preserve_process_state():
            signal.signal(signal.SIGCHLD, lambda number, frame: None)
            handler = signal.getsignal(signal.SIGCHLD)
        assert signal.getsignal(signal.SIGCHLD) is handler
    finally:
        signal.signal(signal.SIGCHLD, before)
