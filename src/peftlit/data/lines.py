"""Read plain text line by line, with errors that name the line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from peftlit.errors import DataError


def iterate_lines(path: str | Path) -> Iterator[str]:
    """Read a plain text file line by line, without the line breaks."""
    return decode_lines(Path(path).open("rb"), str(path))


def decode_lines(file: BinaryIO, source: str) -> Iterator[str]:
    """Decode lines, and close the file behind the last one.

    Raises:
        DataError: Naming the line that is not UTF-8.
    """
    with file:
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{source}, line {number}: byte 0x{error.object[error.start]:02x} is not UTF-8; convert it: "
                    "iconv -f WINDOWS-1252 -t UTF-8"
                ) from error
            yield text.rstrip("\r\n")
