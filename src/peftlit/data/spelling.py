"""How files spell class labels: by name or by class id."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

from peftlit.errors import DataError

_NUMBER = re.compile(r"-?[0-9]+")


def spelled(value: object) -> str:
    """Spell a label: ``1.0`` as ``1``, and a missing one (None, NaN, white space) as an empty text.

    Args:
        value: The label as read.
    """
    if value is None or value != value:  # NaN alone differs from itself
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if str(value).strip() else ""


def distinct_names(values: Iterable[object]) -> list[str]:
    """List the distinct labels, numbers by size and names by alphabet.

    Args:
        values: The training labels as read.
    """
    names = {spelled(value) for value in values} - {""}
    return sorted(names, key=lambda v: (0, int(v), v) if _NUMBER.fullmatch(v) else (1, 0, v))


class ClassIds:
    """Look up class ids. A name becomes its position; an integer is taken as the id, unless names are numbers.

    Args:
        names: The classes' names in the order of their ids.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._ids = {name: i for i, name in enumerate(names)}
        if not any(_NUMBER.fullmatch(name) for name in names):
            self._ids = {str(i): i for i in range(len(names))} | self._ids

    def find(self, value: object, source: str, row: int) -> int:
        """Return the class id of a label.

        Args:
            value: The label as read.
            source: Where it is from.
            row: The row's number there.

        Raises:
            DataError: There is no such class; with the nearest name and all others.
        """
        text = spelled(value)
        if text in self._ids:
            return self._ids[text]
        near = difflib.get_close_matches(text, self._names, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise DataError(f"{source}, row {row}: unknown label {value!r}; {hint}known are {', '.join(self._names)}")
