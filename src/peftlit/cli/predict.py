"""``peftlit predict``: one text, a file, or standard input in; JSON lines out, in the order of the input."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from peftlit.cli import console
from peftlit.cli.parser import Parser
from peftlit.data.messages import Question
from peftlit.data.texts import stream_texts
from peftlit.errors import ConfigError
from peftlit.export.generator import Generator
from peftlit.export.load import load, text_columns
from peftlit.files import open_aside

log = logging.getLogger(__name__)

_REPORT_EVERY = 10_000
"""Texts between two lines of progress where there is no terminal."""

_USAGE = 'peftlit predict --run_dir RUN --text "A text" | --file FILE | --file -  [--output FILE.jsonl]'


def predict(
    run_dir: str,
    text: str | None = None,
    file: str | None = None,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    output: str | None = None,
    batch_size: int = 32,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> None:
    """Answer texts with the weights of a finished run.

    Args:
        run_dir: The run, or a copy of its ``adapter/`` folder.
        text: One text.
        file: A file with a text per line (.txt) or row (.csv, .tsv, .jsonl, .parquet); ``-`` = standard input.
        text_column: Column with the text, or with a list of messages for a model of conversations; unset = the column
            that it was trained on, or else ``text``.
        text_pair_column: Column with the second text of a pair; unset = that of the training rows, if they had one.
        output: Write here instead of to standard output; the file appears when it is complete.
        batch_size: Texts per batch.
        max_new_tokens: Tokens of an answer at most, where a language model continues texts.
        temperature: Randomness of sampling; 0 = always the likeliest token.
        device: A torch device; unset = the accelerator where there is one.
        trust_remote_code: Run Python code that comes with the backbone.

    Raises:
        PeftlitError: The run, a setting or a text is wrong.
    """
    if (text is None) == (file is None):
        raise ConfigError(f"predict: needs --text or --file, one of the two; usage: {_USAGE}")
    bounds = (("batch_size", batch_size, 1), ("max_new_tokens", max_new_tokens, 1), ("temperature", temperature, 0))
    for name, value, least in bounds:
        if value < least:
            raise ConfigError(f"--{name}: got {value}, needs {least} or more")
    texts: Iterator[Question] = iter([text] if text is not None else [])
    if file is not None:
        column, *pair_column = text_columns(run_dir)
        texts = stream_texts(file, text_column or column, text_pair_column or next(iter(pair_column), None))
    first = list(islice(texts, 1))  # an error in the file shows before weights load
    with _sink(output) as sink, _progress(sink) as advance:
        predictor = load(run_dir, device=device, trust_remote_code=trust_remote_code)
        if isinstance(predictor, Generator):
            predictor.max_new_tokens, predictor.temperature = max_new_tokens, temperature
        started, row = time.perf_counter(), 0
        for row, answer in enumerate(predictor.stream(chain(first, texts), batch_size), 1):
            sink.write(json.dumps({"row": row, **answer}, ensure_ascii=False) + "\n")
            advance(row)
    seconds = time.perf_counter() - started
    log.info("answered %s texts (%.0f a second)%s", f"{row:,}", row / seconds, f" into {output}" if output else "")


@contextmanager
def _sink(output: str | None) -> Iterator[TextIO]:
    """Open standard output, or a file that takes its name when it is complete."""
    if output is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    path = Path(output)
    if not path.parent.is_dir():
        raise ConfigError(f"--output {path}: there is no folder {path.parent}")
    try:
        with open_aside(path) as file:
            yield file
    except OSError as error:
        if error.filename is not None and Path(os.fsdecode(error.filename)).parent != path.parent:
            raise
        raise ConfigError(f"--output {path}: cannot be written ({error.strerror})") from error


@contextmanager
def _progress(sink: TextIO) -> Iterator[Any]:
    """Show progress, live on a terminal, in lines elsewhere: the function takes the number of each row."""
    bars = sys.stderr.isatty() and not (sink is sys.stdout and sink.isatty())
    columns = (SpinnerColumn(), TextColumn("{task.completed:,} texts"), TimeElapsedColumn())
    live = Progress(*columns, console=Console(stderr=True), transient=True) if bars else None
    task = live.add_task("predict", total=None) if live else None

    def advance(row: int) -> None:
        if live is not None and task is not None:
            live.update(task, completed=row)
        elif row % _REPORT_EVERY == 0:
            log.info("%s texts", f"{row:,}")

    with live or nullcontext():
        yield advance


def run(arguments: Sequence[str]) -> None:
    """Parse a command line, ``predict`` first, and run it.

    Raises:
        PeftlitError: Anything that the user can fix.
    """
    console.quiet_libraries()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    Parser.command_line = arguments
    parser = Parser(prog="peftlit predict", usage=_USAGE, allow_abbrev=False, description="")
    parser.add_function_arguments(predict, as_group=False)
    settings = parser.parse_args(list(arguments[1:]))
    try:
        predict(**settings.as_dict())
    except BrokenPipeError:  # the reader has enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
