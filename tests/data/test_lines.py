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
        (b"one\n", ["one"]),
        (b"one\ntwo", ["one", "two"]),
        (b"one\r\ntwo\r\n", ["one", "two"]),
        (b"one\n\n \ntwo\n", ["one", "", " ", "two"]),
        (b"\xef\xbb\xbfone\ntwo\n", ["one", "two"]),
        ("é\u2028日本\x0b\x85\n".encode(), ["é\u2028日本\x0b\x85"]),
    ],
)
def test_lines_end_with_line_feeds_alone_and_come_without_them(tmp_path, written, lines):
    path = tmp_path / "a.txt"
    path.write_bytes(written)
    assert list(iterate_lines(path)) == lines


@pytest.mark.parametrize(
    ("written", "place"),
    [
        (b"caf\xe9\n", "line 1: byte 0xe9"),
        (b"one\ntwo\nna\xefve", "line 3: byte 0xef"),
        ("one\n".encode("utf-16"), "line 1: byte 0xff"),
    ],
)
def test_a_line_that_is_not_utf8_is_named(tmp_path, written, place):
    path = tmp_path / "a.txt"
    path.write_bytes(written)
    assert refusal(lambda: list(iterate_lines(path))).startswith(f"{path}, {place} is not UTF-8; convert it")


def test_standard_input_is_called_by_its_name_and_closed_behind_the_last_line():
    file = io.BytesIO(b"one\n\xff\n")
    lines = decode_lines(file, "standard input")
    assert next(lines) == "one"
    assert refusal(lambda: next(lines)).startswith("standard input, line 2: byte 0xff")
    assert file.closed
