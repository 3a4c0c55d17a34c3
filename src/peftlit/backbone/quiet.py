"""Keep transformers quiet while it loads: what it would tell is checked or told by peftlit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import logging as transformers_logging


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Show neither warnings nor progress bars of transformers for a while."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if shown:
            transformers_logging.enable_progress_bar()
