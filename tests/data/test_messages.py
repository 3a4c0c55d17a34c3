from __future__ import annotations

from peftlit.data.messages import check_messages
from tests.data.helpers import refusal

SYSTEM = {"role": "system", "content": "be short"}
USER = {"role": "user", "content": "is it good ?"}
ASSISTANT = {"role": "assistant", "content": "very"}


def test_user_and_assistant_speak_in_turn_after_a_system_message_if_any():
    for messages in ([USER, ASSISTANT], [SYSTEM, USER, ASSISTANT], [USER, ASSISTANT, USER, ASSISTANT]):
        check_messages(messages, "a.jsonl", 7)
    for messages in ([USER], [SYSTEM, USER, ASSISTANT, USER]):
        check_messages(messages, "a.jsonl", 7, last="user")


def test_anything_else_is_refused_by_row_and_message():
    for messages, said in (
        ([], "messages is [], needs a list with role and content in each"),
        (None, "messages is None, needs a list with role and content in each"),
        ("hello", "messages is 'hello', needs a list with role and content in each"),
        (["hello"], "message 1 is 'hello', needs role and content"),
        ([{"content": "hello"}], "message 1 has role None, needs system, user or assistant"),
        ([USER, {**ASSISTANT, "role": "bot"}], "message 2 has role 'bot', needs system, user or assistant"),
        ([USER, {"role": "assistant"}], "content of message 2 is None, needs a text"),
        ([{**USER, "content": 3}], "content of message 1 is 3, needs a text"),
        ([{**USER, "content": "\ud83d"}], "content of message 1 holds half of a surrogate pair, which is no UTF-8"),
        ([ASSISTANT], "message 1 is the assistant's, needs the user's there"),
        ([SYSTEM, ASSISTANT], "message 2 is the assistant's, needs the user's there"),
        ([USER, USER, ASSISTANT], "message 2 is the user's, needs the assistant's there"),
        ([USER, SYSTEM, ASSISTANT], "message 2 is the system's, needs the assistant's there"),
        ([SYSTEM, SYSTEM, USER, ASSISTANT], "message 2 is the system's, needs the user's there"),
        ([USER, ASSISTANT, ASSISTANT], "message 3 is the assistant's, needs the user's there"),
        ([SYSTEM], "the last message is the system's, needs the assistant's there"),
        ([USER, ASSISTANT, USER], "the last message is the user's, needs the assistant's there"),
    ):
        assert refusal(lambda given=messages: check_messages(given, "a.jsonl", 7)) == f"a.jsonl, row 7: {said}"
    message = refusal(lambda: check_messages([USER, ASSISTANT], "a.jsonl", 7, last="user"))
    assert message == "a.jsonl, row 7: the last message is the assistant's, needs the user's there"
