from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest

from peftlit.data import cache

DAY = 24 * 3600.0


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    return tmp_path / "peftlit"


@pytest.fixture
def made(folder) -> Callable[..., Path]:
    """Make an entry as another process would have left it: its bytes, and how many days ago it was used."""

    def make(key: str, days: float = 1, size: int = 100) -> Path:
        file = cache.cache_file([key])
        file.write_bytes(b"x" * size)
        os.utime(file.parent, (time.time() - days * DAY,) * 2)
        return file

    return make


@pytest.fixture
def forget(folder) -> Callable[[], None]:
    """Begin as a new process that uses nothing; the one before has ended."""

    def end() -> None:
        process = cache._processes.pop(folder)
        process._end(os.getpid())

    return end


def test_what_was_not_used_for_long_is_removed_with_one_line(made, forget, caplog):
    old, older, young = made("old", 31), made("older", 45), made("young", 29)
    forget()
    with caplog.at_level(logging.INFO, "peftlit"):
        cache.clean_cache()
    assert [file.exists() for file in (old, older, young)] == [False, False, True]
    assert not old.parent.exists()
    (line,) = caplog.messages
    assert line.startswith("cache: removed 2 sets of rows not used lately")


def test_nothing_removed_is_nothing_said(made, forget, caplog):
    made("young")
    forget()
    with caplog.at_level(logging.INFO, "peftlit"):
        cache.clean_cache()
    assert not caplog.messages


def test_the_least_recently_used_go_until_the_rest_fits(made, forget, monkeypatch):
    files = {days: made(f"{days} days", days) for days in (2, 5, 3, 4)}
    forget()
    monkeypatch.setattr(cache, "MAX_BYTES", 250)
    cache.clean_cache()
    assert {days for days, file in files.items() if file.exists()} == {2, 3}


def test_to_ask_for_a_file_is_to_use_it(made, forget, monkeypatch):
    files = {days: made(f"{days} days", days) for days in (2, 5)}
    forget()
    assert cache.cache_file(["5 days"]) == files[5]
    forget()
    monkeypatch.setattr(cache, "MAX_BYTES", 150)
    cache.clean_cache()
    assert {days for days, file in files.items() if file.exists()} == {5}


def test_what_this_process_uses_stays_however_old_and_large(made, monkeypatch):
    file = made("mine", 99)
    monkeypatch.setattr(cache, "MAX_BYTES", 1)
    cache.clean_cache()
    assert file.exists()


def test_what_another_living_process_uses_stays_and_goes_when_it_has_been_killed(made, forget, folder, monkeypatch):
    file = made("theirs", 99)
    own = cache.private_file()
    own.write_bytes(b"x")
    another = cache._processes.pop(folder)
    monkeypatch.setattr(cache, "MAX_BYTES", 1)
    cache.clean_cache()
    assert file.exists()
    assert own.exists()
    forget()
    another._alive.release()  # as the system does when a process is killed
    cache.clean_cache()
    assert not file.exists()
    assert not own.exists()
    assert not list(folder.glob(f"{another.name}*"))


def test_a_process_cleans_once(made, forget):
    first = made("first", 99)
    forget()
    cache.clean_cache()
    assert not first.exists()
    second = made("second", 99)
    cache._this_process()._list.write_text("")
    cache.clean_cache()
    assert second.exists()


def test_files_of_older_versions_go_and_strangers_stay(folder, forget, made):
    made("new")
    old, strange = folder / "0123.arrow", folder / "notes.txt"
    for file in (old, strange):
        file.write_text("x")
        os.utime(file, (0, 0))
    forget()
    cache.clean_cache()
    assert not old.exists()
    assert strange.exists()


def test_a_process_that_ends_leaves_nothing_of_its_own(tmp_path):
    code = (
        "import datasets, pathlib, sys; datasets.config.HF_DATASETS_CACHE = pathlib.Path(sys.argv[1]); "
        "from peftlit.data.table import make_rows; print(make_rows({'a': [1]}).cache_files[0]['filename'])"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert Path(ended.stdout.strip()).is_relative_to(tmp_path)
    assert [file.name for file in (tmp_path / "peftlit").iterdir() if file.name != "cache.lock"] == []
