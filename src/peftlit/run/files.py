"""Write a file whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO


@contextmanager
def open_aside(path: Path) -> Iterator[TextIO]:
    """Open a text file for writing that takes its name when it is whole, and is gone if it does not get there.

    Args:
        path: The file; its folder has to be there.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.unlink(missing_ok=True)
        with aside.open("x", encoding="utf-8") as file:  # never through a link that lies there under that name
            yield file
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file aside, then rename it into place.

    Args:
        path: The file.
        text: Its content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_aside(path) as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write JSON aside, then rename it into place.

    Args:
        path: The file.
        value: Plain JSON values.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
