"""Fixtures that all tests share: everything offline, every file in a temporary folder."""

from __future__ import annotations

import json
import logging
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # with a thread per core in each, worker processes would wait for one another
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; their subprocesses inherit it
from tests import device, fork_server, tiny
from tests.contracts.outcomes import Outcomes

# what is said at import comes out at the very end, and pytest's closing line has to be the last one
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

SHARED_VARIABLE = "PEFTLIT_SHARED"
"""Names a folder with real data sets (``data/sst2`` ...) and models; tests that need it skip without."""


def pytest_configure(config: pytest.Config) -> None:
    """Collect what becomes docs/families.md, in the process that worker processes report to where there are any."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Outcomes())


@pytest.fixture(scope="session", autouse=True)
def _own_dataset_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep cached rows out of the user's cache."""
    import datasets

    folder = tmp_path_factory.mktemp("datasets")
    datasets.config.HF_DATASETS_CACHE = folder
    os.environ["HF_DATASETS_CACHE"] = str(folder)


@pytest.fixture(scope="session", autouse=True)
def _fork_servers(_own_dataset_cache: None) -> Iterator[None]:
    """Check reloads in forks of a process that has imported plain transformers + peft: see :mod:`tests.fork_server`."""
    with fork_server.serving():
        fork_server.check_reloads_in_forks()
        yield


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
    return cache(lambda family: tiny.write_model(tmp_path_factory.mktemp(family), family))


@pytest.fixture(scope="session")
def language_folder(tmp_path_factory: pytest.TempPathFactory):
    """Return a function that writes a tiny language model once, its head included, and gives its folder."""

    @cache
    def get(family: str, initializer_range: float = 0.1) -> Path:  # large enough for answers to differ
        folder = tmp_path_factory.mktemp(f"language-{family}")
        return tiny.write_model(folder, family, language_head=True, initializer_range=initializer_range)

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
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    return folder


@pytest.fixture
def settings(model_folder, toy_data: Path) -> dict[str, Any]:
    """A small complete configuration: tiny BERT, LoRA, toy data, two epochs. Change it and hand it to ``fit``."""
    return small_settings(model_folder("bert"), toy_data)


def small_settings(backbone: Path, data: Path) -> dict[str, Any]:
    """Make the content of ``settings``, anew each time."""
    return {
        "model": {
            "class_path": "SequenceClassification",
            "init_args": {
                "backbone": {"name_or_path": str(backbone)},
                "adapter": {
                    "class_path": "peft.LoraConfig",
                    "init_args": {"r": 4, "lora_alpha": 8, "target_modules": ["query", "value"]},
                },
                "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 5e-3}},
                "scheduler": {"class_path": "LinearWarmup", "init_args": {"warmup_ratio": 0.1}},
            },
        },
        "data": {"class_path": "SST2", "init_args": {"data_dir": str(data), "batch_size": 8, "max_length": 32}},
        "trainer": {
            "max_epochs": 2,
            "accelerator": device.current,
            "callbacks": [{"class_path": "ModelCheckpoint", "init_args": {"monitor": "val/f1", "mode": "max"}}],
        },
    }


def change(settings: dict[str, Any], path: str, value: object) -> None:
    """Set the value at a dotted path of nested settings."""
    *parents, last = path.split(".")
    for key in parents:
        settings = settings[key]
    settings[last] = value


@pytest.fixture
def write_config(tmp_path: Path):
    """Return a function that writes settings to a YAML file and gives its path."""

    def write(settings: dict[str, object], name: str = "config.yaml") -> Path:
        path = tmp_path / name
        path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        return path

    return write


@pytest.fixture
def peftlit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """A command line in this process, in an empty folder: ``peftlit(...)``, or where it has to succeed ``.ok(...)``."""
    from peftlit.__main__ import main

    monkeypatch.chdir(tmp_path)

    class CommandLine:
        def __call__(self, *arguments: object) -> tuple[int, str, str]:
            """Return exit code, stdout and stderr."""
            capsys.readouterr()
            try:
                code = main([str(a) for a in arguments])
            except SystemExit as stop:  # argparse's own --help and --print_config
                code = int(stop.code or 0)
            return code, *capsys.readouterr()

        def ok(self, *arguments: object) -> tuple[str, str]:
            """Return stdout and stderr."""
            code, out, err = self(*arguments)
            assert code == 0, err
            return out, err

    return CommandLine()


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def errors_of(err: str) -> list[str]:
    """The error lines of what went to stderr."""
    return [line for line in err.splitlines() if line.startswith("peftlit: error: ")]


def run_in_process(
    folder: Path, *arguments: object, code: str | None = None, fresh: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a command line in a process of its own: a fork, or a ``fresh`` one, as a user would.

    ``code`` takes the place of ``-m peftlit``.
    """
    start = ["-m", "peftlit"] if code is None else ["-c", code]
    command = [sys.executable, *start, *map(str, arguments)]
    run = subprocess.run if fresh else fork_server.run
    return run(command, cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope="session")
def finished_settings(model_folder, toy_data: Path) -> dict[str, Any]:
    """A run of tiny BERT with NF4, LoRA, 8-bit AdamW and accumulation."""
    settings = small_settings(model_folder("bert"), toy_data)
    model, trainer = settings["model"]["init_args"], settings["trainer"]
    model["backbone"]["quantization"] = "nf4-double"
    model["optimizer"]["class_path"] = "peftlit.plugins.PagedAdamW8bit"
    model["scheduler"] = {"class_path": "CosineWarmup", "init_args": {"num_warmup_steps": 2}}
    trainer |= {"max_epochs": 3, "accelerator": "cpu", "accumulate_grad_batches": 2, "log_every_n_steps": 2}
    return settings


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, finished_settings):
    """One finished run of ``finished_settings``: (folder, its process)."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "config.yaml").write_text(yaml.safe_dump(finished_settings), encoding="utf-8")
    done = run_in_process(folder, "fit", "--config", "config.yaml")
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "001", done
