"""The messages of a conversation, and their order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

from peftlit.data.checks import check_text
from peftlit.errors import DataError


class Message(TypedDict):
    """One message: its ``role`` is system, user or assistant."""

    role: str
    content: str


Question = str | tuple[str, str] | list[Message]
"""What a model is asked: a text, the two texts of a pair, or a conversation that ends with the user."""


def check_messages(
    messages: Sequence[Message], source: str, row: int, *, last: Literal["assistant", "user"] = "assistant"
) -> None:
    """Refuse a conversation other than an optional system message, then user and assistant in turn.

    The ``last`` message is the assistant's in training, the user's in prediction.

    Raises:
        DataError: With the row and the message, counted from 1.
    """
    where = f"{source}, row {row}"
    if not isinstance(messages, (list, tuple)) or not messages:
        raise DataError(f"{where}: messages is {messages!r}, needs a list with role and content in each")
    expected = "user"
    for number, message in enumerate(messages, 1):
        if not isinstance(message, dict):
            raise DataError(f"{where}: message {number} is {message!r}, needs role and content")
        role = message.get("role")
        if role not in ("system", "user", "assistant"):
            raise DataError(f"{where}: message {number} has role {role!r}, needs system, user or assistant")
        check_text(message.get("content"), f"content of message {number}", source, row)
        if role == "system" and number == 1:
            continue
        if role != expected:
            raise DataError(f"{where}: message {number} is the {role}'s, needs the {expected}'s there")
        expected = "assistant" if role == "user" else "user"
    if (role := messages[-1]["role"]) != last:
        raise DataError(f"{where}: the last message is the {role}'s, needs the {last}'s there")
