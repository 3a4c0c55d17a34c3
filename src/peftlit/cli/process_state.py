"""Process-wide state that a run changes, and how to restore it: libraries' settings, environment, signals, seeds."""

from __future__ import annotations

import logging
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import pyarrow
import torch

from peftlit.checkpoint import random_states
from peftlit.cli.console import LIBRARY_LEVELS


@contextmanager
def preserve_process_state() -> Iterator[None]:
    """Restore all of it at the end, for a caller who continues with something else."""
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        stack.callback(random_states.restore, random_states.capture())
        stack.callback(pyarrow.set_memory_pool, pyarrow.default_memory_pool())
        for read, write in _settings():
            stack.callback(_restore, read, write, read())
        yield


def _settings() -> Iterator[tuple[Callable[[], Any], Callable[[Any], Any]]]:
    """Yield functions that read a setting and write it."""
    yield torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
    yield torch.get_num_threads, torch.set_num_threads
    yield torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode
    yield lambda: torch.backends.cudnn.benchmark, partial(setattr, torch.backends.cudnn, "benchmark")
    yield lambda: dict(os.environ), _set_environment
    for logger in map(logging.getLogger, LIBRARY_LEVELS):
        yield partial(getattr, logger, "level"), logger.setLevel
    for number in signal.valid_signals() - {signal.SIGCHLD}:  # torch sets its handler once for all loaders
        if signal.getsignal(number) is not None:  # set in C, which cannot be restored
            yield partial(signal.getsignal, number), partial(signal.signal, number)


def _restore(read: Callable[[], Any], write: Callable[[Any], Any], before: Any) -> None:
    if read() != before:
        write(before)


def _set_environment(wanted: dict[str, str]) -> None:
    for name in os.environ.keys() - wanted.keys():
        del os.environ[name]
    os.environ.update(wanted)
