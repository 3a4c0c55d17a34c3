"""Turn a label as a file writes it, a name or an id, into a class id."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

from peftlit.errors import DataError

_INTEGER = re.compile(r"-?[0-9]+")


def normalize_label(value: object) -> str:
    """Return a label as text: ``1.0`` as ``1``, and a missing one (None, NaN, white space) as an empty text."""
    if value is None or value != value:  # NaN alone differs from itself
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if str(value).strip() else ""


def distinct_names(values: Iterable[object]) -> list[str]:
    """Return the distinct labels, integers sorted by value and before names."""
    names = {normalize_label(value) for value in values} - {""}
    return sorted(names, key=lambda v: (0, int(v), v) if _INTEGER.fullmatch(v) else (1, 0, v))


class ClassIds:
    """Look up class ids by name or by id; where a name is an integer, integers are names and not ids.

    Args:
        names: The classes' names in the order of their ids.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._ids = {name: i for i, name in enumerate(names)}
        if not any(_INTEGER.fullmatch(name) for name in names):
            self._ids = {str(i): i for i in range(len(names))} | self._ids

    def find(self, value: object, source: str, row: int) -> int:
        """Return the class id of a label; raise a DataError with the nearest name and all others if there is none."""
        name = normalize_label(value)
        if name in self._ids:
            return self._ids[name]
        near = difflib.get_close_matches(name, self._names, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise DataError(f"{source}, row {row}: unknown label {value!r}; {hint}known are {', '.join(self._names)}")
