"""P17: killed anywhere and resumed, a run sees the same rows, the same losses, and ends in the same bits."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from peftlit.data.base import TextDataModule
from tests.conftest import run_in_process
from tests.contracts import interruptions

pytestmark = pytest.mark.slow

BATCHES = 12
"""Batches of 8 rows in an epoch of 96."""

STORED: dict[str, dict[str, Any]] = {
    "float32": {"trainer": {"precision": "32-true"}},
    "bfloat16": {"trainer": {"precision": "bf16-mixed"}},
    "nf4, 8-bit AdamW": {
        "trainer": {"precision": "bf16-mixed"},
        "backbone": {"quantization": "nf4-double"},
        "optimizer": {"class_path": "peftlit.plugins.PagedAdamW8bit", "init_args": {"lr": 5e-3}},
        "workers": 2,
    },
}
POSITIONS = {
    "inside a window": 5,
    "on the last batch of an epoch": BATCHES,
    "on the first batch of the second epoch": BATCHES + 1,
    "in the second epoch": BATCHES + 6,
}


def write(folder: Path, settings: dict[str, Any], stored: dict[str, Any]) -> None:
    """A run of two epochs with windows of two, whose adapter is large enough for 8-bit states, saved at every step."""
    model = settings["model"]["init_args"]
    model["adapter"]["init_args"] |= {"r": 32, "lora_dropout": 0.1}
    model["backbone"] |= stored.get("backbone", {})
    model["optimizer"] = stored.get("optimizer", model["optimizer"])
    settings["data"]["init_args"]["num_workers"] = stored.get("workers", 0)
    callbacks = [
        {"class_path": "ModelCheckpoint", "init_args": {"every_n_train_steps": 1, "save_top_k": -1}},
        {"class_path": "interruptions.KillAt"},
        {"class_path": "interruptions.Trace"},
    ]
    settings["trainer"] |= {"accumulate_grad_batches": 2, "callbacks": callbacks, **stored["trainer"]}
    folder.mkdir()
    shutil.copy(interruptions.__file__, folder)
    (folder / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")


def run(folder: Path, *more: str, kill_at: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "peftlit", "fit", "--config", "config.yaml", "--run_dir=run", *more]
    environment = {**os.environ, "KILL_AT": str(kill_at)}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)


def trace(folder: Path) -> dict[str, str]:
    """What every batch was and gave, the last time it was seen."""
    lines = (folder / "trace.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split(" ", 1) for line in lines)


def weights(folder: Path) -> str:
    return json.loads((folder / "run/metrics.json").read_text())["trainable_sha256"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return a function that gives an uninterrupted run of a kind, made once."""
    made: dict[str, Path] = {}

    def get(kind: str, settings: dict[str, Any]) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("whole") / "run"
            write(made[kind], settings, STORED[kind])
            done = run(made[kind])
            assert done.returncode == 0, done.stderr
        return made[kind]

    return get


def contract_killed_and_resumed_ends_the_same(whole: Path, folder: Path, kill_at: int) -> None:
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("run", "trace.txt"))
    killed = run(folder, kill_at=kill_at)
    assert killed.returncode == -signal.SIGKILL
    assert len(trace(folder)) in (kill_at, kill_at - 1)
    resumed = run(folder, "--ckpt_path=last")
    assert resumed.returncode == 0, resumed.stderr
    assert trace(folder) == trace(whole)
    assert weights(folder) == weights(whole)


CASES = [
    *[("nf4, 8-bit AdamW", position) for position in POSITIONS],
    ("float32", "inside a window"),
    ("bfloat16", "in the second epoch"),
]


@pytest.mark.parametrize(("kind", "position"), CASES)
def test_p17_killed_and_resumed_is_as_if_never_interrupted(kind, position, whole, settings, tmp_path):
    contract_killed_and_resumed_ends_the_same(whole(kind, settings), tmp_path / "killed", POSITIONS[position])


def test_p17_goes_red_when_the_place_in_the_epoch_is_lost(whole, settings, tmp_path):
    before = whole("float32", settings)
    folder = tmp_path / "killed"
    shutil.copytree(before, folder, ignore=shutil.ignore_patterns("run", "trace.txt"))
    assert run(folder, kill_at=5).returncode == -signal.SIGKILL
    forget = (
        "import sys\nfrom peftlit.data.base import TextDataModule\n"
        "TextDataModule.load_state_dict = lambda self, state: None\n"
        "from peftlit.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    )
    assert TextDataModule.load_state_dict
    done = run_in_process(folder, "fit", "--config=config.yaml", "--run_dir=run", "--ckpt_path=last", code=forget)
    assert done.returncode == 0, done.stderr
    assert trace(folder) != trace(before)
    assert weights(folder) != weights(before)
