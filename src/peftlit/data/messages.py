"""The messages of a conversation, and in which order they stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

from peftlit.data.checks import check_text
from peftlit.errors import DataError


class Message(TypedDict):
    """One turn of a conversation.

    Attributes:
        role: ``system``, ``user`` or ``assistant``.
        content: What is said.
    """

    role: str
    content: str


def check_messages(
    messages: Sequence[Message], source: str, row: int, *, last: Literal["assistant", "user"] = "assistant"
) -> None:
    """Refuse a conversation other than an optional system message, then user and assistant in turn.

    Args:
        messages: The conversation.
        source: Where the row is from.
        row: Its number there.
        last: Who speaks last: the assistant where it is learned, the user where it is answered.

    Raises:
        DataError: Naming the row and the message, counted from 1.
    """
    if not isinstance(messages, (list, tuple)) or not messages:
        raise DataError(f"{source}, row {row}: messages is {messages!r}, needs a list with role and content in each")
    expected = "user"
    for number, message in enumerate(messages, 1):
        if not isinstance(message, dict):
            raise DataError(f"{source}, row {row}: message {number} is {message!r}, needs role and content")
        role = message.get("role")
        if role not in ("system", "user", "assistant"):
            raise DataError(f"{source}, row {row}: message {number} has role {role!r}, needs system, user or assistant")
        check_text(message.get("content"), f"content of message {number}", source, row)
        if role == "system" and number == 1:
            continue
        if role != expected:
            raise DataError(f"{source}, row {row}: message {number} is the {role}'s, needs the {expected}'s there")
        expected = "assistant" if role == "user" else "user"
    if messages[-1]["role"] != last:
        raise DataError(
            f"{source}, row {row}: the last message is the {messages[-1]['role']}'s, needs the {last}'s there"
        )
