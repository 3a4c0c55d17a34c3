"""Declared cleaning of texts, counted step by step."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from peftlit.errors import ConfigError

CleaningStep = Literal["html", "tags", "whitespace"]

_STEPS: dict[str, Callable[[str], str]] = {
    "html": html.unescape,
    "tags": lambda text: re.sub(r"<[A-Za-z/][^<>]*>", " ", text),
    "whitespace": lambda text: " ".join(text.split()),
}


class Cleaner:
    """Apply cleaning steps to texts.

    Args:
        steps: The steps in their order: ``html`` (``&amp;`` to ``&``), ``tags`` (``<br />`` and the like to a
            space), ``whitespace`` (runs become one space, none at the ends).

    Attributes:
        changed: How many texts each step has changed so far.

    Raises:
        ConfigError: There is no such step.
    """

    def __init__(self, steps: Sequence[CleaningStep]) -> None:
        for step in steps:
            if step not in _STEPS:
                raise ConfigError(
                    f"data.cleaning_steps: no step {step!r}; there are {', '.join(get_args(CleaningStep))}"
                )
        self.changed: dict[str, int] = dict.fromkeys(steps, 0)

    def __call__(self, text: str) -> str:
        """Return the cleaned text.

        Args:
            text: The text as read.
        """
        for step in self.changed:
            cleaned = _STEPS[step](text)
            self.changed[step] += cleaned != text
            text = cleaned
        return text
