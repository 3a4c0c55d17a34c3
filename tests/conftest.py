"""Fixtures that all tests share: everything offline, every file in a temporary folder."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

from tests import tiny  # noqa: E402  after the environment is set

SHARED_VARIABLE = "PEFTLIT_SHARED"
"""Names a folder with real data sets (``data/sst2`` ...) and models; tests that need it skip without."""


@pytest.fixture(scope="session", autouse=True)
def _own_dataset_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep cached rows out of the user's cache."""
    import datasets

    folder = tmp_path_factory.mktemp("datasets")
    datasets.config.HF_DATASETS_CACHE = folder
    os.environ["HF_DATASETS_CACHE"] = str(folder)


@pytest.fixture
def shared() -> Path:
    """The folder with real data; skips where there is none."""
    folder = os.environ.get(SHARED_VARIABLE)
    if not folder:
        pytest.skip(f"needs real data: set {SHARED_VARIABLE} to a folder that has data/ and models/")
    return Path(folder)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory):
    """Return a function that writes a tiny model of a family once and gives its folder."""
    folders: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in folders:
            folders[family] = tiny.write_model(tmp_path_factory.mktemp(family), family)
        return folders[family]

    return get


def toy_rows(count: int, seed: int = 0) -> list[dict[str, object]]:
    """Texts whose label follows from their words, of uneven lengths, all distinct."""
    chance = random.Random(seed)
    good, bad = ["good", "great", "superb", "loved", "enjoyed"], ["bad", "poor", "awful", "hated", "dull"]
    filler = [w for w in tiny.WORDS if w.isalpha() and w not in good + bad]
    rows: dict[str, int] = {}
    while len(rows) < count:
        label = len(rows) % 2
        words = [chance.choice(good if label else bad), *chance.choices(filler, k=chance.randint(2, 20))]
        chance.shuffle(words)
        rows.setdefault(" ".join(words), label)
    return [{"text": text, "label": label} for text, label in rows.items()]


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``train.jsonl`` (96 rows), ``validation.jsonl`` (24) and ``test.jsonl`` (30)."""
    folder = tmp_path_factory.mktemp("toy")
    rows = toy_rows(150)
    for name, part in (("train", rows[:96]), ("validation", rows[96:120]), ("test", rows[120:])):
        (folder / f"{name}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in part), encoding="utf-8"
        )
    return folder
