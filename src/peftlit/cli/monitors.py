"""Check what callbacks monitor before anything is loaded."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from peftlit.errors import ConfigError


def check_monitors(watchers: Iterable[Any], monitors: Mapping[str, str], *, validated: bool = True) -> None:
    """Refuse whatever watches a value that nobody logs, or watches it in the wrong direction.

    Args:
        watchers: The Trainer's callbacks, and a scheduler that watches; those without ``monitor`` pass.
        monitors: Every value that is logged, with ``min`` or ``max`` for better.
        validated: Whether there is a validation.

    Raises:
        ConfigError: With the nearest values, or the right mode.
    """
    for watcher in watchers:
        monitor, mode = getattr(watcher, "monitor", None), getattr(watcher, "mode", None)
        if monitor is None:
            continue
        name = type(watcher).__name__
        if monitor not in monitors:
            begun = [known for known in monitors if known.startswith(monitor)]
            near = (begun + difflib.get_close_matches(monitor, monitors, n=3, cutoff=0.5))[:3] or sorted(monitors)[:6]
            raise ConfigError(
                f"{name}.monitor: {monitor!r} is not logged; did you mean {' or '.join(dict.fromkeys(near))}?"
            )
        if monitor.startswith("val/") and not validated:
            raise ConfigError(
                f"{name}.monitor: {monitor!r} needs a validation, and there is none: the data has no validation split, "
                "or trainer.limit_val_batches is 0"
            )
        if mode in ("min", "max") and mode != monitors[monitor]:
            raise ConfigError(f"{name}.mode: {mode!r} would keep the worst {monitor}; set mode: {monitors[monitor]}")
