from __future__ import annotations

import io

import pytest

from peftlit.data.lines import decode_lines, iterate_lines
from tests.data.helpers import refusal


@pytest.mark.parametrize(
    ("written", "lines"),
    [
        (b"", []),
        (b"one", ["one"]),
        (b"one\r\ntwo\r\n", ["one", "two"]),
        (b"one\n\n \ntwo\n", ["one", "", " ", "two"]),
        (b"\xef\xbb\xbfone\ntwo", ["one", "two"]),
        ("é\u2028日本\x0b\x85\n".encode(), ["é\u2028日本\x0b\x85"]),
    ],
)
def test_lines_end_with_line_feeds_alone_and_come_without_them(tmp_path, written, lines):
    path = tmp_path / "a.txt"
    path.write_bytes(written)
    assert list(iterate_lines(path)) == lines


def test_a_line_that_is_not_utf8_is_named_and_the_file_closed_behind_it():
    file = io.BytesIO(b"one\n\xff\n")
    lines = decode_lines(file, "standard input")
    assert next(lines) == "one"
    assert refusal(lambda: next(lines)).startswith("standard input, line 2: byte 0xff is not UTF-8; convert it: iconv")
    assert file.closed
