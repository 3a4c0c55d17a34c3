"""Read texts to be answered, one after the other, from files of any size or from standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from peftlit.data.checks import check_columns, check_text
from peftlit.data.files import iterate_rows, require_file
from peftlit.data.lines import decode_lines, iterate_lines
from peftlit.data.messages import Message, check_messages

STANDARD_INPUT = "-"


def stream_texts(
    file: str, text_column: str, text_pair_column: str | None
) -> Iterator[str | tuple[str, str] | list[Message]]:
    """Return an iterator over a file's texts in order, which never holds the whole file.

    Args:
        file: A ``.txt`` file with a text per line, a ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet`` file, or ``-``
            for standard input with a text per line.
        text_column: Column with the text, or with a list of messages; not used for plain lines.
        text_pair_column: Column with the second text of a pair.

    Raises:
        DataError: The file cannot be read, or a row holds no text; with file and row.
    """
    if file == STANDARD_INPUT:
        return decode_lines(sys.stdin.buffer, "standard input")
    path = Path(file)
    require_file(path)
    if path.suffix.lower() == ".txt":
        return iterate_lines(path)
    return _rows(path, [text_column, *([text_pair_column] if text_pair_column else [])])


def _rows(path: Path, columns: list[str]) -> Iterator[str | tuple[str, str] | list[Message]]:
    for row, values in enumerate(iterate_rows(path), 1):
        check_columns(list(values), columns, f"{path}, row {row}")
        texts = [values[column] for column in columns]
        if len(texts) == 1 and isinstance(texts[0], list):
            check_messages(texts[0], str(path), row, last="user")
        else:
            for column, text in zip(columns, texts, strict=True):
                check_text(text, column, str(path), row)
        yield texts[0] if len(texts) == 1 else (texts[0], texts[1])
