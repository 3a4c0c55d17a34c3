"""Write a file whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Write a text file aside, then rename it into place.

    Args:
        path: The file.
        text: Its content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON aside, then rename it into place.

    Args:
        path: The file.
        value: Plain JSON values.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
