"""Cleaning steps for texts, the same in training and in prediction, with counts of what each step removed."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from html.entities import html5
from typing import Any, Literal, get_args

from peftlit.errors import ConfigError

CleaningStep = Literal["html", "tags", "whitespace"]

_ELEMENTS = (
    "a abbr acronym address applet area article aside audio b base basefont bdi bdo bgsound big blink blockquote body "
    "br button canvas caption center cite code col colgroup data datalist dd del details dfn dialog dir div dl dt em "
    "embed fieldset figcaption figure font footer form frame frameset h1 h2 h3 h4 h5 h6 head header hgroup hr html i "
    "iframe img input ins isindex kbd keygen label legend li link listing main map mark marquee math menu menuitem "
    "meta meter multicol nav nextid nobr noembed noframes noscript object ol optgroup option output p param picture "
    "plaintext pre progress q rb rp rt rtc ruby s samp script search section select slot small source spacer span "
    "strike strong style sub summary sup svg table tbody td template textarea tfoot th thead time title tr track tt u "
    "ul var video wbr xmp"
).replace(" ", "|")
"""All HTML elements, including obsolete ones."""

_BOOLEAN_ATTRIBUTES = (
    "allowfullscreen async autofocus autoplay checked compact controls declare default defer disabled formnovalidate "
    "hidden inert ismap itemscope loop multiple muted nohref nomodule noresize noshade novalidate nowrap open "
    "playsinline readonly required reversed selected"
).replace(" ", "|")
"""HTML attributes that may have no value."""

_ATTRIBUTE = rf"""\s+(?:[a-z_:@][\w:.-]*(?:\s*=\s*\\?(?:"[^"]*"|'[^']*')|=[^\s"'=<>`]+)|(?:{_BOOLEAN_ATTRIBUTES}))"""
_MARKUP = re.compile(
    rf"<(?:{_ELEMENTS})(?:{_ATTRIBUTE})*\s*/?>|</(?:{_ELEMENTS})\s*>|"
    r"<!--(?:(?!<!--|-->).)*-->|<!doctype\s+html\b[^<>]*>",
    re.IGNORECASE | re.DOTALL,
)
_ENTITY = re.compile(r"&(?:#[0-9]+|#[xX][0-9a-fA-F]+|([a-zA-Z][a-zA-Z0-9]*));")


def _decode(entity: re.Match[str]) -> str:
    is_known = entity[1] is None or f"{entity[1]};" in html5
    return html.unescape(entity[0]) if is_known else entity[0]


_STEPS: dict[str, Callable[[str], str]] = {
    "tags": lambda text: _MARKUP.sub(" ", text),
    "html": lambda text: _ENTITY.sub(_decode, text),
    "whitespace": lambda text: " ".join(text.split()),
}
"""In the order in which they run: tags go before entities are decoded, as ``&lt;b&gt;`` is text and not a tag."""


class Cleaner:
    """Apply cleaning steps to texts, in this order whatever the order of ``steps``.

    1. ``tags``: HTML comments, doctypes and tags become a space. A tag has the name of an HTML element and valid
       attributes: ``<br />`` and ``<a href="x">`` go, ``a <b and c> d`` stays.
    2. ``html``: entities such as ``&amp;`` become characters; those without a semicolon stay.
    3. ``whitespace``: runs become one space, and none at the ends.

    Attributes:
        steps: The steps in the order in which they run.
        changed: Number of texts that each step has changed so far.
        removed: Characters that each step has removed so far.

    Raises:
        ConfigError: There is no such step.
    """

    def __init__(self, steps: Sequence[str]) -> None:
        for step in steps:
            if step not in _STEPS:
                raise ConfigError(
                    f"data.cleaning_steps: no step {step!r}; there are {', '.join(get_args(CleaningStep))}"
                )
        self.steps = [step for step in _STEPS if step in steps]
        self.changed = dict.fromkeys(self.steps, 0)
        self.removed = dict.fromkeys(self.steps, 0)

    def __call__(self, text: str) -> str:
        """Return the cleaned text."""
        for step in self.steps:
            cleaned = _STEPS[step](text)
            self.changed[step] += cleaned != text
            self.removed[step] += len(text) - len(cleaned)
            text = cleaned
        return text

    def clean_all(self, value: Any) -> Any:
        """Clean a text, a pair, the contents of messages, or lists of these; return anything else unchanged."""
        if isinstance(value, str):
            return self(value)
        if isinstance(value, tuple):
            return tuple(map(self.clean_all, value))
        if isinstance(value, list):
            return list(map(self.clean_all, value))
        if isinstance(value, dict) and "content" in value:
            return {**value, "content": self.clean_all(value["content"])}
        return value

    def summary(self) -> str:
        """Return one line with what each step has removed."""
        return ", ".join(
            f"{step} removed {self.removed[step]:,} characters from {self.changed[step]:,} texts" for step in self.steps
        )
