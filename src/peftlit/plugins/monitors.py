"""Check what callbacks monitor before anything is loaded."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from lightning import Callback

from peftlit.errors import ConfigError


def check_monitors(callbacks: Iterable[Callback], monitors: Mapping[str, str]) -> None:
    """Refuse a callback that watches a value nobody logs, or watches it in the wrong direction.

    Args:
        callbacks: The Trainer's callbacks; those without ``monitor`` pass.
        monitors: Every value that is logged, with ``min`` or ``max`` for better.

    Raises:
        ConfigError: With the nearest values, or the right mode.
    """
    for callback in callbacks:
        monitor, mode = getattr(callback, "monitor", None), getattr(callback, "mode", None)
        if monitor is None:
            continue
        name = type(callback).__name__
        if monitor not in monitors:
            near = difflib.get_close_matches(monitor, monitors, n=3, cutoff=0.5) or sorted(monitors)[:6]
            raise ConfigError(f"{name}.monitor: {monitor!r} is not logged; did you mean {' or '.join(near)}?")
        if mode in ("min", "max") and mode != monitors[monitor]:
            raise ConfigError(f"{name}.mode: {mode!r} would keep the worst {monitor}; set mode: {monitors[monitor]}")
