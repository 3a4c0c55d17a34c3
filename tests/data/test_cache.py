from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest

from peftlit.data import cache, table
from peftlit.data.table import make_rows
from peftlit.errors import DataError

DAY = 24 * 3600.0


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    return tmp_path / "peftlit"


@pytest.fixture
def made(folder) -> Callable[..., Path]:
    """Make an entry as another process would have left it: its bytes, and how many days ago it was used."""

    def make(key: str, days: float = 1.5, size: int = 100) -> Path:
        file = cache.cache_file([key])
        file.write_bytes(b"x" * size)
        os.utime(file.parent, (time.time() - days * DAY,) * 2)
        return file

    return make


def test_what_was_not_used_for_long_is_removed_with_one_line(made, folder, caplog):
    old, older, young = made("old", 31), made("older", 45), made("young", 29)
    of_an_older_version, strange = folder / "0123.arrow", folder / "notes.txt"
    for file in (of_an_older_version, strange):
        file.write_text("x")
        os.utime(file, (0, 0))
    with caplog.at_level(logging.INFO, "peftlit"):
        cache.clean_cache()
        again = made("again", 99)
        cache.clean_cache()
    assert [file.exists() for file in (old, older, of_an_older_version, young, strange)] == [False] * 3 + [True] * 2
    assert again.exists(), "a process cleans once"
    (line,) = caplog.messages
    assert line.startswith("cache: removed 3 sets of rows not used lately")


def test_the_least_recently_used_go_until_the_rest_fits_and_nothing_is_said_of_nothing(made, monkeypatch, caplog):
    files = {days: made(f"{days} days", days) for days in (2, 5, 3, 4)}
    assert cache.cache_file(["5 days"]) == files[5]  # to ask for a file is to use it
    os.utime(files[5].parent, (time.time() - 1.5 * DAY,) * 2)
    monkeypatch.setattr(cache, "MAX_BYTES", 250)
    cache.clean_cache()
    assert {days for days, file in files.items() if file.exists()} == {2, 5}
    with caplog.at_level(logging.INFO, "peftlit"):
        cache._clean.__wrapped__(cache._folder(), 0)
    assert not caplog.messages


def test_what_is_in_use_stays_and_what_is_mapped_can_be_read_without_its_file(made, folder, monkeypatch):
    monkeypatch.setattr(cache, "MAX_BYTES", 1)
    new = made("new", 0.5)
    rows = make_rows({"a": range(5000)})
    for entry in folder.glob("process-*"):
        os.utime(entry, (0, 0))
    cache.clean_cache()
    assert new.exists()
    assert not Path(rows.cache_files[0]["filename"]).exists()
    assert rows["a"][:] == list(range(5000))
    assert make_rows({"a": [1]})["a"][:] == [1]


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path, folder, monkeypatch):
    folder.write_text("in the way")
    with pytest.raises(DataError, match=f"^{folder}: rows cannot be cached .*; set HF_DATASETS_CACHE"):
        cache.cache_file(["any"])
    folder.unlink()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(table, "_widened", full)
    with pytest.raises(DataError, match="rows cannot be cached .No space left on device.; free some space"):
        make_rows({"a": [1]})


def test_entries_that_go_meanwhile_are_no_error(made, folder, monkeypatch):
    made("old", 99)
    (folder / "broken").symlink_to(folder / "nowhere")
    found = list(cache._entries(folder))
    monkeypatch.setattr(cache, "_entries", lambda _: [*found, (0.0, 1, folder / "gone")])
    cache.clean_cache()
    assert not [entry for _, _, entry in found if entry.exists()]


def test_a_process_that_ends_leaves_nothing_of_its_own_and_its_forked_children_remove_nothing(folder, monkeypatch):
    at_exit: list[Callable[[], None]] = []
    monkeypatch.setattr(cache.atexit, "register", at_exit.append)
    file = Path(make_rows({"a": [1]}).cache_files[0]["filename"])
    (end,) = at_exit
    with monkeypatch.context() as forked:
        forked.setattr(os, "getpid", lambda: 0)
        end()
    assert file.is_relative_to(folder)
    assert file.exists()
    end()
    assert not list(folder.iterdir())
